"""Reads a table of text from CSV, TSV, JSONL or Parquet, strictly: a damaged file is an error, never fewer rows.

What a small file can make of itself is bounded: how much it unpacks to, how many columns and cells it has, and how long
a cell of CSV is, which an open quote would make of the rest of the file.
"""

import contextlib
import csv
import gzip
import io
import json
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from objectives.errors import DataError
from objectives.image_root import first_line

Format = Literal["csv", "tsv", "jsonl", "parquet"]
DELIMITERS = {"csv": ",", "tsv": "\t"}

MOST_COLUMNS = 10_000
MOST_CHARACTERS = 10_000_000  # of a CSV cell
MOST_TIMES = 100  # that a file's size is unpacked to; text seldom exceeds 20
FREE_BYTES = 2**26  # that any file may unpack to
CELLS_PER_BYTE = 8  # of a Parquet file
FREE_CELLS = 10_000_000  # that any file may have


def format_of(path: Path) -> Format | None:
    """Return the format that the file's name tells, `.gz` aside."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return next((known for known in get_args(Format) if suffix.lower() == f".{known}"), None)


def read_file(path: Path, *, file_format: Format) -> pd.DataFrame:
    """Return every cell as text, missing ones as ""; nested values (lists, objects, bytes) stay what they are.

    Raises DataError with the row, line or byte if the file cannot be read as that format.
    """
    if file_format == "parquet":
        with _parquet_errors(path):
            return _parquet_table(_open_parquet(path).read())
    text = _decode(path, _read_bytes(path))
    if file_format == "jsonl":
        return _read_jsonl(path, text)
    return _read_csv(path, io.StringIO(text, newline=""), delimiter=DELIMITERS[file_format])


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a file, one after the other."""

    table: pd.DataFrame
    first: int  # the number of its first data row, from 1
    share_read: float  # of the file, with this chunk


def read_chunks(path: Path, *, file_format: Format, rows: int) -> Iterator[Chunk]:
    """Yield the file in chunks of at most `rows`, as `read_file` returns it, in memory that does not grow with it.

    A JSONL chunk has the columns of all chunks so far. Parquet is held one row group at a time, gzipped Parquet whole.
    Raises DataError as read_file does, when the damaged place is reached.
    """
    if file_format == "parquet":
        parts = _parquet_chunks(path, rows=rows)
    else:
        parts = _text_chunks(path, file_format=file_format, rows=rows)
    first = 1
    for table, share_read in parts:
        yield Chunk(table=table, first=first, share_read=share_read)
        first += len(table)


def _text_chunks(path: Path, *, file_format: Format, rows: int) -> Iterator[tuple[pd.DataFrame, float]]:
    num_bytes = _size(path)
    with path.open("rb") as file:
        unzipped = io.BufferedReader(_Unzipped(path, file)) if path.suffix == ".gz" else file
        # As `read_file` splits them: JSONL at line feeds alone, CSV at whatever the csv module takes for an end.
        lines = io.TextIOWrapper(unzipped, "utf-8-sig", newline="\n" if file_format == "jsonl" else "")
        try:
            columns: list[str] = []
            if file_format == "jsonl":
                records: Iterator[Any] = _json_records(path, lines)
            else:
                records = _csv_records(path, lines, delimiter=DELIMITERS[file_format])
                columns = next(records)
            while part := list(islice(records, rows)):
                if file_format == "jsonl":
                    columns = _names(path, part, known=columns)
                    table = _records_table(part, columns=columns)
                else:
                    table = pd.DataFrame(part, columns=columns, dtype=object)
                yield table, file.tell() / num_bytes
        except UnicodeDecodeError:
            _decode(path, _read_bytes(path))  # which knows the byte's place
            raise
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file: {error}") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parquet_chunks(path: Path, *, rows: int) -> Iterator[tuple[pd.DataFrame, float]]:
    with _parquet_errors(path):
        file = _open_parquet(path)
        read = 0
        for batch in file.iter_batches(batch_size=rows):
            read += batch.num_rows
            yield _parquet_table(pa.table(batch)), read / max(read, file.metadata.num_rows)


def _size(path: Path) -> int:
    """Return the bytes of a file that has any."""
    try:
        status = path.stat()
        # A device or a pipe may never end, or begin.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DataError(f"{path}: is no plain file")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not status.st_size:
        raise DataError(f"{path}: the file is empty")
    return status.st_size


class _Unzipped(io.RawIOBase):
    """The bytes of a gzip file; raises DataError as soon as there are more than text could be packed to."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = gzip.GzipFile(fileobj=file)
        self._left = max(FREE_BYTES, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        num_bytes = self._file.readinto(buffer)
        self._left -= num_bytes
        if self._left < 0:
            raise DataError(f"{self._path}: unpacks to more than {MOST_TIMES} times its size, which no text does")
        return num_bytes


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file that has any, unzipped if it is zipped."""
    _size(path)
    try:
        with path.open("rb") as file:
            content = io.BufferedReader(_Unzipped(path, file)).read() if path.suffix == ".gz" else file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path}: the file is empty")
    return content


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}, line {line}"
        ) from error


def _read_csv(path: Path, lines: Iterable[str], *, delimiter: str) -> pd.DataFrame:
    records = _csv_records(path, lines, delimiter=delimiter)
    header = next(records, [])
    return pd.DataFrame(list(records), columns=header, dtype=object)


def _csv_records(path: Path, lines: Iterable[str], *, delimiter: str) -> Iterator[list[str]]:
    """Yield the header, then each data row, as long as it."""
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_columns(path, header)
        yield header
        for row, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: data row {row} has {len(cells)} cells, expected {len(header)} as in the header"
                )
            yield cells
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: has {len(names):,} columns, expected at most {MOST_COLUMNS:,}")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f"{path}: the header names column {repeated[0]!r} more than once")


def _check_cells(path: Path, *, rows: int, columns: int, most: int) -> None:
    """Refuse a file that would take far more memory than its size tells: most of the cells stand nowhere in it."""
    if rows * columns > max(FREE_CELLS, most):
        raise DataError(f"{path}: {rows:,} rows of {columns:,} columns in so small a file, expected fewer columns")


def _read_jsonl(path: Path, text: str) -> pd.DataFrame:
    records = list(_json_records(path, text.split("\n")))
    columns = _names(path, records)
    _check_cells(path, rows=len(records), columns=len(columns), most=len(text))
    return _records_table(records, columns=columns)


def _names(path: Path, records: Iterable[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[str]:
    """Return the names that are known, and whatever others the records have."""
    names = dict.fromkeys(known)
    for record in records:
        names.update(dict.fromkeys(record))
        if len(names) > MOST_COLUMNS:
            break
    _check_columns(path, list(names))
    return list(names)


def _records_table(records: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> pd.DataFrame:
    cells = [[record.get(name, "") for name in columns] for record in records]
    return pd.DataFrame(cells, columns=list(columns), dtype=object)


def _json_records(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    decode = json.JSONDecoder(object_pairs_hook=_as_object, parse_int=str, parse_float=str, parse_constant=str).decode
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
        except _RepeatedKey as error:
            raise DataError(f"{where} has the key {error.args[0]!r} twice") from None
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object")
        yield {_text(name, where): _json_cell(value, where) for name, value in record.items()}


class _RepeatedKey(Exception):
    """A JSON object has a key twice, and JSON does not say which of the values counts."""


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKey(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
    return found


def _json_cell(value: Any, where: str) -> Any:
    """Numbers arrive as they are written; true and false stay as JSON writes them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value, where) if isinstance(value, str) else value


def _text(value: str, where: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where} holds half of a surrogate pair") from None
    return value


def _open_parquet(path: Path) -> Any:
    """Return a Parquet file whose own figures say that it can be read in the memory that its size lets expect."""
    source = io.BytesIO(_read_bytes(path)) if path.suffix == ".gz" else path
    num_bytes = len(source.getbuffer()) if isinstance(source, io.BytesIO) else _size(source)
    file = pyarrow.parquet.ParquetFile(source)
    _check_columns(path, file.schema_arrow.names)
    about = file.metadata
    _check_cells(path, rows=about.num_rows, columns=len(file.schema_arrow), most=CELLS_PER_BYTE * num_bytes)
    unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if unpacked > max(FREE_BYTES, MOST_TIMES * num_bytes):
        raise DataError(f"{path}: unpacks to more than {MOST_TIMES} times its size, which no text does")
    return file


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    # A time zone that is not known is a KeyError, bytes that are no text a ValueError.
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {first_line(error)}") from error


def _parquet_table(table: Any) -> pd.DataFrame:
    return pd.DataFrame({name: _parquet_cells(table[name]) for name in table.column_names}, dtype=object)


def _parquet_cells(column: Any) -> list[Any]:
    with contextlib.suppress(pa.ArrowException):  # lists, structures and raw bytes stay what they are
        column = pyarrow.compute.cast(column, pa.string())
    return ["" if cell is None else cell for cell in column.to_pylist()]
