"""Reads a table of text from CSV, TSV, JSONL or Parquet, strictly: a damaged file is an error, never fewer rows."""

import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from objectives.errors import DataError

Format = Literal["csv", "tsv", "jsonl", "parquet"]
DELIMITERS = {"csv": ",", "tsv": "\t"}


def format_of(path: Path) -> Format | None:
    """Return the format that the file's name tells, `.gz` aside."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return next((known for known in get_args(Format) if suffix.lower() == f".{known}"), None)


def read_file(path: Path, *, file_format: Format) -> pd.DataFrame:
    """Return every cell as text, missing ones as ""; nested values (lists, objects, bytes) stay what they are.

    Raises DataError with the row, line or byte if the file cannot be read as that format.
    """
    content = _read_bytes(path)
    if not content:
        raise DataError(f"{path}: the file is empty")
    if file_format == "parquet":
        return _read_parquet(path, content)
    text = _decode(path, content)
    if file_format == "jsonl":
        return _read_jsonl(path, text.split("\n"))
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
        unzipped = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
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
                    table = _records_table(part, columns=columns)
                    columns = list(table.columns)
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
    _size(path)
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(_read_bytes(path)) if path.suffix == ".gz" else path)
        read = 0
        for batch in file.iter_batches(batch_size=rows):
            read += batch.num_rows
            yield _parquet_table(pa.table(batch)), read / file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _size(path: Path) -> int:
    """Return the bytes of a file that has any."""
    try:
        with path.open("rb"):
            num_bytes = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not num_bytes:
        raise DataError(f"{path}: the file is empty")
    return num_bytes


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix != ".gz" or not content:
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error


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
    # The module's limit of 131,072 characters a field is a guard for untrusted uploads, not for a user's own texts.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise DataError(f"{path}: the header names column {repeated[0]!r} more than once")
        yield header
        for row, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: data row {row} has {len(cells)} cells, expected {len(header)} as in the header"
                )
            yield cells
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _read_jsonl(path: Path, lines: Iterable[str]) -> pd.DataFrame:
    return _records_table(list(_json_records(path, lines)), columns=())


def _records_table(records: Sequence[Mapping[str, Any]], *, columns: Iterable[str]) -> pd.DataFrame:
    """Return `columns`, and whatever others the records have."""
    names = list(dict.fromkeys((*columns, *(name for record in records for name in record))))
    return pd.DataFrame([[record.get(name, "") for name in names] for record in records], columns=names, dtype=object)


def _json_records(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {line_number} is not JSON: {error.msg} at character {error.pos}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {line_number} is not a JSON object")
        yield {name: _json_cell(path, line_number, value) for name, value in record.items()}


def _json_cell(path: Path, line_number: int, value: Any) -> Any:
    """Numbers arrive as they are written; true and false stay as JSON writes them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{path}: line {line_number} holds half of a surrogate pair") from None
    return value


def _read_parquet(path: Path, content: bytes) -> pd.DataFrame:
    try:
        return _parquet_table(pyarrow.parquet.read_table(io.BytesIO(content)))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _parquet_table(table: Any) -> pd.DataFrame:
    return pd.DataFrame({name: _parquet_cells(table[name]) for name in table.column_names}, dtype=object)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}")


def _parquet_cells(column: Any) -> list[Any]:
    with contextlib.suppress(pa.ArrowException):  # lists, structures and raw bytes stay what they are
        column = pyarrow.compute.cast(column, pa.string())
    return ["" if cell is None else cell for cell in column.to_pylist()]
