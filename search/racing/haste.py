"""What is trained while a budget runs out: the folds of one good trial, so that there is a complete one."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Action, Choice
from fold_search.search.study.attended import WORKER_ROLE
from fold_search.search.study.sections import BudgetConfig
from fold_search.search.study.spending import spending
from fold_search.storage.records import EventKind
from fold_search.storage.view import LedgerView

MARGIN = 2.0  # how many times as long as it needs a trial is given: epochs differ in length, and a fold takes a start
RECENT_EPOCHS = 20
HALF_LIFE = 5  # epochs, after which one counts half: a machine may become slower
RECONSIDER_SECONDS = 2.0  # a choice depends on the clock too: it is made anew though nothing has happened


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimit:
    """When the time of a run is over, in seconds since 1970, and how many workers it has."""

    deadline: float
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Haste:
    """Chooses in place of the race once the time that is left is short for the best trial that is begun.

    `limit` is that of the run, by `clock`, if it has one; `seconds_left` are those that the study's budgets of hours
    and money leave; `epoch_seconds` says how long an epoch takes by now, None if that is not known.
    """

    limit: TimeLimit | None
    live_workers: Callable[[], int]
    epoch_seconds: Callable[[], float | None]
    seconds_left: Callable[[], float] = lambda: math.inf
    clock: Callable[[], float] = time.time

    def choose(self, matrix: Matrix) -> Choice | None:
        """Choose a fold run; None as long as the race is to choose.

        Where a trial is complete, only one is hurried that is expected to be better and can be complete in time.
        """
        num_epochs = matrix.num_epochs
        begun = matrix.open & (num_epochs.sum(axis=1) > 0)
        seconds = self.epoch_seconds()
        if seconds is None or not begun.any():
            return None
        left, num_workers = self._left()
        epochs_left = np.where(matrix.done, 0, matrix.lengths[:, None] - num_epochs)
        needed = seconds * np.maximum(epochs_left.sum(axis=1) / num_workers, epochs_left.max(axis=1))
        in_time = begun & (needed <= left)
        hurried = in_time if in_time.any() or matrix.complete.any() else begun
        if not hurried.any() or left > MARGIN * needed[hurried].max():
            return None
        expected = estimates(matrix)
        worth = np.array([matrix.sign * expected.get(number, -np.inf) for number in matrix.numbers.tolist()])
        best = int(np.where(hurried, worth, -np.inf).argmax())
        free = np.isin(matrix.states[best], (RunState.WAITING, RunState.PAUSED))
        if left > MARGIN * needed[best] or worth[best] <= worth[matrix.complete].max(initial=-np.inf) or not free.any():
            return None
        fold = int(np.where(free, num_epochs[best], -1).argmax())
        return Choice(action=Action.RUN, trial=int(matrix.numbers[best]), fold=fold)

    def _left(self) -> tuple[float, int]:
        """The seconds until the first of the limits, and the workers that train until then.

        Workers of other runs go on when this run's time is over: beside them its limit hurries nothing. Hours and money
        end all of them at once.
        """
        num_live, left = self.live_workers(), self.seconds_left()
        if self.limit is None or num_live > self.limit.num_workers:
            return left, max(num_live, 1)
        return min(left, self.limit.deadline - self.clock()), self.limit.num_workers


def haste(ledger: LedgerView, limit: TimeLimit | None, budget: BudgetConfig) -> Haste:
    """The haste of a run with a time limit, or of a study with a budget of hours or money."""

    def epoch_seconds() -> float | None:
        events = ledger.last_events([EventKind.EPOCH], limit=RECENT_EPOCHS)
        weights = 0.5 ** (np.arange(len(events)) / HALF_LIFE)
        return float(np.average([event.payload["seconds"] for event in events], weights=weights)) if events else None

    return Haste(
        limit=limit,
        live_workers=lambda: len(ledger.live_roles(WORKER_ROLE)),
        epoch_seconds=epoch_seconds,
        seconds_left=lambda: spending(ledger, budget).seconds_left if budget.is_shared else math.inf,
    )
