"""What the ledger's tests run in processes of their own."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from sqlalchemy import Engine

from fold_search.storage.catalog import create_study
from fold_search.storage.changes import changing
from fold_search.storage.database import connect, migrate
from fold_search.storage.errors import LeaseLost
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind, FoldRunState, StudyRecord, TrialState
from tests.claims import claim_first
from tests.warm import warm_context

NUM_PROCESSES = 8
NUM_FOLDS = 3
together: Barrier


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What a training reports, without the training room and its torch."""

    epoch: int
    score: float = 0.5
    standing: float = 0.5
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 1.5


class Crowd:
    """Eight processes that call something at the same moment."""

    def __init__(self) -> None:
        context = warm_context()
        barrier = (context.Barrier(NUM_PROCESSES),)
        self._pool = ProcessPoolExecutor(NUM_PROCESSES, context, initializer=_remember, initargs=barrier)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each of `function(*arguments, number)` returned, for the numbers 0 to 7."""
        calls = [self._pool.submit(_call, function, *arguments, number) for number in range(NUM_PROCESSES)]
        return [call.result(timeout=120) for call in calls]

    def close(self) -> None:
        self._pool.shutdown()


def _remember(barrier: Barrier) -> None:
    global together
    together = barrier


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    together.wait(timeout=120)
    return function(*arguments)


def new_study(engine: Engine, *, name: str = "study", direction: str = "maximize") -> StudyRecord:
    return create_study(
        engine,
        name=name,
        config={"model": {"encoder": "tiny"}},
        metric="macro_f1",
        direction=direction,
        fingerprints={"data": "d1", "folds": "f1"},
        provenance={"python": "3.11"},
        assignments=np.arange(9, dtype=np.int16) % NUM_FOLDS,
    )


def create(url: str, number: int) -> int:
    """Migrate and create the study, as the first of a search's processes does."""
    engine = connect(url)
    migrate(engine)
    study = new_study(engine)
    engine.dispose()
    return study.id


def claim_all(url: str, study_id: int, number: int) -> list[tuple[int, int]]:
    """Claim and finish fold runs until none is waiting; returns their trials and folds."""
    engine = connect(url)
    ledger = Ledger(engine, study_id)
    claimed = []
    while (claim := claim_first(ledger, f"worker-{number}", lease_seconds=60)) is not None:
        claimed.append((claim.trial, claim.fold))
        ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)
    engine.dispose()
    return claimed


def claim_one(url: str, study_id: int, number: int) -> int | None:
    """Claim one fold run that all processes want; returns the token of whoever got it."""
    engine = connect(url)
    claim = Ledger(engine, study_id).claim_run(f"worker-{number}", trial=0, fold=1, lease_seconds=60)
    engine.dispose()
    return None if claim is None else claim.token


def work(url: str, study_id: int, number: int) -> None:
    """Write every kind of change, on trials of its own and on fold runs of everybody's."""
    engine = connect(url)
    ledger = Ledger(engine, study_id)
    for trial in range(number, 4 * NUM_PROCESSES, NUM_PROCESSES):
        ledger.add_trial(trial, {})
        for _ in range(2):
            # Its trial may be finished by another process in the meantime.
            with suppress(LeaseLost):
                _train(ledger, f"worker-{number}", stop=trial % 2 == 1)
        ledger.expire_leases(max_attempts=3)
        ledger.finish_trial(trial, TrialState.STOPPED, reason="enough")
    engine.dispose()


def _train(ledger: Ledger, owner: str, *, stop: bool) -> None:
    if (claim := claim_first(ledger, owner, lease_seconds=60)) is None:
        return
    ledger.renew(claim, lease_seconds=60)
    if ledger.record_epoch(claim, Epoch(epoch=1), checkpoint=None) is not TrialState.RUNNING or stop:
        ledger.stop_trial(claim, reason="weak")
    else:
        ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)


def die_inside_a_change(url: str, study_id: int) -> None:
    """Lose power between a change's first write and its commit."""
    with changing(connect(url), study_id) as change:
        change.event(EventKind.STUDY_REOPENED, {})
        change.commit_events()
        os.kill(os.getpid(), signal.SIGKILL)
