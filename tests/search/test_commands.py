"""The commands' options: what their help says is what they do."""

from collections.abc import Iterator

import click
import pytest

from fold_search.search.cli import app
from fold_search.search.commands.options import database_url
from fold_search.search.study import defaults


def commands(group: click.Group = app, *above: str) -> Iterator[tuple[str, click.Command]]:
    """Every command with its name, those of groups too."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


ALL = dict(commands())
WITH_STORAGE = [name for name, command in ALL.items() if any(option.name == "storage" for option in command.params)]


@pytest.mark.parametrize("name", WITH_STORAGE)
def test_the_help_of_storage_says_where_the_command_looks_without_it(name: str, monkeypatch: pytest.MonkeyPatch):
    """In the study file's database where there is a study file, else always in the same one."""
    monkeypatch.delenv("SEARCH_STORAGE_PASSWORD", raising=False)
    options = {option.name: option for option in ALL[name].params}
    said = str(getattr(options["storage"], "help", ""))
    reads_study_file = "file" in options and "--config" in options["file"].opts
    assert ("study file" in said) == reads_study_file
    assert (f"[default: {defaults.DATABASE}]" in said) != reads_study_file
    assert database_url(None) == defaults.DATABASE
