"""How a table's file is read: its format; and for text its encoding and what quotes mean."""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Format = Literal["csv", "tsv", "jsonl", "parquet"]
Quotes = Literal["auto", "on", "off"]
MISSING = "NaN"  # how JavaScript and parts of Python write an empty cell; but "nan" is a language and "NA" a country


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table's file and how it is read."""

    path: Path
    format: Format
    encoding: str | None = None  # of text; None: UTF-8. A byte order mark in the file counts more than this
    quotes: Quotes = "auto"  # of CSV and TSV


def format_of(path: Path) -> Format | None:
    """Return the format by the file's name, not counting `.gz`."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return next((known for known in get_args(Format) if suffix.lower() == f".{known}"), None)


def is_encoding(name: str) -> bool:
    """Whether Python knows an encoding of text of this name."""
    try:
        # Other codecs, such as zlib and rot13, have names too.
        return codecs.getincrementaldecoder(name) is not None and "a".encode(name) is not None
    except (LookupError, ValueError):
        return False
