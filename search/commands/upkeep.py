"""Commands that keep what is stored: published, saved, brought back, removed."""

from collections.abc import Sequence
from pathlib import Path

import click

from fold_search.search.commands.answers import say
from fold_search.search.commands.options import database_url, find_study, machine_option, storage_option, study_option


@click.command("publish")
@study_option
@storage_option
@click.option("--rebuild", is_flag=True, help="Publish everything again: recreates a lost tracker.")
def publish(name: str, storage: str | None, rebuild: bool) -> int:
    """Publish what the trackers have not seen yet."""
    from fold_search.search.running.publish import publish_now
    from fold_search.search.study.environment import Secrets

    return publish_now(find_study(name, storage), secrets=Secrets.read(), rebuild=rebuild, say=say)


@click.command("backup")
@study_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The backup's file; a new one.")
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="storage.artifacts of this machine.")
def backup(name: str, out: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Write a study and all that is stored of it to one file; workers may go on meanwhile."""
    study = find_study(name, storage)
    from fold_search.search.upkeep.backup import back_up

    say(f"wrote {out}: {back_up(study, out, overrides=overrides)}")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@storage_option
@machine_option
def restore(file: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Bring a study back from a file of `search backup`, into a database of any kind."""
    from fold_search.search.upkeep.backup import restore

    restored = restore(file, url=database_url(storage), overrides=overrides)
    say(f"restored {restored}; next: search run or search worker --study {restored.study}")


@click.command("clean")
@click.option("--study", "name", metavar="NAME", help="One study alone.  [default: all of the database]")
@storage_option
@click.option("--yes", is_flag=True, help="Remove it without asking.")
def clean(name: str | None, storage: str | None, yes: bool) -> None:
    """List what is stored and needed by no study any more, and remove it; what is being run is left alone."""
    from fold_search.search.upkeep.cleaning import find_waste

    found = list(find_waste(database_url(storage), name=name, say=say))
    for waste in found:
        say(str(waste))
    if not found:
        say("nothing to remove")
    elif yes or click.confirm("remove them?"):
        for waste in found:
            waste.remove()
        say("removed")
