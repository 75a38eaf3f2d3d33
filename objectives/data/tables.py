"""Reads a table of text from CSV, TSV, JSONL or Parquet, strictly: a damaged file is an error, never fewer rows.

A column gives the same cells in every format, as far as the format allows: numbers, booleans and times become the text
that Python and pandas write into CSV, and NaN becomes an empty cell. A small file cannot blow up: there are bounds on
how much it unpacks to, on its columns and cells, and on the length of a cell of CSV.
"""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from fold_search.objectives.data.delimited import MOST_COLUMNS, check_width, has_quotes, read_records
from fold_search.objectives.data.files import FREE_BYTES, MOST_TIMES, open_file, size
from fold_search.objectives.data.image_root import first_line
from fold_search.objectives.data.sources import MISSING, Source
from fold_search.objectives.data.text_files import open_text
from fold_search.objectives.errors import DataError

CELLS_PER_BYTE = 8  # of a Parquet file
FREE_CELLS = 10_000_000  # that any file may have

_CONSTANTS = {"NaN": "", "Infinity": "inf", "-Infinity": "-inf"}  # not JSON, but Python writes them

_Parts = Iterator[tuple[pd.DataFrame, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a file, one after the other."""

    table: pd.DataFrame
    first: int  # the number of its first data row, from 1
    share_read: float  # of the file, with this chunk


class Repeated:
    """A cell whose key is in its JSON object twice, so that it is not clear which value counts."""


def read_file(source: Source) -> pd.DataFrame:
    """Return every cell as text, a missing one as "". Nested values (lists, objects, bytes) stay as they are.

    Names of columns may repeat, or be empty. Raises DataError with the row, line or byte if the file cannot be read.
    """
    if source.format == "parquet":
        with _parquet_errors(source.path):
            parquet = _open_parquet(source.path)
            return parquet.table(parquet.file.read())
    if source.format == "jsonl":
        return _read_jsonl(source)
    quoted = has_quotes(source)
    with open_text(source.path, encoding=source.encoding, newline="") as text:
        records = read_records(source, text.lines, quoted=quoted)
        header = next(records, [])
        return pd.DataFrame(list(records), columns=header, dtype=object)


def read_chunks(source: Source, *, rows: int) -> Iterator[Chunk]:
    """Yield the file in chunks of at most `rows`, as `read_file` returns it. Memory does not grow with the file.

    A JSONL chunk has the columns of all chunks so far. Of Parquet one row group is in memory at a time, of gzipped
    Parquet the whole file. Raises DataError as read_file does, when it reaches the damaged place; for CSV and TSV with
    quotes `auto`, which are read once before, already at the start.
    """
    parts = {"parquet": _parquet_chunks, "jsonl": _jsonl_chunks}.get(source.format, _delimited_chunks)
    first = 1
    for table, share_read in parts(source, rows):
        yield Chunk(table=table, first=first, share_read=share_read)
        first += len(table)


def _delimited_chunks(source: Source, rows: int) -> _Parts:
    quoted = has_quotes(source)
    with open_text(source.path, encoding=source.encoding, newline="") as text:
        records = read_records(source, text.lines, quoted=quoted)
        header = next(records, [])
        while part := list(islice(records, rows)):
            yield pd.DataFrame(part, columns=header, dtype=object), text.share_read


def _jsonl_chunks(source: Source, rows: int) -> _Parts:
    columns: list[str] = []
    with open_text(source.path, encoding=source.encoding, newline="\n") as text:
        records = (record for record, _ in _json_records(source.path, text.lines))
        while part := list(islice(records, rows)):
            columns = _names(source.path, part, known=columns)
            yield _records_table(part, columns=columns), text.share_read


def _parquet_chunks(source: Source, rows: int) -> _Parts:
    with _parquet_errors(source.path):
        parquet = _open_parquet(source.path)
        read = 0
        for batch in parquet.file.iter_batches(batch_size=rows):
            read += batch.num_rows
            yield parquet.table(pa.table(batch)), read / max(read, parquet.file.metadata.num_rows)


def _check_cells(path: Path, *, rows: int, columns: int, most: int) -> None:
    """Refuse a file with far more cells than its size allows: it would take much more memory than its size suggests."""
    if rows * columns > max(FREE_CELLS, most):
        raise DataError(f"{path}: {rows:,} rows of {columns:,} columns in so small a file, expected fewer columns")


def _read_jsonl(source: Source) -> pd.DataFrame:
    records, num_characters = [], 0
    with open_text(source.path, encoding=source.encoding, newline="\n") as text:
        for record, length in _json_records(source.path, text.lines):
            records.append(record)
            num_characters += length
    columns = _names(source.path, records)
    _check_cells(source.path, rows=len(records), columns=len(columns), most=num_characters)
    return _records_table(records, columns=columns)


def _names(path: Path, records: Iterable[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[str]:
    """Return the known names, and after them the new ones of the records."""
    names = dict.fromkeys(known)
    for record in records:
        names.update(dict.fromkeys(record))
        if len(names) > MOST_COLUMNS:
            break
    check_width(path, len(names))
    return list(names)


def _records_table(records: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> pd.DataFrame:
    cells = [[record.get(name, "") for name in columns] for record in records]
    return pd.DataFrame(cells, columns=list(columns), dtype=object)


def _json_records(path: Path, lines: Iterable[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each record and how many characters it takes; numbers stay as they are written."""
    decode = json.JSONDecoder(
        object_pairs_hook=_as_object, parse_int=str, parse_float=str, parse_constant=_CONSTANTS.__getitem__
    ).decode
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {line_number}"
        try:
            record = decode(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON: {error.msg} at character {error.pos}") from error
        except RecursionError:
            raise DataError(f"{where} is nested too deeply") from None
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object")
        yield {_text(name, where): _json_cell(value, where) for name, value in record.items()}, len(line)


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        found |= {name: Repeated() for name, count in counts.items() if count > 1}
    return found


def _json_cell(value: Any, where: str) -> Any:
    if value is None or value == MISSING:
        return ""
    if isinstance(value, bool):
        return str(value)
    return _text(value, where) if isinstance(value, str) else value


def _text(value: str, where: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where} holds half of a surrogate pair") from None
    return value


@dataclass(frozen=True, slots=True)
class _Parquet:
    """A Parquet file that is being read."""

    file: Any
    dates: frozenset[str]  # columns of times that are midnight in every row

    def table(self, table: Any) -> pd.DataFrame:
        """Return some of its rows as text."""
        columns = zip(table.column_names, table.columns, strict=True)
        cells = [_parquet_cells(column, is_date=name in self.dates) for name, column in columns]
        frame = pd.DataFrame(dict(enumerate(cells)), dtype=object)
        frame.columns = pd.Index(table.column_names, dtype=object)
        return frame


def _open_parquet(path: Path) -> _Parquet:
    """Open a Parquet file, unless its own figures say that it needs far more memory than its size suggests."""
    source: Any = path
    num_bytes = size(path)
    if path.suffix == ".gz":
        with open_file(path) as unzipped:
            source = io.BytesIO(unzipped.content.read())
        num_bytes = len(source.getbuffer())
    file = pyarrow.parquet.ParquetFile(source)
    names = file.schema_arrow.names
    check_width(path, len(names))
    about = file.metadata
    _check_cells(path, rows=about.num_rows, columns=len(names), most=CELLS_PER_BYTE * num_bytes)
    unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if unpacked > max(FREE_BYTES, MOST_TIMES * num_bytes):
        raise DataError(f"{path}: unpacks to more than {MOST_TIMES} times its size, which no text does")
    return _Parquet(file, frozenset(field.name for field in file.schema_arrow if _is_date(file, field)))


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    # An unknown time zone is a KeyError, bytes that are not text a ValueError.
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {first_line(error)}") from error


def _is_date(file: Any, field: Any) -> bool:
    """Whether the column is of times that are all midnight, which pandas writes into CSV as dates."""
    if not pa.types.is_timestamp(field.type) or field.type.tz is not None:
        return False
    midnights = (
        pyarrow.compute.match_substring_regex(pyarrow.compute.cast(batch.column(0), pa.string()), " 00:00:00[.0]*$")
        for batch in file.iter_batches(columns=[field.name])
    )
    return all(pyarrow.compute.all(rows).as_py() is not False for rows in midnights)


def _parquet_cells(column: Any, *, is_date: bool) -> list[Any]:
    """Return a column as pandas writes it into CSV; lists, structures and raw bytes stay as they are."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy()
        written = map(str, numbers.tolist() if column.type == pa.float64() else numbers)
        return ["" if number == "nan" else number for number in written]
    if pa.types.is_boolean(column.type):
        cells = column.to_pylist()
    elif pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
        cells = [str(cell)[:10] if is_date and cell is not None else cell for cell in column.to_pylist()]
    else:
        with contextlib.suppress(pa.ArrowException):
            column = pyarrow.compute.cast(column, pa.string())
        cells = column.to_pylist()
        return ["" if cell is None or cell == MISSING else cell for cell in cells]
    return ["" if cell is None else str(cell) for cell in cells]
