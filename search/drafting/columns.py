"""Which columns of a data file are read, where the user has not named them all."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from fold_search.objectives.data.class_folders import FILE, FOLDER, is_class_folders
from fold_search.objectives.data.dataset import read_chunks
from fold_search.objectives.data.image_root import ImageFiles
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError
from fold_search.search.drafting.survey import readable
from fold_search.search.errors import ConfigError

HEAD_ROWS = 20
MOST_COLUMNS = 30
EXAMPLES = 3
LONGEST_EXAMPLE = 30
TRIED_IMAGES = 5
MOST_PLACES = 50


def find_columns(
    path: Path,
    *,
    label: str | None,
    text: tuple[str, ...],
    image: str | None,
    show: Callable[[Table], None],
    **others: Any,
) -> DataSpec:
    """Return what is read of a file, a folder or a zip file of images; `others` are further fields of DataSpec.

    Relations are known by the names of their columns; images that lie beside a table are found. Raises DataError if the
    file cannot be read, ConfigError if it is not clear what is to be read; its columns are shown before.
    """
    if not text and is_class_folders(path):
        label, image = label or FOLDER, image or FILE
    if text and image:
        raise ConfigError("--text and --image: found both, expected one of them")
    relation = None
    if label is None or not (text or image):
        head = _head(path, others)
        relation = RelationSpec() if {*RelationSpec().columns} <= {*head.columns} and not (text or image) else None
        if label is None or not (text or image or relation):
            missing = [] if label else ["--label"]
            missing += [] if text or image or relation else ["--text (or --image)"]
            show(_table(head, path))
            raise ConfigError(f"expected {' and '.join(missing)}: the names of columns of {path}")
    spec = DataSpec(path=path, label=label, text=text, image=image, relation=relation, **others)
    if image and spec.images is None and not is_class_folders(path) and (place := _images(spec)):
        spec = spec.model_copy(update={"images": place})
    return spec


def _head(path: Path, others: dict[str, Any]) -> pd.DataFrame:
    """Return the first rows; raises DataError."""
    unread = DataSpec(path=path, label="", text=("",), **others)
    return next(iter(read_chunks(unread, rows=HEAD_ROWS))).table


def _table(head: pd.DataFrame, path: Path) -> Table:
    """Show the columns, each with a few of its values."""
    table = Table("column", "first values", title=f"columns of {path}", title_justify="left")
    for name in head.columns[:MOST_COLUMNS]:
        table.add_row(readable(str(name)), _examples(head[name]))
    if len(head.columns) > MOST_COLUMNS:
        table.add_row(f"{len(head.columns) - MOST_COLUMNS} more", "")
    return table


def _examples(cells: pd.Series) -> str:
    values = list(dict.fromkeys(str(cell) for cell in cells if str(cell).strip()))
    return " | ".join(readable(value, longest=LONGEST_EXAMPLE) for value in values[:EXAMPLES])


def _images(spec: DataSpec) -> Path | None:
    """Return where the images are, if it is not beside the table: a folder or zip file that lies there."""
    paths = _head(spec.path, {"encoding": spec.encoding, "quotes": spec.quotes}).get(spec.image)
    if paths is None:
        return None
    tried = [str(path) for path in paths[:TRIED_IMAGES]]
    if all((spec.path.parent / path).is_file() for path in tried):
        return None
    return next((place for place in _places(spec.path.parent) if _are_in(place, tried)), None)


def _places(folder: Path) -> Iterator[Path]:
    places = (place for place in sorted(folder.iterdir()) if place.is_dir() or place.suffix.lower() == ".zip")
    yield from islice(places, MOST_PLACES)


def _are_in(place: Path, paths: list[str]) -> bool:
    try:
        files = ImageFiles(place)
        for path in paths:
            files.stamp(path)
    except (OSError, KeyError, ValueError, DataError):
        return False
    return True
