"""The baselines of a study: computed once, in a process of their own beside the workers, which nothing waits for."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess

from fold_search.objectives.baselines.folds import (
    MAJORITY,
    STATES,
    TFIDF,
    FoldRows,
    Scored,
    count_rows,
    label_of,
    score_folds,
    score_majority,
)
from fold_search.objectives.baselines.states import predict_states
from fold_search.search.errors import USER_ERRORS, ConfigError
from fold_search.search.running.presence import host_of, make_owner
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.rows import StudyRows
from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.errors import LeaseLost, StorageError, StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import BaselineRecord
from fold_search.storage.view import LedgerView

BASELINE_ROLE = "baselines"
LIMIT_SECONDS = 300.0
LEASE_SECONDS = 30.0
WAIT_SECONDS = 1.0
LOOK_SECONDS = 5.0
NO_MEMORY = "there was not enough memory for it"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineJob:
    """What the process is told; through a pipe, as a worker's."""

    url: str
    study: str
    config: StudyConfig
    owner: str
    memory_limit: int | None = None


@dataclass(slots=True, kw_only=True)
class Baselines:
    """Computes what the ledger lacks, unless another process does; `kill` may be called at any time.

    What was not recorded by then is computed by the next run.
    """

    ledger: Ledger
    config: StudyConfig
    url: str
    memory_limit: int | None = None
    _owner: str = ""
    _process: SpawnProcess | None = None
    _ends: float = 0.0
    _look_again: float = 0.0
    _over: bool = False
    _tried: set[str] = field(default_factory=set)  # what this run has begun to compute

    def start(self) -> None:
        """Begin, if there is anything to compute by now."""
        self._look_again = time.monotonic() + LOOK_SECONDS
        names = set(missing(self.ledger, self.config))
        if names <= self._tried:
            return
        self._tried |= names
        self._owner = make_owner()
        job = BaselineJob(
            url=self.url,
            study=self.ledger.study().name,
            config=self.config,
            owner=self._owner,
            memory_limit=self.memory_limit,
        )
        process = multiprocessing.get_context("spawn").Process(target=main, args=(job,), name=BASELINE_ROLE)
        process.daemon = True
        with suppress(OSError):  # the machine lets no more be started: the search does without
            process.start()
            self._process, self._ends = process, time.monotonic() + LIMIT_SECONDS

    def tend(self, *, now: bool = False) -> None:
        """Begin again once the states of a frozen encoder are there; looks every five seconds, unless `now`."""
        waits = uses_states(self.config) and STATES not in self._tried
        if waits and not self._over and (now or time.monotonic() > self._look_again) and not self.alive():
            self._end()
            self.start()

    def alive(self) -> bool:
        """Whether it is still at it, and may be."""
        return self._process is not None and self._process.is_alive() and time.monotonic() < self._ends

    def kill(self) -> None:
        """End it now and for good."""
        self._over = True
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            with suppress(StorageUnavailable):  # the role lapses by itself
                self.ledger.release_role(BASELINE_ROLE, self._owner)


def missing(ledger: LedgerView, config: StudyConfig) -> list[str]:
    """The baselines that such a study has, and that nobody has recorded."""
    if not config.study.baselines:
        return []
    wanted = [MAJORITY] if config.data.kind == "image" else [MAJORITY, TFIDF]
    known = {found.name for found in ledger.baselines()}
    if uses_states(config) and STATES not in known and trained_here(ledger) is not None:
        wanted.append(STATES)
    return [name for name in wanted if name not in known]


def uses_states(config: StudyConfig) -> bool:
    """Whether the study trains heads alone, on images or relations: its encoder's states are computed anyway."""
    is_frozen = config.model.trainable_layers == 0 and "trainable_layers" not in config.space
    return config.study.baselines and is_frozen and config.data.kind != "text"


def trained_here(ledger: LedgerView) -> int | None:
    """A trial of which this machine has trained an epoch, so that its states are in the cache here."""
    here = socket.gethostname()
    trials = (run.trial for run in ledger.fold_runs() if run.num_epochs and host_of(run.owner or "") == here)
    return next(trials, None)


def main(job: BaselineJob) -> None:
    """Compute and record what is missing, for a limited time; Ctrl-C is the parent's to understand."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = connect(job.url)
    record = find_study(engine, job.study)
    if record is None:
        return
    ledger = Ledger(engine, record.id)
    if not take_role(ledger, job):
        return
    threading.Thread(target=keep_role, args=(ledger, job), name="limit", daemon=True).start()
    ledger = ledger.fenced(BASELINE_ROLE, job.owner)
    try:
        if job.memory_limit is not None:
            from fold_search.search.running.objective import limit_memory  # loads torch

            limit_memory(job.memory_limit)
        compute(ledger, StudyRows(ledger=ledger, config=job.config))
    except LeaseLost:
        pass  # this process slept for minutes, and another one computes them
    except USER_ERRORS as error:  # of the database or the data: the workers say so, and the next run tries again
        log.warning("the baselines are not computed now: %s", error)
    finally:
        with suppress(StorageUnavailable):
            ledger.release_role(BASELINE_ROLE, job.owner)


def take_role(ledger: Ledger, job: BaselineJob) -> bool:
    """Wait for the role while another process computes, which may have died; False once nothing is missing."""
    until = time.monotonic() + LIMIT_SECONDS
    while missing(ledger, job.config) and time.monotonic() < until:
        if ledger.acquire_role(BASELINE_ROLE, job.owner, lease_seconds=LEASE_SECONDS):
            return True
        time.sleep(WAIT_SECONDS)
    return False


def compute(ledger: Ledger, rows: StudyRows) -> None:
    """Compute and record what is missing; what fails is recorded with the reason, and fails nothing else.

    Raises DataError, ConfigError, StorageError of the study's rows and of the database.
    """
    names = missing(ledger, rows.config)
    if names:
        rows.dataset  # noqa: B018 - what is wrong with the rows is not the baseline's failure
    for name in names:
        began = time.monotonic()
        found = _found(name, rows)
        ledger.record_baseline(replace(found, seconds=time.monotonic() - began))


def _found(name: str, rows: StudyRows) -> BaselineRecord:
    label = label_of(name, rows.config.data.task)
    try:
        scored, note = _scored_states(rows) if name == STATES else _scored(name, fold_rows(rows))
    except StorageUnavailable:
        raise
    except MemoryError:
        return BaselineRecord(name=name, label=label, reason=NO_MEMORY)
    except Exception as error:
        log.debug("%s failed", name, exc_info=error)
        return BaselineRecord(name=name, label=label, reason=str(error) or type(error).__name__)
    return BaselineRecord(
        name=name,
        label=label,
        score=scored.score,
        std=scored.std,
        pooled=scored.pooled,
        fold_scores=scored.fold_scores,
        reason=note,
    )


def _scored(name: str, rows: FoldRows) -> tuple[Scored, str | None]:
    if name == MAJORITY:
        return score_majority(rows), None
    counted = count_rows(rows)
    folds = [(chosen, predicted) for _, chosen, predicted in counted.fold_models()]
    return score_folds(rows, folds), counted.note


def _scored_states(rows: StudyRows) -> tuple[Scored, str | None]:
    from fold_search.search.running.objective import Objective  # loads torch

    trial = trained_here(rows.ledger)
    states = None if trial is None else Objective(rows, device="cpu").frozen_states(rows.ledger.params()[trial])
    if states is None:
        raise ConfigError("the trials train more than a head on the encoder's states")
    split = fold_rows(rows)
    return score_folds(split, list(predict_states(split, states))), None


def fold_rows(rows: StudyRows) -> FoldRows:
    """The study's rows as a baseline needs them; raises DataError, ConfigError."""
    config = rows.config
    return FoldRows(
        dataset=rows.dataset,
        splits=[rows.split(fold) for fold in range(config.folds.k)],
        goal=rows.goal,
        seed=config.study.seed,
        form=config.model.entity_form,
    )


def keep_role(ledger: Ledger, job: BaselineJob) -> None:
    """Renew the role. When it takes too long, record that and end the process: a fit cannot be stopped in between."""
    until = time.monotonic() + LIMIT_SECONDS
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LEASE_SECONDS / 3))
        with suppress(StorageUnavailable):
            ledger.acquire_role(BASELINE_ROLE, job.owner, lease_seconds=LEASE_SECONDS)
    with suppress(LeaseLost, StorageError):
        for name in missing(ledger, job.config):
            label, reason = label_of(name, job.config.data.task), f"it took longer than {LIMIT_SECONDS:.0f} s"
            found = BaselineRecord(name=name, label=label, reason=reason, seconds=LIMIT_SECONDS)
            ledger.fenced(BASELINE_ROLE, job.owner).record_baseline(found)
        ledger.release_role(BASELINE_ROLE, job.owner)
    os._exit(0)
