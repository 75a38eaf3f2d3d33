"""The paired race: train first what is most likely to become a new best for its cost; stop what hardly can.

::

    a worker is free        --> promise of each trial = chance to be the best / work left --> train the largest promise
    an epoch is done        --> only after the epochs in RUNGS, and at the end of a fold:
                                the chance is below the trial's share of the risk --> stop
                                another trial promises PATIENCE times as much     --> pause
                                else                                              --> go on

"Paired" means that trials are compared on the same folds, so the difference between easy and hard folds cancels out.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from fold_search.search.racing.beliefs import Beliefs, believe
from fold_search.search.racing.matrix import BoolArray, FloatArray, Matrix, RunState, count
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict, percent

# The epochs after which a fold run is judged: later on, one more epoch tells less.
RUNGS = frozenset({1, 2, 3, 4, 6, 8, 11, 14, 18, 24, 32, 42, 56, 75, 100})
CROWD = 0.25  # how much less a further fold run of a trial is worth for each one that is being trained
PATIENCE = 2.0  # a fold run is paused if another one promises this many times as much
NEARLY_DONE = (
    0.8  # a trial with this share of its work done is finished: stopping it saves little and may lose the best
)
SURPRISE = 0.03  # chance per study that the estimate of its best trial is wrong, as replays showed


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The rule's settings: see RaceConfig."""

    risk: float
    audit: float
    min_trials: int
    min_epochs: int
    breadth: bool = False

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Judge a trial within a fold, at the rungs, or at a fold's end."""
        row = matrix.row(trial)
        finished = bool(matrix.done[row, fold])
        epoch = int((~np.isnan(matrix.scores[row, fold])).sum())
        if not finished and (epoch < self.min_epochs or epoch not in RUNGS):
            return Verdict(decision=Decision.CONTINUE)
        # Nothing to compare with yet: there is no best trial, or too few others to know how folds and curves behave.
        if matrix.complete[row] or matrix.done[:, 0].sum() < self.min_trials or not matrix.complete.any():
            return Verdict(decision=Decision.CONTINUE)
        num_trials = len(matrix.numbers) + trials_left
        beliefs = _believe_with_surprise(matrix, num_trials)
        chance = float(beliefs.chance[row])
        if beliefs.trained[row] >= NEARLY_DONE and not matrix.failed[row]:
            return Verdict(decision=Decision.CONTINUE, chance=chance)
        # Every trial may use an equal share of the risk. So all stops together lose the best with at most that risk.
        if chance <= self.risk / num_trials:
            if is_audited(matrix, trial, share=self.audit):
                # It is trained on when nothing else is left to do.
                decision = Decision.PAUSE if trials_left else Decision.CONTINUE
                return Verdict(
                    decision=decision,
                    reason="the race would have stopped it; it is trained to the end as a check (audit)",
                    chance=chance,
                    audited=True,
                )
            return Verdict(decision=Decision.STOP, reason=self._reason(matrix, beliefs, row), chance=chance)
        # At the study's end the audits alone are trained: what other trials promise does not count any more.
        only_audits_run = not trials_left and not self._is_worth_it(beliefs, matrix)
        if finished or (only_audits_run and is_audited(matrix, trial, share=self.audit)):
            return Verdict(decision=Decision.CONTINUE, chance=chance)
        promise = _promise(matrix, beliefs, trials_left=trials_left)
        others = np.where(count(_may_run(matrix)) > 0, promise / _crowd(matrix), 0.0)
        others[row] = 0.0
        best = max(float(others.max()), _promise_of_a_new_one(beliefs) if trials_left else 0.0)
        if best > PATIENCE * float(promise[row]):
            return Verdict(
                decision=Decision.PAUSE,
                reason="another trial is worth more for the same training time",
                chance=chance,
            )
        return Verdict(decision=Decision.CONTINUE, chance=chance)

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """Choose the fold run, or the new trial, with the most chance of a new best for its cost."""
        may_run = _may_run(matrix)
        candidates = count(may_run) > 0
        beliefs = _believe_with_surprise(matrix, len(matrix.numbers) + trials_left)
        fresh = candidates & _is_fresh(matrix, beliefs)
        if self.breadth and fresh.any():
            return _run(matrix, may_run, int(fresh.argmax()))
        promise = np.where(candidates, _promise(matrix, beliefs, trials_left=trials_left) / _crowd(matrix), -1.0)
        row = int(promise.argmax()) if promise.size else -1
        best = float(promise[row]) if row >= 0 and not self.breadth else 0.0
        if trials_left and best <= _promise_of_a_new_one(beliefs) and not (fresh & (promise > 0)).any():
            return Choice(action=Action.START)
        if candidates.any():
            if trials_left or self._is_worth_it(beliefs, matrix):
                return _run(matrix, may_run, row)
            open_trials = np.flatnonzero(candidates).tolist()
            audited = [r for r in open_trials if is_audited(matrix, int(matrix.numbers[r]), share=self.audit)]
            if audited:
                return _run(matrix, may_run, audited[0])
        if (matrix.states == RunState.RUNNING).any():
            return Choice(action=Action.WAIT)
        left = {int(matrix.numbers[row]): float(beliefs.chance[row]) for row in np.flatnonzero(candidates)}
        return Choice(action=Action.END, chances=left)

    def _is_worth_it(self, beliefs: Beliefs, matrix: Matrix) -> bool:
        """Whether the unfinished trials together still have a larger chance to be the best than the risk allows."""
        return beliefs.best is None or float(beliefs.chance.sum()) > self.risk

    def _reason(self, matrix: Matrix, beliefs: Beliefs, row: int) -> str:
        # Without the trial's own estimate: it is recorded when the trial ends, and the sampler is told that one number.
        best = 0 if beliefs.best is None else beliefs.best
        score, number = matrix.sign * beliefs.mean[best], int(matrix.numbers[best])
        return f"{percent(beliefs.chance[row])} chance to beat {score:.4f} of trial {number}, the best one"


def _believe_with_surprise(matrix: Matrix, num_trials: int) -> Beliefs:
    """Raise every chance, since any trial may surprise: by its untrained share, and by SURPRISE in the whole study."""
    beliefs = believe(matrix)
    possible = ~(matrix.complete | matrix.failed)
    surprise = SURPRISE / max(num_trials, 1) * (1 - beliefs.trained)
    return replace(beliefs, chance=np.where(possible, np.minimum(beliefs.chance + surprise, 1.0), 0.0))


def is_audited(matrix: Matrix, trial: int, *, share: float) -> bool:
    """Whether this trial is one of the share that is trained to its end, to check the race's estimates.

    It is drawn at random: alike in every process of a study, differently in every study. A trial that is recorded as
    audited stays so, even if another version of this program drew it.
    """
    digest = hashlib.sha256(f"audit/{matrix.audit_key}/{trial}".encode()).digest()
    return trial in matrix.audited or int.from_bytes(digest[:4], "big") < share * 2**32


def _is_fresh(matrix: Matrix, beliefs: Beliefs) -> BoolArray:
    """Which trials have not been trained at all, (trials,)."""
    return np.equal(beliefs.trained, 0) & np.equal(count(matrix.states == RunState.RUNNING), 0)


def _may_run(matrix: Matrix) -> BoolArray:
    waiting = (matrix.states == RunState.WAITING) | (matrix.states == RunState.PAUSED)
    return np.asarray(waiting & matrix.open[:, None])


def _promise(matrix: Matrix, beliefs: Beliefs, *, trials_left: int) -> FloatArray:
    """The chance of a new best divided by the share of a trial's work that is left, (trials,).

    A trial that was not begun promises what any new trial does, times its outlook by params. If that is below 1, it
    promises nothing while other trials can be drawn instead.
    """
    # At least half an epoch's share: otherwise a trial that is nearly trained would promise without bound.
    smallest = 0.5 / matrix.states.shape[1] / max(int(matrix.lengths.max(initial=1)), 1)
    begun = beliefs.chance / np.maximum(1 - beliefs.trained, smallest)
    outlook = np.where((beliefs.outlook >= 1) | (trials_left == 0), beliefs.outlook, 0.0)
    return np.where(_is_fresh(matrix, beliefs), _promise_of_a_new_one(beliefs) * outlook, begun)


def _crowd(matrix: Matrix) -> FloatArray:
    """The divisor of a trial's promise, (trials,), by how many of its fold runs are in training.

    Early on, one fold tells nearly as much about a trial as five. But a likely best trial is complete sooner if several
    of its folds are trained at once.
    """
    crowd: FloatArray = 1 + CROWD * count(matrix.states == RunState.RUNNING).astype(np.float64)
    return crowd


def _promise_of_a_new_one(beliefs: Beliefs) -> float:
    """A new trial is the best of n + 1 alike ones with chance 1 / (n + 1), and costs as much as the average trial."""
    begun = beliefs.trained > 0
    num_begun = int(begun.sum())
    if not num_begun:
        return 1.0
    return 1 / (num_begun + 1) / max(float(beliefs.trained[begun].mean()), 1e-3)


def _run(matrix: Matrix, may_run: BoolArray, row: int) -> Choice:
    """A paused fold first, then the first that waits."""
    paused = np.flatnonzero(may_run[row] & (matrix.states[row] == RunState.PAUSED))
    fold = int(paused[0]) if paused.size else int(may_run[row].argmax())
    return Choice(action=Action.RUN, trial=int(matrix.numbers[row]), fold=fold)
