"""Commands for what is stored: publish, back up, restore, clean."""

from collections.abc import Sequence
from pathlib import Path

import click

from fold_search.search.commands.answers import say
from fold_search.search.commands.completing import complete_study
from fold_search.search.commands.options import database_url, find_study, machine_option, storage_option, study_option


@click.command("publish")
@study_option
@storage_option
@click.option("--rebuild", is_flag=True, help="Publish everything again, for a tracker that lost its data.")
def publish(name: str, storage: str | None, rebuild: bool) -> int:
    """Send results to MLflow and Neptune that they do not have yet."""
    from fold_search.search.running.publish import publish_now
    from fold_search.search.study.environment import Secrets

    return publish_now(find_study(name, storage), secrets=Secrets.read(), rebuild=rebuild, say=say)


@click.command("backup")
@study_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The backup file to write; it must not exist yet."
)
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set storage.artifacts for this machine.")
def backup(name: str, out: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Write a study and its files to one backup file. The study may be running."""
    study = find_study(name, storage)
    from fold_search.search.upkeep.backup import back_up

    say(f"wrote {out}: {back_up(study, out, overrides=overrides)}")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@storage_option
@machine_option
def restore(file: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Restore a study from a file that `search backup` wrote. The database may be of another kind."""
    from fold_search.search.upkeep.backup import restore

    restored = restore(file, url=database_url(storage), overrides=overrides)
    say(f"restored {restored}; next: search run or search worker --study {restored.study}")


@click.command("clean")
@click.option(
    "--study",
    "name",
    metavar="NAME",
    shell_complete=complete_study,
    help="Clean only this study.  [default: all studies of the database]",
)
@storage_option
@click.option("--yes", is_flag=True, help="Delete without asking.")
def clean(name: str | None, storage: str | None, yes: bool) -> None:
    """List and delete files that no study needs. Running studies are skipped."""
    from fold_search.search.upkeep.cleaning import find_waste

    found = list(find_waste(database_url(storage), name=name, say=say))
    for waste in found:
        say(str(waste))
    if not found:
        say("nothing to delete")
    elif yes or click.confirm("delete all of these?"):
        for waste in found:
            waste.remove()
        say("deleted")
