"""What commands print: lines, JSON, tables; whatever it holds is shown there and never obeyed."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from search.study import OpenStudy


def say(line: str, *, err: bool = False) -> None:
    """Print one line."""
    from search.terminal import visible

    click.echo(visible(line), err=err)


def print_json(value: Any) -> None:
    """Print what other programs read."""
    click.echo(json.dumps(value, indent=2, default=str))


def new_console(*, stderr: bool = False) -> "Console":
    """A console for tables and progress."""
    from search.terminal import make_console

    return make_console(stderr=stderr)


def print_best(study: "OpenStudy", console: "Console") -> int:
    """Print the best trial; the exit code: 1 where there is none yet."""
    from search.report import best_as_json, render_best

    console.print(render_best(study.ledger))
    return 0 if best_as_json(study.ledger) else 1
