"""Every `search` command that the README and the pages show is one that the program takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from fold_search.search.cli import app

ROOT = Path(__file__).parents[2]
# The log says what was so on its day.
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "log.md"})]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_TEXT = re.compile(r"(?<!`)`(search [^`]+)`")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
PLACEHOLDER = "COMMAND"


def commands_of(line: str) -> list[list[str]]:
    """The words of each `search` command of a line of shell, without what is set before it and what follows a pipe."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "|", ";", ">"):
            found.append([])
        elif found[-1] or not ASSIGNMENT.match(word):
            found[-1].append(word.removeprefix(".venv/bin/") if not found[-1] else word)
    return [words[1:] for words in found if words and words[0] == "search"]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the words after it; raises click.UsageError."""
    command: click.Command = app
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.commands.get(words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]!r}")
        command, words = found, words[1:]
    return command, words


def lines(page: Path) -> tuple[list[str], list[str]]:
    """The lines that a page shows as shell, and the words in backticks in its sentences."""
    text = page.read_text(encoding="utf-8")
    shown = "".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return shown, [" ".join(words.split()) for words in IN_TEXT.findall(BLOCK.sub("", text))]


EXAMPLES = [(str(page.relative_to(ROOT)), *lines(page)) for page in PAGES]
SHOWN = [(page, line) for page, shown, _ in EXAMPLES for line in shown if commands_of(line)]
MENTIONED = [(page, line) for page, _, mentioned in EXAMPLES for line in mentioned if commands_of(line)]


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_to_copy_is_complete(page, line):
    """Known options, values that they take, and all that must be given."""
    for words in commands_of(line):
        command, arguments = resolve(words)
        assert command.make_context("search", list(arguments)).command is command


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_a_command_in_a_sentence_has_known_options(page, line):
    """It may leave out what must be given: `...` stands for that."""
    for words in commands_of(line):
        command, arguments = resolve([word for word in words if word not in ("...", PLACEHOLDER)])
        _, left, _ = command.make_parser(click.Context(command)).parse_args(list(arguments))
        assert left == []
