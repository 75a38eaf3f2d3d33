"""What commands print: lines, JSON, tables. Control characters in it are shown, never obeyed."""

import codecs
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from fold_search.search.study.opened import OpenStudy

_IN_ASCII = {"±": "+-", "…": "...", "→": "->"}
_FAILING = ("strict", "surrogateescape", "backslashreplace")  # what Python sets by itself; a user's choice stays


def write_in_any_encoding() -> None:
    """Let stdout and stderr write what their encoding lacks by its number, rather than fail."""
    codecs.register_error("search", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _FAILING:
            stream.reconfigure(errors="search")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    written = (_IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lacking)
    return "".join(written), error.end


def say(line: str, *, err: bool = False) -> None:
    """Print one line."""
    from fold_search.search.terminal import visible

    # Named, for to a stream of ASCII that it finds by itself click writes UTF-8.
    click.echo(visible(line), file=sys.stderr if err else sys.stdout)


def print_json(value: Any) -> None:
    """Print what other programs read: ASCII."""
    click.echo(json.dumps(value, indent=2, default=str))


def new_console(*, stderr: bool = False) -> "Console":
    """A console for tables and progress."""
    from fold_search.search.terminal import make_console

    return make_console(stderr=stderr)


def print_best(study: "OpenStudy", console: "Console") -> int:
    """Print the best trial; the exit code: 1 where there is none yet."""
    from fold_search.search.reporting.summary import best_as_json
    from fold_search.search.reporting.tables import render_best

    console.print(render_best(study.ledger))
    return 0 if best_as_json(study.ledger) else 1
