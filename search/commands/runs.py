"""Commands that begin, run and join a study."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fold_search.search.commands.answers import make_steps, new_console, print_best, say
from fold_search.search.commands.completing import complete_setting
from fold_search.search.commands.options import (
    find_study,
    machine_option,
    memory_option,
    storage_option,
    study_option,
)

if TYPE_CHECKING:
    from fold_search.search.running.engines.local import LocalEngine
    from fold_search.search.study.config import StudyConfig
    from fold_search.search.study.environment import Secrets
    from fold_search.search.study.opened import OpenStudy


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
    began, console = time.time(), new_console()
    say_step = make_steps(console)
    say_step(f"reading {file}")  # before the imports, which take seconds
    from fold_search.search.study.config import load_config
    from fold_search.search.study.environment import Secrets

    given = {"budget.trials": trials, "budget.time": timeout, "storage.url": storage}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    notes: list[str] = []
    config = load_config(file, [*overrides, *options], notes=notes)
    secrets = Secrets.read()
    from fold_search.search.reporting.lines import counted
    from fold_search.search.running.continuing import has_work_left, reopen_if_work_is_left
    from fold_search.search.running.engines.local import num_gpus
    from fold_search.search.running.presence import announced, make_owner
    from fold_search.search.study.beginning import begin
    from fold_search.search.study.spending import spending

    num_workers = workers or max(1, num_gpus())
    study = begin(config, name, secrets=secrets, num_workers=num_workers, say=say_step)
    config = study.rows.config if study.rows else config
    for note in (*notes, *study.notes):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    owner = make_owner()
    with announced(study.ledger, owner):
        used_up = spending(study.ledger, config.budget).used_up
        if used_up and has_work_left(study.ledger, config):
            return _spent(study, config, used_up)
        if not reopen_if_work_is_left(study, config):
            return _ended(study, config)
        engine = _engine(study, config, workers=workers, memory_limit=memory_limit, began=began)
        say_step(f"starting {counted(num_workers, 'worker')}")
        return _run(study, config, owner=owner, engine=engine, secrets=secrets, began=began)


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
    began = time.time()
    make_steps(new_console())("opening the study")  # before the imports, which take seconds
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
        return _run(study, config, owner=owner, engine=engine, secrets=secrets, began=began)


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


def _run(
    study: "OpenStudy",
    config: "StudyConfig",
    *,
    owner: str,
    engine: "LocalEngine",
    secrets: "Secrets",
    began: float,
) -> int:
    from fold_search.search.errors import ExitCode, RunFailed
    from fold_search.search.reporting.lines import what_next
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
            study,
            config,
            owner=owner,
            engine=engine,
            secrets=secrets,
            console=console,
            limit=engine.limit,
            memory_limit=engine.memory_limit,
            began=began,
        )
        print_best(study, console)
        if ending not in (Ending.INTERRUPTED, Ending.KILLED):
            check_complete(study, config)
    except StorageUnavailable as error:
        raise RunFailed(str(error), ExitCode.DATABASE_AWAY) from error
    if ending is not Ending.FINISHED:
        used_up = spending(study.ledger, config.budget).used_up if ending is Ending.SPENT else None
        why = "interrupted; " if ending in (Ending.INTERRUPTED, Ending.KILLED) else ""
        say(f"{why}nothing is lost; {used_up or 'the same command continues the study'}")
    if ending not in (Ending.FINISHED, Ending.TIMEOUT, Ending.SPENT):
        return ExitCode.INTERRUPTED
    for line in what_next(study.record.name, url=config.storage.url):
        console.print(line, highlight=False, soft_wrap=True)
    return ExitCode.DONE


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
