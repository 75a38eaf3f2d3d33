"""From the user's file to the rows: texts, labels, and which rows are duplicates of each other."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fold_search.objectives.data import tables
from fold_search.objectives.data.class_folders import FOLDER, is_class_folders, read_class_folders
from fold_search.objectives.data.delimited import check_delimiter
from fold_search.objectives.data.image_root import ImageFiles
from fold_search.objectives.data.names import quoted, which_label
from fold_search.objectives.data.same_text import canonical, group_texts, without_invisible
from fold_search.objectives.data.sources import Source, format_of
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.data.tables import Chunk, Repeated, read_file
from fold_search.objectives.errors import DataError, Misread
from fold_search.words import listed, nearest

Labels = NDArray[np.int64] | NDArray[np.float64]

ROWS_PER_CHUNK = 8192
NUM_COLUMNS_NAMED = 30
NUM_STRATA = 10
MIN_STRATUM_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The rows of a file, in its order, without their labels."""

    spec: DataSpec
    texts: Sequence[str]  # the joined text, or an image's path
    columns: Mapping[str, Sequence[str]]  # the cells of each column that is read
    rows: NDArray[np.int64]  # (rows,): the number of the data row in its file, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Content):
    """The rows of the data file, in its order, and after them the extra rows (data.extra)."""

    labels: Labels  # (rows,): an index into label_names, or the number itself
    label_names: Sequence[str]  # sorted; none for numbers
    strata: NDArray[np.int64]  # (rows,): what a stratified split spreads evenly: classes, or ranges of the numbers
    contents: NDArray[np.int64]  # (rows,): rows of the same text or image file share one
    groups: NDArray[np.int64]  # (rows,): rows that stay in one fold share one: by data.group, else by content
    num_extra: int  # how many of the last rows are extra rows
    fingerprint: str  # sha256 of texts and labels, whatever the file's format

    @property
    def num_outputs(self) -> int:
        """What a model of the rows predicts: one number for each class, or the label itself."""
        return 1 if self.spec.task == "regression" else len(self.label_names)


def read_table(spec: DataSpec) -> pd.DataFrame:
    """Return all columns of the file, one row for each data row. Every cell is text; a missing one is "".

    Nested cells (lists, objects) are kept as they are: `require_columns` refuses them if their column is used.

    Raises DataError if the file is missing, damaged, ragged, of another encoding, or has no data rows.
    """
    if _is_class_folders(spec):
        table = read_class_folders(spec.path, labelled=spec.label == FOLDER)
    else:
        table = read_file(_source(spec))
    if table.empty:
        raise DataError(f"{spec.path}: there are no data rows")
    return table


def join_text(table: pd.DataFrame, spec: DataSpec, *, first: int = 1) -> list[str]:
    """Return each row's columns joined, empty cells left out; raises DataError if a column is missing."""
    require_columns(table, spec.columns, spec=spec, first=first)
    return _joined(_cells(table, spec), spec)


def read_chunks(spec: DataSpec, *, rows: int) -> Iterator[Chunk]:
    """Yield the file in chunks of at most `rows`; raises DataError as read_table does, when it reaches the place."""
    if _is_class_folders(spec):
        table = read_table(spec)
        for start in range(0, len(table), rows):
            part = table.iloc[start : start + rows]
            yield Chunk(table=part, first=start + 1, share_read=(start + len(part)) / len(table))
        return
    empty = True
    for chunk in tables.read_chunks(_source(spec), rows=rows):
        empty = False
        yield chunk
    if empty:
        raise DataError(f"{spec.path}: there are no data rows")


def content_of(table: pd.DataFrame, spec: DataSpec, *, first: int = 1) -> Content:
    """Return the rows of a table; its first row has the number `first`. Raises DataError for missing columns."""
    texts = join_text(table, spec, first=first)
    rows = np.arange(first, first + len(texts), dtype=np.int64)
    return Content(spec=spec, texts=texts, columns=_cells(table, spec), rows=rows)


def read_dataset(spec: DataSpec) -> Dataset:
    """Read the rows and the extra rows.

    Raises DataError as read_table does; and for missing columns, for empty labels, for a single class or number, for
    an extra row of a class that no other row has, and for labels that should be numbers and are not.
    """
    parts = [_read_part(spec)] if spec.extra is None else [_read_part(spec), _read_extra(spec, spec.extra)]
    texts = [text for part in parts for text in part.texts]
    labels: Labels
    if spec.task == "regression":
        label_names: tuple[str, ...] = ()
        numbers = np.concatenate([_numbers(part) for part in parts])
        _require_two(numbers[: len(parts[0].labels)].tolist(), kind="number", spec=spec)
        labels, strata = numbers, _strata(numbers, num_rows=len(parts[0].texts))
    else:
        label_names = tuple(sorted(set(parts[0].labels)))
        _require_two(label_names, kind="class", spec=spec)
        labels = strata = np.concatenate([_classes(part, label_names, spec=spec) for part in parts])
    contents = _contents(parts)
    return Dataset(
        spec=spec,
        texts=texts,
        columns={name: [cell for part in parts for cell in part.columns[name]] for name in spec.columns},
        labels=labels,
        label_names=label_names,
        strata=strata,
        rows=np.concatenate([np.arange(1, len(part.texts) + 1, dtype=np.int64) for part in parts]),
        contents=contents,
        groups=contents if spec.group is None else _documents(parts),
        num_extra=len(texts) - len(parts[0].texts),
        fingerprint=_fingerprint(parts),
    )


def read_labels(chunk: Chunk, spec: DataSpec, label_names: Sequence[str]) -> Labels:
    """Return the labels of some rows as indices into label_names, or as the numbers that they are.

    Raises DataError as `require_columns` does, and one that names the first data row with an unknown label.
    """
    require_columns(chunk.table, [spec.label], spec=spec, first=chunk.first)
    are_classes = spec.task == "classification"
    index = {name: number for number, name in enumerate(label_names)}
    labels = chunk.table[spec.label].tolist()
    for row, label in enumerate(labels, start=chunk.first):
        if are_classes and label not in index:
            raise DataError(
                f"{spec.path}: data row {row} is of class {quoted(label)}, which the model does not know; "
                f"{which_label(label, label_names)}"
            )
        if not are_classes and not math.isfinite(_number(label)):
            raise DataError(f"{spec.path}: data row {row} has the label {label!r}, expected a finite number")
    return np.array([index[label] if are_classes else _number(label) for label in labels])


def grouped_texts(columns: Mapping[str, Sequence[str]], spec: DataSpec) -> Iterable[str]:
    """Return the text by which each row is compared with others: of relations the sentence alone."""
    if spec.relation is not None:
        return columns[spec.relation.sentence]
    if len(spec.columns) == 1:
        return columns[spec.columns[0]]
    # A cell of blanks counts as empty.
    rows = zip(*map(columns.__getitem__, spec.columns), strict=True)
    return (spec.separator.join(filter(canonical, row)) for row in rows)


def group_images(paths: Sequence[str], *, spec: DataSpec) -> NDArray[np.int64]:
    """Return a number for each image; files with the same content share one."""
    return _number_names(ImageFiles(spec.image_root).contents(paths))


def require_columns(table: pd.DataFrame, names: Iterable[str], *, spec: DataSpec, first: int = 1) -> None:
    """Raise DataError if one of `names` is not a column, is the name of several, or holds anything but text.

    `first` is the number of the table's first row. The message proposes the nearest name.
    """
    columns = [str(column) for column in table.columns]
    for name in names:
        if name not in columns:
            check_delimiter(spec.path, columns)
            close = nearest(name, columns)
            there = listed(map(repr, columns), most=NUM_COLUMNS_NAMED)
            advice = f"did you mean {close!r}?" if close else f"there are {there}"
            raise DataError(f"{spec.path}: there is no column {name!r}; {advice}")
        if columns.count(name) > 1:
            raise DataError(f"{spec.path}: the header names column {name!r} more than once")
        for row, cell in enumerate(table[name].tolist(), start=first):
            if isinstance(cell, Repeated):
                raise DataError(f"{spec.path}: data row {row} has the key {name!r} more than once")
            if not isinstance(cell, str):
                raise DataError(
                    f"{spec.path}: column {name!r} holds a {type(cell).__name__} in data row {row}; expected text"
                )


def _is_class_folders(spec: DataSpec) -> bool:
    return spec.kind == "image" and spec.format is None and is_class_folders(spec.path)


def _source(spec: DataSpec) -> Source:
    file_format = spec.format or format_of(spec.path)
    if file_format is None:
        raise DataError(
            f"{spec.path}: the name does not tell the format; "
            "expected .csv, .tsv, .jsonl or .parquet (each also .gz), or data.format"
        )
    return Source(path=spec.path, format=file_format, encoding=spec.encoding, quotes=spec.quotes)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one file; the labels as they are written."""

    spec: DataSpec
    texts: list[str]
    columns: dict[str, list[str]]
    labels: list[str]
    groups: list[str]  # the cells of data.group; empty without it


def _read_extra(spec: DataSpec, path: Path) -> _Part:
    if is_class_folders(path):
        raise DataError(
            f"{path}: data.extra is a folder or zip file, expected a table with paths that start where "
            f"those of data.path do, at {spec.image_root}"
        )
    try:
        return _read_part(spec.of_file(path, encoding=spec.encoding))
    except Misread as error:
        if error.setting == "encoding":  # which is data.path's, too
            raise DataError(f"{error}; expected data.path and data.extra in one encoding") from None
        raise


def _read_part(spec: DataSpec) -> _Part:
    grouping = () if spec.group is None else (spec.group,)
    columns = _read_columns(spec, (spec.label, *spec.columns, *grouping))
    for kind, name in zip(("label", "group"), (spec.label, *grouping), strict=False):
        empty = [row for row, cell in enumerate(columns[name], start=1) if not cell.strip()]
        if empty:
            raise DataError(f"{spec.path}: the {kind} column {name!r} is empty in data {_name_rows(empty)}")
    cells = {name: columns[name] for name in spec.columns}
    groups = [cell for name in grouping for cell in columns[name]]
    return _Part(spec, _joined(cells, spec), cells, columns[spec.label], groups)


def _read_columns(spec: DataSpec, names: Iterable[str]) -> dict[str, list[str]]:
    """Return these columns of the whole file. Equal labels are one object, so that they take little memory."""
    columns: dict[str, list[str]] = {name: [] for name in names}
    labels: dict[str, str] = {}
    for chunk in _all_chunks(spec):
        require_columns(chunk.table, columns, spec=spec, first=chunk.first)
        for name, cells in columns.items():
            of_chunk = chunk.table[name].tolist()
            cells += [labels.setdefault(cell, cell) for cell in of_chunk] if name == spec.label else of_chunk
    return columns


def _all_chunks(spec: DataSpec) -> Iterator[Chunk]:
    if _is_class_folders(spec) or _source(spec).format != "jsonl":
        return read_chunks(spec, rows=ROWS_PER_CHUNK)
    # A key may come as late as in the last line.
    return iter([Chunk(table=read_table(spec), first=1, share_read=1.0)])


def _contents(parts: Sequence[_Part]) -> NDArray[np.int64]:
    """Return a number for each row; rows with the same text, or the same image content, share one."""
    if parts[0].spec.kind == "image":
        return group_images([path for part in parts for path in part.texts], spec=parts[0].spec)
    return group_texts(text for part in parts for text in grouped_texts(part.columns, part.spec))


def _documents(parts: Sequence[_Part]) -> NDArray[np.int64]:
    """Return a number for each row; rows of one document share one. Names that look the same count as one document."""
    return _number_names([without_invisible(name) for part in parts for name in part.groups])


def _number_names(names: Sequence[str]) -> NDArray[np.int64]:
    _, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64)


def _joined(cells: Mapping[str, list[str]], spec: DataSpec) -> list[str]:
    if len(spec.columns) == 1:
        return cells[spec.columns[0]]
    return [spec.separator.join(filter(None, row)) for row in zip(*map(cells.__getitem__, spec.columns), strict=True)]


def _cells(table: pd.DataFrame, spec: DataSpec) -> dict[str, list[str]]:
    return {name: table[name].tolist() for name in spec.columns}


def _require_two(values: Iterable[str | float], *, kind: str, spec: DataSpec) -> None:
    different = set(values)
    if len(different) == 1:
        raise DataError(
            f"{spec.path}: column {spec.label!r} holds one {kind} only ({different.pop()!r}); at least two are needed"
        )


def _classes(part: _Part, label_names: Sequence[str], *, spec: DataSpec) -> NDArray[np.int64]:
    """Return each row's index into label_names, the classes of the rows of `spec`."""
    index = {name: number for number, name in enumerate(label_names)}
    for row, label in enumerate(part.labels, start=1):
        if label not in index:
            raise DataError(
                f"{part.spec.path}: data row {row} is of class {quoted(label)}, of which {spec.path} has no row; "
                f"{which_label(label, label_names)}"
            )
    return np.array([index[label] for label in part.labels], np.int64)


def _numbers(part: _Part) -> NDArray[np.float64]:
    numbers = np.array([_number(label) for label in part.labels])
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        found = listed(repr(part.labels[row]) for row in wrong)
        raise DataError(
            f"{part.spec.path}: column {part.spec.label!r} holds no finite number in data {_name_rows(wrong + 1)}: "
            f"{found}; data.task regression needs one in every row"
        )
    return numbers


def _number(cell: str) -> float:
    """Return the number, NaN if the text is not one. A number with underscores, which only Python reads, is not one."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def _strata(numbers: NDArray[np.float64], *, num_rows: int) -> NDArray[np.int64]:
    """Return which tenth of the first num_rows numbers each number lies in; below 200 rows there are fewer parts.

    Equal numbers share a part, and every part has some of the first num_rows.
    """
    own = numbers[:num_rows]
    num_strata = max(1, min(NUM_STRATA, num_rows // MIN_STRATUM_ROWS))
    bounds = np.unique(np.quantile(own, np.arange(1, num_strata) / num_strata, method="inverted_cdf"))
    return np.searchsorted(bounds[bounds < own.max()], numbers).astype(np.int64)


def _name_rows(rows: Sequence[int] | NDArray[np.int64]) -> str:
    return f"{'rows' if len(rows) > 1 else 'row'} {listed(map(str, rows))}"


def _fingerprint(parts: Sequence[_Part]) -> str:
    digest = hashlib.sha256()
    for number, part in enumerate(parts):
        digest.update(b"extra" * number)
        for text, label in zip(part.texts, part.labels, strict=True):
            digest.update(f"{len(text)}:{text}{len(label)}:{label}".encode())
    return digest.hexdigest()
