"""What a worker process runs: it is told of its study, trains until it is to leave, and says with its exit code why."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from fold_search.objectives.stages import Stage, current, stage
from fold_search.search.errors import USER_ERRORS
from fold_search.search.racing.haste import TimeLimit
from fold_search.search.racing.live import live_race
from fold_search.search.running.presence import STOPPED, Held
from fold_search.search.study.attended import WORKER_ROLE
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.rows import StudyRows
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger

if TYPE_CHECKING:
    from fold_search.search.running.worker import Worker

PATIENCE_SECONDS = 600.0  # with a database that went away
TELL_SECONDS = 0.5
LOADING = "loading torch"

# Exit codes: what the process that started it needs to know.
FINISHED = 0
USER_ERROR = 2
LEFT = 3  # it was sent a SIGTERM of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """What a worker process is told; it travels through a pipe, so that no password stands in a process title."""

    url: str
    study: str
    config: StudyConfig
    index: int
    num_workers: int
    memory_limit: int | None
    owner: str
    limit: TimeLimit | None = None  # of the run that started it


def main(
    job: WorkerJob,
    stop: "Connection[str, str]",
    errors: "Connection[str, str]",
    doing: "Connection[Stage | None, Stage | None]",
) -> None:
    """Work until anything comes through `stop`; a user's error goes through `errors`, what is being done by `doing`.

    Ctrl-C reaches the whole group; the parent alone decides what it means.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave = threading.Event()
    told: list[int] = []  # the handler does no more: it may interrupt whoever holds the event's lock
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    threading.Thread(target=watch, args=(stop, leave, told, os.getppid()), name="watch", daemon=True).start()
    threading.Thread(target=tell, args=(doing,), name="tell", daemon=True).start()
    try:
        run_worker(job, leave, told)
    except USER_ERRORS as error:
        with suppress(BrokenPipeError):  # nobody is left to be told
            errors.send(str(error))
        raise SystemExit(USER_ERROR) from None
    if told:
        raise SystemExit(LEFT)


def watch(stop: "Connection[str, str]", leave: threading.Event, told: list[int], parent: int) -> None:
    """Set `leave` when the parent asks or is gone, or once a signal's number is in `told`.

    While torch is loaded the process ends at once. That may take long on a busy machine, and nothing is claimed yet.
    """
    while not (told or stop.poll(1.0) or os.getppid() != parent):
        pass
    leave.set()
    if (doing := current()) and doing.what == LOADING:
        os._exit(LEFT if told else FINISHED)


def tell(doing: "Connection[Stage | None, Stage | None]") -> None:
    """Say for ever what this process is doing. It waits for nobody: what the other side does not take is left out."""
    os.set_blocking(doing.fileno(), False)
    while True:
        # A message is so short that the pipe takes all of it or nothing.
        with suppress(OSError):
            doing.send(current())
        time.sleep(TELL_SECONDS)


def leave_preparation(worker: "Worker", told: list[int]) -> None:
    """End this process as soon as it is to leave and prepares a training, which cannot be stopped in between.

    No epoch is lost. Of what is computed once per study, the last seconds are: the next process goes on with it.
    """
    from fold_search.objectives.tasks.cache import remove_scratch

    worker.stop.wait()
    while not worker.preparing.wait(0.1):
        pass
    with suppress(StorageError):
        worker.ledger.release_owner(worker.owner, reason=STOPPED)
        worker.ledger.release_role(WORKER_ROLE + worker.owner, worker.owner)
    remove_scratch()
    os._exit(LEFT if told else FINISHED)


def run_worker(job: WorkerJob, stop: threading.Event, told: list[int]) -> None:
    """Train fold runs in this process until the study is finished or `stop` is set; `told`: by a signal."""
    began = time.monotonic()
    # They load torch, which the process that starts workers does without.
    with stage(LOADING):
        from fold_search.search.running.objective import (
            Objective,
            choose_device,
            device_name,
            device_share,
            limit_memory,
            share_cores,
        )
        from fold_search.search.running.worker import Worker

    share_cores(job.num_workers)
    if job.memory_limit is not None:
        limit_memory(job.memory_limit)
    engine = connect(job.url, patience_seconds=PATIENCE_SECONDS)
    record = find_study(engine, job.study)
    if record is None:
        raise StorageError(f"study {job.study!r} is not in this database any more")
    ledger = Ledger(engine, record.id)
    rows, device = StudyRows(ledger=ledger, config=job.config), choose_device(job.index)
    worker = Worker(
        ledger=ledger,
        artifacts=Artifacts(job.config.storage.artifacts),
        objective=Objective(rows, device=device, ledger=ledger, memory_limit=job.memory_limit),
        race=live_race(ledger, job.config, limit=job.limit),
        owner=job.owner,
        stop=stop,
        held=Held(device=device_name(device), share=device_share(job.index, job.num_workers), since=began),
        keeps_weights=job.config.artifacts.keep != "none",
        diverged=job.config.study.diverged,
        paused_checkpoints=job.config.artifacts.paused_checkpoints,
    )
    threading.Thread(target=leave_preparation, args=(worker, told), name="leave", daemon=True).start()
    worker.work()
