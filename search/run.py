"""`search run` and `search worker`: workers of this machine, a coordinator (or its stand-in) and the publisher."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from rich.console import Console

from search.config import StudyConfig
from search.coordinator import MAX_ATTEMPTS, Coordinator
from search.engines.local import LocalEngine, make_owner
from search.environment import Secrets
from search.errors import ConfigError
from search.presence import WORKER_ROLE
from search.progress import Progress
from search.publish import make_publisher
from search.study import OpenStudy
from storage.ledger import Ledger
from storage.publishing import Publisher

STEP_SECONDS = 0.2
DRAIN_SECONDS = 60.0


class Ending(StrEnum):
    """Why a run ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


@dataclass(slots=True)
class Interrupts:
    """Counts Ctrl-C and SIGTERM: the first asks to leave after the epoch in hand, the second to leave now."""

    count: int = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Count one more; a signal handler."""
        self.count += 1


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Count interrupts instead of raising KeyboardInterrupt, and restore the handlers afterwards."""
    counter = Interrupts()
    previous = {number: signal.signal(number, counter) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield counter
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_study(study: OpenStudy, config: StudyConfig, *, num_workers: int, secrets: Secrets, console: Console) -> Ending:
    """Run the study; raises ConfigError, DataError or StorageError if a worker cannot work at all."""
    coordinator = Coordinator(ledger=study.ledger, config=config, url=study.url, owner=make_owner())
    engine = LocalEngine(url=study.url, study=study.record.name, config=config, num_workers=num_workers)
    with interrupts() as counter, Progress(study.ledger, console) as progress:
        publisher = make_publisher(study, config, secrets=secrets, warn=progress.say)
        publisher.start()
        engine.start()
        try:
            ending = _loop(coordinator, engine, config=config, counter=counter, progress=progress)
        finally:
            for owner in engine.kill():
                _release(study.ledger, owner, reason="the run ended")
            coordinator.leave()
        progress.update(now=True)
        if ending is not Ending.KILLED:
            _drain(publisher, progress, study.record.name)
    if engine.error:
        raise ConfigError(engine.error)
    return ending


def _loop(
    coordinator: Coordinator,
    engine: LocalEngine,
    *,
    config: StudyConfig,
    counter: Interrupts,
    progress: Progress,
) -> Ending:
    deadline = time.monotonic() + config.budget.seconds if config.budget.seconds else None
    ending = Ending.FINISHED
    leaving = False
    while True:
        working = coordinator.step()
        for owner in engine.tend():
            _release(coordinator.ledger, owner, reason="its worker died")
        progress.update()
        if counter.count >= 2:
            return Ending.KILLED
        if not working and not engine.alive():
            return ending
        if leaving and not engine.alive():
            coordinator.step()
            return ending
        if not leaving and (counter.count or engine.error or _passed(deadline)):
            ending = Ending.INTERRUPTED if counter.count or engine.error else Ending.TIMEOUT
            leaving = True
            coordinator.asking = False
            engine.stop()
            progress.say(_LEAVING[ending])
        time.sleep(STEP_SECONDS)


_LEAVING = {
    Ending.INTERRUPTED: "leaving after the epoch in hand; once more to leave now",
    Ending.TIMEOUT: "the time budget is used; leaving after the epoch in hand",
}


def _release(ledger: Ledger, owner: str, *, reason: str) -> None:
    """Free at once what a dead worker held, rather than wait for its leases to lapse."""
    ledger.release_owner(owner, reason=reason, max_attempts=MAX_ATTEMPTS)
    ledger.release_role(WORKER_ROLE + owner, owner)


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _drain(publisher: Publisher, progress: Progress, study: str) -> None:
    """Let the trackers catch up; what they could not take stays in the ledger."""
    for tracker, left in publisher.drain(timeout_seconds=DRAIN_SECONDS).items():
        if left:
            progress.say(f"{tracker}: {left} events are not published yet; `search publish --study {study}` does it")
