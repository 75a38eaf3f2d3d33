"""Reads CSV and TSV strictly, with quotes around cells or without. No stray quote swallows rows without an error.

A file is read in one of two ways, and usually tells which by itself:

- With quotes, as spreadsheets write it. A cell that begins with a quote ends at the next quote that a delimiter or the
  end of the line follows. Inside it delimiters and line ends are text, and a quote is written twice.
- Without quotes. A quote is a character like any other, as in the text '"great film, he said', and each line is a row.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fold_search.objectives.data.sources import MISSING, Source
from fold_search.objectives.data.text_files import open_text
from fold_search.objectives.errors import DataError, Misread

DELIMITERS = {"csv": ",", "tsv": "\t"}

_OTHER_DELIMITERS = "\t;|,"  # that files have, such as Excel's in some countries
_NUM_SHOWN = 60

MOST_COLUMNS = 10_000
MOST_CHARACTERS = 10_000_000  # of a cell: an open quote would make one of the rest of the file


def check_width(path: Path, num_columns: int) -> None:
    """Raise DataError if a table has more columns than any real table has."""
    if num_columns > MOST_COLUMNS:
        raise DataError(f"{path}: has {num_columns:,} columns, expected at most {MOST_COLUMNS:,}")


def check_delimiter(path: Path, header: Sequence[str]) -> None:
    """Raise DataError if a header of one name looks like several names with another delimiter between them."""
    found = next((sign for sign in _OTHER_DELIMITERS if len(header) == 1 and sign in header[0]), None)
    if found is not None:
        raise DataError(
            f"{path}: the header is read as one name, {header[0][:_NUM_SHOWN]!r}, and seems to be separated by "
            f"{found!r}; "
            "expected commas (CSV) or tabs (TSV, a name that ends in .tsv)"
        )


def read_records(source: Source, lines: Iterable[str], *, quoted: bool) -> Iterator[list[str]]:
    """Yield the header, then the data rows, which have as many cells; raises DataError where the file is damaged."""
    records = _records(source, lines, quoted=quoted)
    yield from (record.cells for record in islice(records, 1))
    yield from (["" if cell == MISSING else cell for cell in record.cells] for record in records)


def has_quotes(source: Source) -> bool:
    """Whether cells may be in quotes: as `source.quotes` says, or found out by reading the whole file both ways.

    They may if the header is in quotes, or if without quotes some line has another number of cells than the header.
    Otherwise a quote that is not closed as it should be means that quotes are part of the texts, unless most rows have
    whole cells in quotes. Raises DataError if neither way works, and Misread if it is not clear which one is meant.
    """
    if source.quotes != "auto":
        return source.quotes == "on"
    with_quotes = _try(source, quoted=True)
    if with_quotes.error is None and with_quotes.first_long is None:
        return True
    without = _try(source, quoted=False)
    if without.is_quoted or without.error is not None:
        if with_quotes.error is not None:
            raise with_quotes.error
        return True
    if with_quotes.error is not None and (with_quotes.error.is_of_quotes or with_quotes.first_long is not None):
        if 2 * without.num_enclosed > without.num_rows:
            raise _damaged_quote(source, with_quotes, without)
        return False
    raise _either(source, with_quotes, without)


class _Damage(DataError):
    """The rows do not fit the header."""

    def __init__(self, message: str, *, line: int = 0, is_of_quotes: bool = False) -> None:
        super().__init__(message)
        self.line = line
        self.is_of_quotes = is_of_quotes  # not closed, or not where they should be


class _Record(NamedTuple):
    cells: list[str]
    first: int  # its lines, from 1
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What a file looks like if it is read with quotes, or without."""

    num_rows: int
    num_enclosed: int  # rows with a cell that begins and ends with a quote
    first_long: _Record | None  # of more than one line
    is_quoted: bool  # every name of the header begins and ends with a quote
    error: _Damage | None


def _try(source: Source, *, quoted: bool) -> _Reading:
    num_rows, num_enclosed, first_long, is_quoted, error = -1, 0, None, False, None
    with open_text(source.path, encoding=source.encoding, newline="") as text:
        try:
            for record in _records(source, text.lines, quoted=quoted):
                num_rows += 1
                if num_rows == 0:
                    is_quoted = all(map(_is_enclosed, record.cells))
                else:
                    num_enclosed += any(map(_is_enclosed, record.cells))
                if first_long is None and record.last > record.first:
                    first_long = record
        except _Damage as damage:
            error = damage
    return _Reading(
        num_rows=num_rows, num_enclosed=num_enclosed, first_long=first_long, is_quoted=is_quoted, error=error
    )


def _is_enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _damaged_quote(source: Source, with_quotes: _Reading, without: _Reading) -> Misread:
    line = with_quotes.error.line if with_quotes.error else 0
    if with_quotes.first_long is not None:
        line = with_quotes.first_long.first
    return Misread(
        f"{source.path}: line {line}: the quote that opens a cell here is not closed correctly, and "
        f"{without.num_enclosed:,} of {without.num_rows:,} rows have a quoted cell; expected a correction of that "
        "line, or data.quotes off, which reads quotes as text",
        setting="quotes",
        value="off",
    )


def _either(source: Source, with_quotes: _Reading, without: _Reading) -> Misread:
    if with_quotes.first_long is not None:
        line = with_quotes.first_long.first
        found = f"if line {with_quotes.first_long.last} closes it, the file has {with_quotes.num_rows:,} rows"
    else:
        line = with_quotes.error.line if with_quotes.error else 0
        found = "if a later cell of the line closes it, the row has too few cells"
    return Misread(
        f"{source.path}: line {line}: a quote opens a cell here: {found}; if quotes are text, the file has "
        f"{without.num_rows:,} rows; expected data.quotes on or off",
        setting="quotes",
        value="off",
    )


def _records(source: Source, lines: Iterable[str], *, quoted: bool) -> Iterator[_Record]:
    csv.field_size_limit(MOST_CHARACTERS)
    latest = [""]
    reader = csv.reader(
        _noted(lines, latest),
        delimiter=DELIMITERS[source.format],
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    header: list[str] = []
    width = row = last = 0
    try:
        for cells in reader:
            first, last = last + 1, reader.line_num
            if row == 0 or len(cells) != width:
                if first == last and not latest[0].strip():
                    continue  # a line of blanks
                if row:
                    check_delimiter(source.path, header)
                    raise _ragged(source, _Record(cells, first, last), row=row, width=width)
                header, width = cells, len(cells)
                check_width(source.path, width)
            row += 1
            yield _Record(cells, first, last)
    except csv.Error as error:
        raise _unclosed(source, error, first=last + 1, last=reader.line_num, quoted=quoted) from error


def _noted(lines: Iterable[str], latest: list[str]) -> Iterator[str]:
    for line in lines:
        latest[0] = line
        yield line


def _ragged(source: Source, record: _Record, *, row: int, width: int) -> _Damage:
    return _Damage(
        f"{source.path}: data row {row} has {len(record.cells)} cells, expected {width} as in the header",
        line=record.first,
        is_of_quotes=record.last > record.first,
    )


def _unclosed(source: Source, error: csv.Error, *, first: int, last: int, quoted: bool) -> _Damage:
    if not quoted or (first == last and "limit" in str(error)):
        return _Damage(f"{source.path}: line {first}: {error}", line=first)
    where = f" in line {last}" if last > first else ""
    # With auto, the file could not be read without quotes either.
    advice = "; data.quotes off reads quotes as text" if source.quotes == "on" else ""
    return _Damage(
        f"{source.path}: line {first}: the quote that opens a cell here is not closed correctly: {error}{where}"
        f"{advice}",
        line=first,
        is_of_quotes=True,
    )
