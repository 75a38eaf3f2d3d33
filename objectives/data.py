"""From the user's file to the rows that are trained on: texts, labels, and which rows are duplicates of each other."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from objectives.errors import DataError
from objectives.tables import Format, format_of, read_file

NUM_ROWS_NAMED = 5


def _as_tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    # In strict mode a list from JSON would otherwise be no tuple.
    return tuple(value) if isinstance(value, list) else value


class DataSpec(BaseModel):
    """Where the rows are and which columns count: the study file's `data:` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="CSV, TSV, JSONL or Parquet, UTF-8, each also gzipped.")
    label: str = Field(description="The column with the class of a row.")
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        min_length=1, description="The column with the text, or several that are joined."
    )
    separator: str = Field(" ", description="What stands between the joined columns; empty cells are left out.")
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = Field(
        None, description="The file's format; null tells it from the name."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The rows of one file, in its order."""

    texts: Sequence[str]
    labels: NDArray[np.int64]  # (rows,): an index into label_names
    label_names: Sequence[str]  # sorted
    rows: NDArray[np.int64]  # (rows,): the number of the data row in the file, from 1
    groups: NDArray[np.int64]  # (rows,): equal texts share one, apart from case and white space
    fingerprint: str  # sha256 of texts and labels, whatever the file's format

    @property
    def num_empty_texts(self) -> int:
        """Rows without any text; they stay, and share one group."""
        return sum(not text.strip() for text in self.texts)


def read_table(spec: DataSpec) -> pd.DataFrame:
    """Return all columns of the file, every cell as text, a missing one as ""; one row for each data row.

    Nested cells (lists, objects) are kept as they are: `require_columns` refuses them where a column is used.

    Raises DataError if the file is missing, damaged, ragged, not UTF-8, or has no data rows.
    """
    table = read_file(spec.path, file_format=_format(spec))
    if table.empty:
        raise DataError(f"{spec.path}: there are no data rows")
    return table


def join_text(table: pd.DataFrame, spec: DataSpec) -> list[str]:
    """Return each row's text columns joined, empty cells left out; raises DataError if a column is missing."""
    require_columns(table, spec.text, spec=spec)
    columns = [table[name].tolist() for name in spec.text]
    return [spec.separator.join(filter(None, cells)) for cells in zip(*columns, strict=True)]


def read_dataset(spec: DataSpec) -> Dataset:
    """Read the rows; raises DataError as read_table does, and for missing columns, empty labels or a single class."""
    table = read_table(spec)
    require_columns(table, (spec.label, *spec.text), spec=spec)
    texts = join_text(table, spec)
    named_labels = table[spec.label].tolist()
    _refuse_empty_labels(named_labels, spec)
    label_names, labels = np.unique(np.array(named_labels, dtype=object), return_inverse=True)
    if len(label_names) == 1:
        raise DataError(
            f"{spec.path}: column {spec.label!r} holds one class only ({label_names[0]!r}); at least two are needed"
        )
    return Dataset(
        texts=texts,
        labels=labels.astype(np.int64),
        label_names=tuple(label_names),
        rows=np.arange(1, len(texts) + 1, dtype=np.int64),
        groups=group_texts(texts),
        fingerprint=_fingerprint(zip(texts, named_labels, strict=True)),
    )


def group_texts(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for each text, the same for those that differ in case and white space only."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(" ".join(text.lower().split()), len(numbers)) for text in texts], np.int64)


def require_columns(table: pd.DataFrame, names: Iterable[str], *, spec: DataSpec) -> None:
    """Raise DataError if one of `names` is no column, naming the nearest, or holds anything but text."""
    columns = [str(column) for column in table.columns]
    for name in names:
        if name not in columns:
            nearest = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(map(repr, columns))}"
            raise DataError(f"{spec.path}: there is no column {name!r}; {advice}")
        for row, cell in enumerate(table[name].tolist(), start=1):
            if not isinstance(cell, str):
                raise DataError(
                    f"{spec.path}: column {name!r} holds a {type(cell).__name__} in data row {row}; expected text"
                )


def _format(spec: DataSpec) -> Format:
    file_format = spec.format or format_of(spec.path)
    if file_format is None:
        raise DataError(
            f"{spec.path}: the name does not tell the format; "
            "expected .csv, .tsv, .jsonl or .parquet (each also .gz), or data.format"
        )
    return file_format


def _refuse_empty_labels(named_labels: Sequence[str], spec: DataSpec) -> None:
    empty = [row for row, label in enumerate(named_labels, start=1) if not label.strip()]
    if empty:
        named = ", ".join(map(str, empty[:NUM_ROWS_NAMED]))
        more = f" and {len(empty) - NUM_ROWS_NAMED} more" if len(empty) > NUM_ROWS_NAMED else ""
        rows = "rows" if len(empty) > 1 else "row"
        raise DataError(f"{spec.path}: the label column {spec.label!r} is empty in data {rows} {named}{more}")


def _fingerprint(records: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for text, label in records:
        digest.update(f"{len(text)}:{text}{len(label)}:{label}".encode())
    return digest.hexdigest()
