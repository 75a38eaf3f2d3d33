"""Commands that begin, run and join a study."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fold_search.search.commands.answers import new_console, print_best, say
from fold_search.search.commands.completing import complete_setting
from fold_search.search.commands.options import (
    encoding_option,
    find_study,
    images_option,
    machine_option,
    memory_option,
    quotes_option,
    storage_option,
    study_option,
)

if TYPE_CHECKING:
    from fold_search.objectives.data.sources import Quotes
    from fold_search.search.running.engines.local import LocalEngine
    from fold_search.search.study.config import StudyConfig
    from fold_search.search.study.environment import Secrets
    from fold_search.search.study.opened import OpenStudy


@click.command("init")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--label", metavar="COLUMN", help="The label column: the class of a row, or a number with --task regression."
)
@click.option("--text", "text", multiple=True, metavar="COLUMN", help="A text column; repeat to join several.")
@click.option("--image", metavar="COLUMN", help="The column of image paths, instead of --text.")
@images_option
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    default="classification",
    show_default=True,
    help="Whether the label is a class or a number.",
)
@encoding_option
@quotes_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("study.yaml"),
    show_default=True,
    help="The study file to write.",
)
@click.option("--force", is_flag=True, help="Overwrite the study file if it exists.")
def init(
    data: Path,
    label: str | None,
    text: tuple[str, ...],
    image: str | None,
    images: Path | None,
    task: Literal["classification", "regression"],
    encoding: str | None,
    quotes: "Quotes | None",
    out: Path,
    force: bool,
) -> None:
    """Look at a data file and write a study file for it.

    DATA is a CSV, TSV, JSONL or Parquet file; then --label and --text (or --image) are needed. Or DATA is a folder or
    zip file with one folder of images per class; then no option is needed.
    """
    from fold_search.objectives.data.class_folders import FILE, FOLDER, is_class_folders
    from fold_search.objectives.data.spec import DataSpec
    from fold_search.search.drafting.survey import render_table, survey
    from fold_search.search.drafting.template import write_study_file

    if not text and is_class_folders(data):
        label, image = label or FOLDER, image or FILE
    if label is None or bool(text) == bool(image):
        raise click.UsageError(
            "expected --label and either --text or --image, or DATA with one folder of images per class"
        )
    spec = DataSpec(
        path=data,
        label=label,
        text=text,
        image=image,
        images=images,
        task=task,
        encoding=encoding,
        quotes=quotes or "auto",
    )
    found = survey(spec)
    console = new_console()
    console.print(render_table(found))
    write_study_file(found, out, overwrite=force)
    console.print(f"wrote {out}; next: search run --study NAME --config {out}", highlight=False)


@click.command("run")
@study_option
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The study file.")
@click.option(
    "--trials", type=click.IntRange(min=1), help="Number of trials of the whole study; overrides budget.trials."
)
@click.option("--timeout", metavar="TIME", help="Time limit of this run, such as 2h or 90m; overrides budget.time.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one per GPU, or 1 without a GPU]"
)
@memory_option
@click.option("--storage", metavar="URL", help="The study's database.  [default: the study file's storage.url]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    help="Override one key of the study file; repeat for more.",
)
def run(
    name: str,
    file: Path,
    trials: int | None,
    timeout: str | None,
    workers: int | None,
    memory_limit: int | None,
    storage: str | None,
    overrides: Sequence[str],
) -> int:
    """Run a study, or continue it.

    The same command continues a study that was interrupted. It ends with one of these exit codes; docs/exit-codes.md
    says more.

    \b
    - 0: done; at least one trial is complete, so a model can be exported
    - 2: the study file, the data or an option needs a correction
    - 3: no trial is complete
    - 4: too many trials failed in a row
    - 5: workers keep dying
    - 6: the database cannot be reached
    - 130: interrupted with Ctrl-C
    """  # noqa: D301 - click reads the backspace as: keep the line ends of this paragraph
    from fold_search.search.study.config import load_config
    from fold_search.search.study.environment import Secrets

    began = time.time()
    given = {"budget.trials": trials, "budget.time": timeout, "storage.url": storage}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    notes: list[str] = []
    config = load_config(file, [*overrides, *options], notes=notes)
    secrets = Secrets.read()
    from fold_search.search.running.continuing import reopen_if_work_is_left
    from fold_search.search.running.engines.local import num_gpus
    from fold_search.search.running.presence import announced, make_owner
    from fold_search.search.study.beginning import begin
    from fold_search.search.study.spending import spending

    console = new_console()
    study = begin(config, name, secrets=secrets, num_workers=workers or max(1, num_gpus()))
    config = study.rows.config if study.rows else config
    for note in (*notes, *study.notes):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    owner = make_owner()
    with announced(study.ledger, owner):
        if not reopen_if_work_is_left(study, config):
            return _ended(study, config)
        if used_up := spending(study.ledger, config.budget).used_up:
            return _spent(study, config, used_up)
        engine = _engine(study, config, workers=workers, memory_limit=memory_limit, began=began)
        return _run(study, config, owner=owner, engine=engine, secrets=secrets)


@click.command("worker")
@study_option
@storage_option
@click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one per GPU, or 1 without a GPU]"
)
@memory_option
@machine_option
def worker(
    name: str, storage: str | None, workers: int | None, memory_limit: int | None, overrides: Sequence[str]
) -> int:
    """Help a study that is running, from this or another machine.

    Trains fold runs of the study, and takes over the search if the run that started it has ended. Exit codes are those
    of `search run`.
    """
    from fold_search.search.running.presence import announced, make_owner
    from fold_search.search.study.environment import Secrets
    from fold_search.search.study.opened import on_this_machine
    from fold_search.search.study.spending import spending
    from fold_search.storage.records import StudyState

    study = find_study(name, storage)
    config = on_this_machine(study.record, overrides)
    if study.record.state is not StudyState.RUNNING:
        return _ended(study, config)
    if used_up := spending(study.ledger, config.budget).used_up:
        return _spent(study, config, used_up)
    owner, secrets = make_owner(), Secrets.read()
    with announced(study.ledger, owner):
        engine = _engine(study, config, workers=workers, memory_limit=memory_limit)
        return _run(study, config, owner=owner, engine=engine, secrets=secrets)


def _engine(
    study: "OpenStudy",
    config: "StudyConfig",
    *,
    workers: int | None,
    memory_limit: int | None,
    began: float | None = None,
) -> "LocalEngine":
    """The workers of this machine; a time limit counts from when the command `began`, in seconds since 1970."""
    from fold_search.search.racing.haste import TimeLimit
    from fold_search.search.running.engines.local import LocalEngine, num_gpus

    num_workers, seconds = workers or max(1, num_gpus()), config.budget.seconds
    limit = None
    if began is not None and seconds is not None:
        limit = TimeLimit(deadline=began + seconds, num_workers=num_workers)
    return LocalEngine(
        url=study.url,
        study=study.record.name,
        config=config,
        num_workers=num_workers,
        memory_limit=memory_limit,
        limit=limit,
    )


def _run(study: "OpenStudy", config: "StudyConfig", *, owner: str, engine: "LocalEngine", secrets: "Secrets") -> int:
    from fold_search.search.errors import ExitCode, RunFailed
    from fold_search.search.running.run import Ending, check_complete, run_study
    from fold_search.search.study.spending import spending
    from fold_search.search.study.stored import misplaced
    from fold_search.storage.artifacts import Artifacts
    from fold_search.storage.errors import StorageUnavailable

    console = new_console()
    if reason := misplaced(study.ledger, Artifacts(config.storage.artifacts)):
        console.print(f"note: {reason}", highlight=False, markup=False, soft_wrap=True)
    try:
        ending = run_study(
            study, config, owner=owner, engine=engine, secrets=secrets, console=console, limit=engine.limit
        )
        print_best(study, console)
        if ending not in (Ending.INTERRUPTED, Ending.KILLED):
            check_complete(study, config)
    except StorageUnavailable as error:
        raise RunFailed(str(error), ExitCode.DATABASE_AWAY) from error
    if ending is Ending.FINISHED:
        console.print(f"next: search serve --study {shlex.quote(study.record.name)}", highlight=False)
        return ExitCode.DONE
    used_up = spending(study.ledger, config.budget).used_up if ending is Ending.SPENT else None
    say(f"nothing is lost; {used_up or 'the same command continues the study'}")
    return ExitCode.DONE if ending in (Ending.TIMEOUT, Ending.SPENT) else ExitCode.INTERRUPTED


def _spent(study: "OpenStudy", config: "StudyConfig", used_up: str) -> int:
    """Say of a study whose hours or money are used up how it would go on. Nothing is trained."""
    from fold_search.search.errors import ExitCode
    from fold_search.search.running.run import check_complete

    check_complete(study, config)
    say(used_up)
    print_best(study, new_console())
    return ExitCode.DONE


def _ended(study: "OpenStudy", config: "StudyConfig") -> int:
    """Say of a study that has no work left how it ended, and how it would go on."""
    from fold_search.search.errors import ExitCode
    from fold_search.search.running.continuing import how_to_add_trials
    from fold_search.search.running.run import check_complete, check_not_failed, last_reason

    check_not_failed(study, config)
    check_complete(study, config)
    console = new_console()
    said = f"study {study.record.name!r} is finished: {last_reason(study.ledger)}; "
    console.print(said + how_to_add_trials(study.ledger, config), highlight=False, markup=False, soft_wrap=True)
    print_best(study, console)
    return ExitCode.DONE
