"""Reads a table of text from CSV, TSV, JSONL or Parquet, strictly: a damaged file is an error, never fewer rows."""

import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from objectives.errors import DataError

Format = Literal["csv", "tsv", "jsonl", "parquet"]


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
        return _read_jsonl(path, text)
    return _read_csv(path, text, delimiter="\t" if file_format == "tsv" else ",")


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


def _read_csv(path: Path, text: str, *, delimiter: str) -> pd.DataFrame:
    # The module's limit of 131,072 characters a field is a guard for untrusted uploads, not for a user's own texts.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise DataError(f"{path}: the header names column {repeated[0]!r} more than once")
        records = [cells for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    for row, cells in enumerate(records, start=1):
        if len(cells) != len(header):
            raise DataError(f"{path}: data row {row} has {len(cells)} cells, expected {len(header)} as in the header")
    return pd.DataFrame(records, columns=header, dtype=object)


def _read_jsonl(path: Path, text: str) -> pd.DataFrame:
    records = list(_json_records(path, text))
    columns = list(dict.fromkeys(name for record in records for name in record))
    return pd.DataFrame(
        [[record.get(name, "") for name in columns] for record in records], columns=columns, dtype=object
    )


def _json_records(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for line_number, line in enumerate(text.split("\n"), start=1):
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
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    return pd.DataFrame({name: _parquet_cells(table[name]) for name in table.column_names}, dtype=object)


def _parquet_cells(column: Any) -> list[Any]:
    with contextlib.suppress(pa.ArrowException):  # lists, structures and raw bytes stay what they are
        column = pyarrow.compute.cast(column, pa.string())
    return ["" if cell is None else cell for cell in column.to_pylist()]
