"""The local engine: worker processes on this machine, spawned, spread over its GPUs, replaced when they die."""

import multiprocessing
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fold_search.objectives.cores import settle_threads
from fold_search.objectives.stages import Stage
from fold_search.search.errors import ConfigError
from fold_search.search.racing.haste import TimeLimit
from fold_search.search.running import worker_process
from fold_search.search.running.presence import make_owner
from fold_search.search.running.worker_process import FINISHED, LEFT, USER_ERROR, WorkerJob
from fold_search.search.study.config import StudyConfig
from fold_search.storage.errors import reason_of

MAX_DEATHS = 10
WITHIN_SECONDS = 600.0


@dataclass(slots=True, kw_only=True)
class LocalEngine:
    """An `Engine`: N spawned worker processes of one study."""

    url: str
    study: str
    config: StudyConfig
    num_workers: int
    memory_limit: int | None = None
    limit: TimeLimit | None = None  # of the run
    deaths: list[float] = field(default_factory=list)  # when, by time.monotonic
    error: str | None = None
    too_many_deaths: bool = False  # that is the error, and no user's
    _stopping: bool = False
    _workers: dict[int, "LocalWorker"] = field(default_factory=dict)

    def start(self) -> None:
        """Start every worker; raises ConfigError if one cannot be started, and then `kill` ends the others."""
        settle_threads(self.num_workers)
        for index in range(self.num_workers):
            self._workers[index] = self.spawn(index)

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
                self._workers[index] = self.spawn(index)
        return dead

    def _count_death(self, exitcode: int) -> None:
        now = time.monotonic()
        self.deaths = [*(at for at in self.deaths if now - at < WITHIN_SECONDS), now]
        if len(self.deaths) > MAX_DEATHS:
            found = f"{len(self.deaths)} worker processes died within {WITHIN_SECONDS / 60:.0f} minutes"
            self.error = f"{found}, the last with exit code {exitcode}"
            self.too_many_deaths = True

    def stop(self) -> None:
        """Ask every worker to leave after the step in hand; none is replaced from now on."""
        self._stopping = True
        for worker in self._workers.values():
            with suppress(OSError):  # it is gone already
                worker.stop.send("leave")

    def alive(self) -> bool:
        """Whether any worker process still runs."""
        return any(worker.process.is_alive() for worker in self._workers.values())

    def doing(self) -> dict[str, Stage | None]:
        """What each worker that lives said last that it is doing, by owner; None: nothing."""
        workers = (worker for _, worker in sorted(self._workers.items()))
        return {worker.owner: worker.doing() for worker in workers if worker.process.is_alive()}

    def kill(self) -> list[str]:
        """End every worker now; returns their owners, whose leases can be freed at once."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.join()
        return [worker.owner for worker in self._workers.values()]

    def spawn(self, index: int) -> "LocalWorker":
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
            limit=self.limit,
        )
        # Pipes, not an Event: to set one waits for every process that waits for it, also for those that were killed.
        try:
            stopped, stop = context.Pipe(duplex=False)
            receiver, sender = context.Pipe(duplex=False)
            heard, told = context.Pipe(duplex=False)
            process = context.Process(target=worker_process.main, args=(job, stopped, sender, told), name=owner)
            process.start()
        except OSError as error:
            found = f"worker {index + 1} of {self.num_workers} cannot be started: {reason_of(error)}"
            raise ConfigError(
                f"--workers: {found}; expected fewer workers, or a machine that allows more processes"
            ) from None
        stopped.close()
        sender.close()
        told.close()
        return LocalWorker(process=process, owner=owner, stop=stop, errors=receiver, heard=heard)


@dataclass(slots=True, kw_only=True)
class LocalWorker:
    """A worker process, as its engine sees it."""

    process: SpawnProcess
    owner: str
    stop: "Connection[str, str]"
    errors: "Connection[str, str]"
    heard: "Connection[Stage | None, Stage | None]"
    _last: Stage | None = field(default_factory=lambda: Stage(what="starting"))

    def doing(self) -> Stage | None:
        """What the worker said last that it is doing."""
        with suppress(EOFError, OSError):  # it is gone; whoever tends the workers sees to that
            while self.heard.poll():
                self._last = self.heard.recv()
        return self._last

    def message(self) -> str:
        """The one line that a worker left behind when it ended with a user's error."""
        try:
            return self.errors.recv() if self.errors.poll() else "a worker ended without a message"
        except EOFError:
            return "a worker ended without a message"


def num_gpus() -> int:
    """How many NVIDIA GPUs this machine shows, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
