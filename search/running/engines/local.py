"""The local engine: worker processes on this machine, spawned, spread over its GPUs, replaced when they die."""

import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fold_search.objectives.cores import settle_threads
from fold_search.search.errors import USER_ERRORS, ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.storage.errors import reason_of

PATIENCE_SECONDS = 600.0  # with a database that went away

# Exit codes of a worker process: what its parent needs to know.
FINISHED = 0
USER_ERROR = 2
LEFT = 3  # it was sent a SIGTERM of its own
MAX_DEATHS = 10
WITHIN_SECONDS = 600.0


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


@dataclass(slots=True, kw_only=True)
class LocalEngine:
    """N spawned worker processes of one study."""

    url: str
    study: str
    config: StudyConfig
    num_workers: int
    memory_limit: int | None = None
    deaths: list[float] = field(default_factory=list)  # when, by time.monotonic
    error: str | None = None
    too_many_deaths: bool = False  # that is the error, and no user's
    _stopping: bool = False
    _workers: dict[int, "_Process"] = field(default_factory=dict)

    def start(self) -> None:
        """Start every worker; raises ConfigError if one cannot be started, and then `kill` ends the others."""
        settle_threads(self.num_workers)
        for index in range(self.num_workers):
            self._workers[index] = self._spawn(index)

    def tend(self) -> list[str]:
        """Replace the workers that died or left, unless all are to leave, and return the owners of those that are gone.

        `error` is set when going on makes no sense: a user's error, or too many deaths in too short a time.
        """
        dead = []
        for index, worker in list(self._workers.items()):
            if worker.process.exitcode is None or worker.process.exitcode == FINISHED:
                continue
            dead.append(worker.owner)
            if worker.process.exitcode == USER_ERROR:
                self.error = worker.message()
                del self._workers[index]
                continue
            if worker.process.exitcode != LEFT:
                self._count_death(worker.process.exitcode)
            if self._stopping or self.error:
                del self._workers[index]
            else:
                self._workers[index] = self._spawn(index)
        return dead

    def _count_death(self, exitcode: int) -> None:
        now = time.monotonic()
        self.deaths = [*(at for at in self.deaths if now - at < WITHIN_SECONDS), now]
        if len(self.deaths) > MAX_DEATHS:
            found = f"{len(self.deaths)} worker processes died within {WITHIN_SECONDS / 60:.0f} minutes"
            self.error = f"{found}, the last with exit code {exitcode}"
            self.too_many_deaths = True

    def stop(self) -> None:
        """Ask every worker to leave after the epoch in hand; none is replaced from now on."""
        self._stopping = True
        for worker in self._workers.values():
            with suppress(OSError):  # it is gone already
                worker.stop.send("leave")

    def alive(self) -> bool:
        """Whether any worker process still runs."""
        return any(worker.process.is_alive() for worker in self._workers.values())

    def kill(self) -> list[str]:
        """End every worker now; returns their owners, whose leases can be freed at once."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.join()
        return [worker.owner for worker in self._workers.values()]

    def _spawn(self, index: int) -> "_Process":
        """Start a worker; raises ConfigError if the machine lets no more be started."""
        context = multiprocessing.get_context("spawn")
        owner = make_owner()
        job = WorkerJob(
            url=self.url,
            study=self.study,
            config=self.config,
            index=index,
            num_workers=self.num_workers,
            memory_limit=self.memory_limit,
            owner=owner,
        )
        # Pipes, not an Event: to set one waits for every process that waits for it, also for those that were killed.
        try:
            stopped, stop = context.Pipe(duplex=False)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_main, args=(job, stopped, sender), name=owner)
            process.start()
        except OSError as error:
            found = f"worker {index + 1} of {self.num_workers} cannot be started: {reason_of(error)}"
            raise ConfigError(
                f"--workers: {found}; expected fewer workers, or a machine that allows more processes"
            ) from None
        stopped.close()
        sender.close()
        return _Process(process=process, owner=owner, stop=stop, errors=receiver)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    process: SpawnProcess
    owner: str
    stop: "multiprocessing.connection.Connection[str, str]"
    errors: "multiprocessing.connection.Connection[str, str]"

    def message(self) -> str:
        """The one line that a worker left behind when it ended with a user's error."""
        try:
            return self.errors.recv() if self.errors.poll() else "a worker ended without a message"
        except EOFError:
            return "a worker ended without a message"


def make_owner() -> str:
    """A name for a worker or coordinator that no other process has, on any machine, at any time."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def num_gpus() -> int:
    """How many NVIDIA GPUs this machine shows, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _main(
    job: WorkerJob,
    stop: "multiprocessing.connection.Connection[str, str]",
    errors: "multiprocessing.connection.Connection[str, str]",
) -> None:
    """The worker process. Ctrl-C reaches the whole group; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave = threading.Event()
    told: list[int] = []  # the handler does no more: it may interrupt whoever holds the event's lock
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    threading.Thread(target=_watch, args=(stop, leave, told, os.getppid()), name="watch", daemon=True).start()
    try:
        run_worker(job, leave)
    except USER_ERRORS as error:
        with suppress(BrokenPipeError):  # nobody is left to be told
            errors.send(str(error))
        raise SystemExit(USER_ERROR) from None
    if told:
        raise SystemExit(LEFT)


def _watch(
    stop: "multiprocessing.connection.Connection[str, str]", leave: threading.Event, told: list[int], parent: int
) -> None:
    """Leave after the epoch in hand when the parent asks or is gone, or when this process is told to."""
    while not (told or stop.poll(1.0) or os.getppid() != parent):
        pass
    leave.set()


def run_worker(job: WorkerJob, stop: threading.Event) -> None:
    """Train fold runs in this process until the study is finished or `stop` is set."""
    from fold_search.search.racing.live import live_race
    from fold_search.search.running.objective import Objective, choose_device, limit_memory, share_cores
    from fold_search.search.running.worker import Worker
    from fold_search.search.study.rows import StudyRows
    from fold_search.storage.artifacts import Artifacts
    from fold_search.storage.catalog import find_study
    from fold_search.storage.database import connect
    from fold_search.storage.errors import StorageError
    from fold_search.storage.ledger import Ledger

    share_cores(job.num_workers)
    if job.memory_limit is not None:
        limit_memory(job.memory_limit)
    engine = connect(job.url, patience_seconds=PATIENCE_SECONDS)
    record = find_study(engine, job.study)
    if record is None:
        raise StorageError(f"study {job.study!r} is not in this database any more")
    ledger = Ledger(engine, record.id)
    rows, device = StudyRows(ledger=ledger, config=job.config), choose_device(job.index)
    Worker(
        ledger=ledger,
        artifacts=Artifacts(job.config.storage.artifacts),
        objective=Objective(rows, device=device, ledger=ledger, memory_limit=job.memory_limit),
        race=live_race(ledger, job.config),
        owner=job.owner,
        stop=stop,
        keeps_weights=job.config.artifacts.keep != "none",
        diverged=job.config.study.diverged,
        paused_checkpoints=job.config.artifacts.paused_checkpoints,
    ).work()
