"""`search run` and `search worker`: workers of this machine, a coordinator (or its stand-in) and the publisher."""

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from rich.console import Console

from fold_search.search.errors import ConfigError, ExitCode, RunFailed
from fold_search.search.racing.haste import TimeLimit
from fold_search.search.racing.live import LiveRace, live_race
from fold_search.search.reporting.provisional import find_provisional
from fold_search.search.reporting.summary import summarise
from fold_search.search.running.baselines import Baselines
from fold_search.search.running.continuing import has_work_left, how_to_add_trials
from fold_search.search.running.coordinator import MAX_ATTEMPTS, Coordinator
from fold_search.search.running.engines.engine import Engine
from fold_search.search.running.meter import Meter
from fold_search.search.running.presence import ENDED
from fold_search.search.running.progress import Progress
from fold_search.search.running.pruning import Pruning
from fold_search.search.running.publish import make_publisher
from fold_search.search.running.worker_process import PATIENCE_SECONDS
from fold_search.search.study.attended import WORKER_ROLE
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.environment import Secrets
from fold_search.search.study.opened import OpenStudy
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.spending import spending
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import Publisher
from fold_search.storage.records import EventKind, StudyState, TrialState

STEP_SECONDS = 0.2
DRAIN_SECONDS = 60.0
BASELINE_SECONDS = 60.0
LEAVE_SECONDS = 3.0  # for the trackers, of a run whose time is used or that was interrupted


class Ending(StrEnum):
    """Why a run ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    SPENT = "spent"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    FAILED = "failed"


@dataclass(slots=True)
class Interrupts:
    """Counts Ctrl-C and SIGTERM: the first asks to leave after the step in hand, the second to leave now."""

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


def run_study(
    study: OpenStudy,
    config: StudyConfig,
    *,
    owner: str,
    engine: Engine,
    secrets: Secrets,
    console: Console,
    limit: TimeLimit | None = None,
    memory_limit: int | None = None,
    began: float | None = None,
) -> Ending:
    """Run the study as `owner`, who may have announced it, with the workers of `engine`.

    `began` is when the command began, in seconds since 1970.

    Raises ConfigError if a worker cannot work at all, RunFailed if too many of them died or too many trials failed in a
    row; StorageError.
    """
    race = live_race(study.ledger, config, limit=limit)
    coordinator = _coordinator(study, config, race=race, owner=owner)
    baselines = Baselines(ledger=study.ledger, config=config, url=study.url, memory_limit=memory_limit)
    deadline = None if limit is None else limit.deadline
    shown = Progress(study.ledger, console, doing=engine.doing, race=race, deadline=deadline, began=began)
    with interrupts() as counter, shown as progress:
        publisher = make_publisher(study, config, secrets=secrets, warn=progress.say)
        try:
            publisher.start()
            going = RunLoop(
                ledger=study.ledger,
                coordinator=coordinator,
                engine=engine,
                progress=progress,
                meter=Meter(ledger=study.ledger, budget=config.budget, say=progress.say),
                counter=counter,
                baselines=baselines,
            )
            if deadline is None or time.time() < deadline:
                engine.start()
                baselines.start()
            ending = going.to_its_end(deadline)
            if ending is Ending.FINISHED:
                with contextlib.suppress(StorageUnavailable):
                    _await(baselines, counter, limit=limit)
                    coordinator.show_baselines()
        finally:
            baselines.kill()
            owners = engine.kill()
            # Without the database the leases lapse by themselves.
            with contextlib.suppress(StorageUnavailable):
                _release(study.ledger, owners, reason=ENDED)
                coordinator.leave()
        with contextlib.suppress(StorageUnavailable):
            progress.update(now=True)
            if ending is not Ending.KILLED:
                _drain(publisher, progress, study.record.name, ending=ending)
    _check_workers(engine)
    check_not_failed(study, config)
    finished = study.ledger.study().state is StudyState.FINISHED
    return Ending.FINISHED if ending in (Ending.TIMEOUT, Ending.SPENT) and finished else ending


def _coordinator(study: OpenStudy, config: StudyConfig, *, race: LiveRace, owner: str) -> Coordinator:
    rows = study.rows or StudyRows(ledger=study.ledger, config=config)
    artifacts = Artifacts(config.storage.artifacts)
    return Coordinator(
        ledger=study.ledger,
        config=config,
        race=race,
        url=study.url,
        owner=owner,
        pooled_score=rows.pooled_score,
        prune=Pruning(ledger=study.ledger, artifacts=artifacts, settings=config.artifacts).prune,
    )


def _check_workers(engine: Engine) -> None:
    """Raise RunFailed if too many workers died, ConfigError if one of them said that it cannot work at all."""
    if engine.too_many_deaths:
        raise RunFailed(f"{engine.error}; nothing is lost; the same command continues the study", ExitCode.WORKERS_DIE)
    if engine.error:
        raise ConfigError(engine.error)


@dataclass(slots=True, kw_only=True)
class RunLoop:
    """The loop of a run: coordinate, tend the workers, show progress, and stop in good order when it is time."""

    ledger: Ledger
    coordinator: Coordinator
    engine: Engine
    progress: Progress
    meter: Meter
    counter: Interrupts
    baselines: Baselines
    ending: Ending = Ending.FINISHED
    outage_since: float | None = None

    def to_its_end(self, deadline: float | None) -> Ending:
        """Loop until the study is finished, a budget is used up or the user interrupts."""
        working = True
        while working or self.engine.alive():
            working = self.once()
            if not working:
                self.engine.stop()  # in a study that failed fold runs may be under way
            if self.counter.count >= 2:
                return Ending.KILLED
            if self.ending is Ending.FINISHED:
                self._leave_if_due(deadline)
            elif not self.engine.alive():
                self.once()
                break
            time.sleep(STEP_SECONDS)
        return self.ending

    def once(self) -> bool:
        """Do what is due once; return whether the study still has work. Waits out an outage of the database."""
        try:
            working = self.coordinator.step()
            _release(self.ledger, self.engine.tend(), reason="its worker died", max_attempts=MAX_ATTEMPTS)
            self.progress.update()
            self.meter.look()
            self.baselines.tend()
            self.outage_since = None
            return working
        except StorageUnavailable as error:
            if self.outage_since is None:
                self.outage_since = time.monotonic()
                self.progress.say(f"{error}; trying again for up to {PATIENCE_SECONDS:.0f} s; nothing is lost")
            if time.monotonic() - self.outage_since > PATIENCE_SECONDS:
                waited = f"gave up after {PATIENCE_SECONDS:.0f} s; the same command continues the study"
                raise StorageUnavailable(f"{error}; {waited}") from error
            return True

    def _leave_if_due(self, deadline: float | None) -> None:
        if self.engine.error:
            self.ending = Ending.FAILED
        elif self.counter.count:
            self.ending = Ending.INTERRUPTED
        elif deadline is not None and time.time() > deadline:
            self.ending = Ending.TIMEOUT
        elif self.meter.used_up:
            self.ending = Ending.SPENT
        else:
            return
        self.coordinator.asking = False
        self.engine.stop()
        self.baselines.kill()
        if self.engine.alive():
            self.progress.say(_LEAVING[self.ending])


_LEAVING = {
    Ending.INTERRUPTED: "stopping after the current step; press Ctrl-C again to stop now",
    Ending.FAILED: "a worker cannot continue; stopping after the current step",
    Ending.TIMEOUT: "the time limit is reached; stopping after the current step",
    Ending.SPENT: "the budget is used up; stopping after the current step",
}


def _release(ledger: Ledger, owners: Iterable[str], *, reason: str, max_attempts: int | None = None) -> None:
    """Free at once what dead workers held, rather than wait for their leases to lapse."""
    for owner in owners:
        ledger.release_owner(owner, reason=reason, max_attempts=max_attempts)
        ledger.release_role(WORKER_ROLE + owner, owner)


def _await(baselines: Baselines, counter: Interrupts, *, limit: TimeLimit | None) -> None:
    """Wait for baselines that take longer than the whole study did, but not for long."""
    until = time.time() + BASELINE_SECONDS
    until = until if limit is None else min(until, limit.deadline)
    baselines.tend(now=True)
    while baselines.alive() and not counter.count and time.time() < until:
        time.sleep(STEP_SECONDS)
        baselines.tend(now=True)


def check_not_failed(study: OpenStudy, config: StudyConfig) -> None:
    """Raise RunFailed, which says how to continue, if the study ended because its trials fail."""
    if study.ledger.study().state is not StudyState.FAILED:
        return
    left = has_work_left(study.ledger, config)
    command = "`search run` continues it" if left else how_to_add_trials(study.ledger, config)
    raise RunFailed(f"{last_reason(study.ledger)}; once the cause is fixed, {command}", ExitCode.TRIALS_FAIL)


def check_complete(study: OpenStudy, config: StudyConfig) -> None:
    """Raise RunFailed, which says how to continue, if no trial is complete: a script must not go on to export one."""
    summary = summarise(study.ledger)
    if summary.best is not None:
        return
    if study.ledger.study().state is StudyState.RUNNING:
        hint = "; `search export` gives a provisional model" if find_provisional(study.ledger) else ""
        if not summary.epochs_trained:
            hint = "; no epoch is trained yet: the rows are prepared first, and the next run goes on with that"
            hint += "" if config.data.kind == "image" else "; `search export --baseline` gives the TF-IDF baseline"
        on = spending(study.ledger, config.budget).used_up or "the same command continues the study"
        raise RunFailed(f"no trial is complete yet; {on}{hint}", ExitCode.NONE_COMPLETE)
    ended = ", ".join(f"{count} {state}" for state, count in summary.trials.items()) or "none begun"
    reasons = [trial.reason for trial in study.ledger.trials() if trial.failure and trial.reason]
    last = f"; last failure: {reasons[-1]}" if reasons else ""
    all_failed = set(summary.trials) == {TrialState.FAILED.value}
    raise RunFailed(
        f"no trial is complete ({ended}{last}); {how_to_add_trials(study.ledger, config)}",
        ExitCode.TRIALS_FAIL if all_failed else ExitCode.NONE_COMPLETE,
    )


def last_reason(ledger: Ledger) -> str:
    """Why the study ended the last time."""
    ended = ledger.last_events([EventKind.STUDY_FINISHED], limit=1)
    return str(ended[0].payload["reason"]) if ended else "the study has ended"


def _drain(publisher: Publisher, progress: Progress, study: str, *, ending: Ending) -> None:
    """Let the trackers catch up; what they could not take stays in the ledger."""
    seconds = DRAIN_SECONDS if ending is Ending.FINISHED else LEAVE_SECONDS
    for tracker, left in publisher.drain(timeout_seconds=seconds).items():
        if left:
            progress.say(
                f"{tracker}: {left} events are not published yet; to publish them: search publish --study {study}"
            )
