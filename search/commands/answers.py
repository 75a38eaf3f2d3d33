"""What commands print: lines, JSON, tables. Control characters in it are shown, never obeyed."""

import codecs
import csv
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fold_search.search.reporting.steps import Steps
    from fold_search.search.study.opened import OpenStudy

WATCH_SECONDS = 2.0
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


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that have the same columns; nothing where there is no row."""
    from fold_search.search.terminal import visible

    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: visible(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows)
        click.echo(text.getvalue(), nl=False)


def keep_showing(render: "Callable[[], RenderableType]", console: "Console") -> None:
    """Show what `render` gives every two seconds, until Ctrl-C; in a pipe one after the other."""
    from rich.live import Live

    with suppress(KeyboardInterrupt):
        if not console.is_terminal:
            while True:
                console.print(render())
                time.sleep(WATCH_SECONDS)
        with Live(render(), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(render(), refresh=True)


def new_console(*, stderr: bool = False) -> "Console":
    """A console for tables and progress."""
    from fold_search.search.terminal import make_console

    return make_console(stderr=stderr)


def make_steps(console: "Console") -> "Callable[[str], None]":
    """What prints a step of a command's beginning: a line with the time, as for what happens later."""

    def say_step(step: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {step}"
        console.print(line, style="dim", highlight=False, soft_wrap=not console.is_terminal)

    return say_step


def new_steps() -> "Steps":
    """What shows on stderr which step a command is at."""
    from fold_search.search.reporting.steps import Steps

    return Steps(new_console(stderr=True))


def print_best(study: "OpenStudy", console: "Console") -> int:
    """Print the best trial; the exit code: 1 where there is none yet."""
    from fold_search.search.reporting.summary import best_as_json
    from fold_search.search.reporting.tables import render_best

    console.print(render_best(study.ledger))
    return 0 if best_as_json(study.ledger) else 1
