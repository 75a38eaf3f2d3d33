"""The fold x epoch matrix of a study: all that the race knows.

::

                  fold 0                fold 1                fold 2
    trial 0   0.50 0.58 0.61 DONE   0.48 0.55 0.57 DONE   0.52 0.60 0.62 DONE       complete
    trial 1   0.47 0.53 0.55 DONE   0.44  nan  nan PAUSED  nan  nan  nan WAITING    open
    trial 2   0.31  nan  nan ENDED   nan  nan  nan ENDED   nan  nan  nan ENDED      stopped
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class RunState(IntEnum):
    """A fold run as the race sees it. ENDED: it was stopped together with its trial. FAILED: it ended its trial."""

    WAITING = 0
    RUNNING = 1
    PAUSED = 2
    DONE = 3
    ENDED = 4
    FAILED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All scores of a study, and what was trained with what, trials ascending by number.

    `scores` is (trials, folds, epochs), larger is better: the metric times `sign` at the best epoch so far, NaN where
    nothing was trained, -inf where it was not finite. `states` is (trials, folds), of RunState. `lengths`, (trials,),
    is how many epochs a fold run of the trial has. `params` is (trials, parameters), maybe without columns: a number's
    place in its range, or a choice as a whole number (see `search.study.space.position`).
    `audit_key` names the study in the draw of audited trials; `audited` are the trials that are audited already.
    """

    numbers: NDArray[np.int64]
    scores: FloatArray
    states: NDArray[np.int8]
    lengths: NDArray[np.int64]
    params: FloatArray
    sign: float = 1.0
    audit_key: str = ""
    audited: Set[int] = frozenset()

    def row(self, trial: int) -> int:
        """The row of a trial number; KeyError if it is not in the matrix."""
        row = int(np.searchsorted(self.numbers, trial))
        if row == len(self.numbers) or self.numbers[row] != trial:
            raise KeyError(trial)
        return row

    @property
    def done(self) -> BoolArray:
        """Which folds were trained to their last epoch, (trials, folds)."""
        return np.equal(self.states, RunState.DONE)

    @property
    def complete(self) -> BoolArray:
        """Which trials have all their folds, (trials,)."""
        return np.equal(count(self.done), self.states.shape[1])

    @property
    def open(self) -> BoolArray:
        """Which trials may still be trained, (trials,)."""
        ended = np.greater_equal(self.states, RunState.ENDED)
        return ~(self.complete | (count(ended) > 0))

    @property
    def failed(self) -> BoolArray:
        """Which trials can never be complete, whatever they scored, (trials,)."""
        return count(np.equal(self.states, RunState.FAILED)) > 0

    @property
    def num_epochs(self) -> NDArray[np.int64]:
        """How many epochs of each fold run were trained, (trials, folds)."""
        return count_epochs(self.scores)

    @property
    def standing(self) -> FloatArray:
        """The score of the chosen epoch so far, (trials, folds); NaN where nothing was trained."""
        return last_scores(self.scores)

    def take(self, rows: NDArray[np.int64]) -> "Matrix":
        """Return the matrix of these rows alone."""
        return replace(
            self,
            numbers=self.numbers[rows],
            scores=self.scores[rows],
            states=self.states[rows],
            lengths=self.lengths[rows],
            params=self.params[rows],
        )

    def with_state(self, trial: int, fold: int, state: RunState) -> "Matrix":
        """Return the same matrix with another state of one fold run."""
        states = self.states.copy()
        states[self.row(trial), fold] = state
        return replace(self, states=states)


def count(mask: BoolArray) -> NDArray[np.int64]:
    """How many are true along the last axis. A product is several times as fast as a sum or an any."""
    return np.asarray((mask.astype(np.float32) @ np.ones(mask.shape[-1], np.float32)).astype(np.int64))


def count_epochs(scores: FloatArray) -> NDArray[np.int64]:
    """How many scores are there along the last axis."""
    return count(~np.isnan(scores))


def last_scores(scores: FloatArray, num_epochs: NDArray[np.int64] | None = None) -> FloatArray:
    """The last score that is there along the last axis; NaN where none is. `num_epochs`: if counted."""
    if not scores.shape[-1]:
        return np.full(scores.shape[:-1], np.nan)
    last = np.maximum((count_epochs(scores) if num_epochs is None else num_epochs) - 1, 0)
    found: FloatArray = np.take_along_axis(scores, last[..., None], axis=-1)[..., 0]
    return found


def build_matrix(
    trials: Sequence[tuple[int, int]],
    runs: Sequence[tuple[int, int, RunState]],
    scores: Sequence[tuple[int, int, int, float]],
    *,
    num_folds: int,
    maximize: bool = True,
) -> Matrix:
    """Build the matrix from (trial, its epochs), (trial, fold, state) and (trial, fold, epoch from 1, standing).

    It has no params.
    """
    sign = 1.0 if maximize else -1.0
    ordered = sorted(trials)
    rows = {number: row for row, (number, _) in enumerate(ordered)}
    lengths = np.array([length for _, length in ordered], dtype=np.int64)
    states = np.full((len(rows), num_folds), RunState.WAITING, dtype=np.int8)
    for trial, fold, state in runs:
        states[rows[trial], fold] = state
    most_epochs = max([*lengths.tolist(), *(epoch for _, _, epoch, _ in scores)], default=0)
    values = np.full((len(rows), num_folds, most_epochs), np.nan)
    for trial, fold, epoch, score in scores:
        values[rows[trial], fold, epoch - 1] = sign * score if np.isfinite(score) else -np.inf
    numbers = np.array([number for number, _ in ordered], dtype=np.int64)
    no_params = np.zeros((len(ordered), 0))
    return Matrix(numbers=numbers, scores=values, states=states, lengths=lengths, params=no_params, sign=sign)
