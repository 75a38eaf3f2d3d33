"""The race: a pure policy over the fold x epoch matrix that says whether a trial goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from search.config import RaceConfig

FloatArray = NDArray[np.float64]


class Decision(StrEnum):
    """What the race wants of a trial."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and, unless it is to continue, the reason in words for people."""

    decision: Decision
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All scores of a study.

    `scores` is (trials, folds, epochs), larger is better: the metric times `sign` at the epoch that is chosen so far,
    NaN where nothing was trained, -inf where it was not finite. `done` is (trials, folds): the fold was trained to its
    last epoch.
    """

    numbers: NDArray[np.int64]
    scores: FloatArray
    done: NDArray[np.bool_]
    sign: float = 1.0

    def row(self, trial: int) -> int:
        """The row of a trial number; KeyError if the trial has no scores."""
        found = np.flatnonzero(self.numbers == trial)
        if not found.size:
            raise KeyError(trial)
        return int(found[0])


def build_matrix(
    scores: Sequence[tuple[int, int, int, float]],
    done: Sequence[tuple[int, int]],
    *,
    num_folds: int,
    maximize: bool = True,
) -> Matrix:
    """Build the matrix from (trial, fold, epoch from 1, standing) and the (trial, fold) that are done."""
    sign = 1.0 if maximize else -1.0
    numbers = sorted({trial for trial, *_ in scores})
    rows = {number: row for row, number in enumerate(numbers)}
    num_epochs = max((epoch for _, _, epoch, _ in scores), default=0)
    values = np.full((len(numbers), num_folds, num_epochs), np.nan)
    for trial, fold, epoch, score in scores:
        values[rows[trial], fold, epoch - 1] = sign * score if np.isfinite(score) else -np.inf
    finished = np.zeros((len(numbers), num_folds), dtype=bool)
    for trial, fold in done:
        if trial in rows:
            finished[rows[trial], fold] = True
    return Matrix(numbers=np.array(numbers, dtype=np.int64), scores=values, done=finished, sign=sign)


def verdict(matrix: Matrix, *, trial: int, fold: int, settings: RaceConfig) -> Verdict:
    """Judge a trial after an epoch of `fold`, or after that fold's end.

    Diverged training always stops. Rule `forgiving` (after Bergman, Purucker and Hutter 2024, arXiv 2405.03389, but
    paired): a trial stops when its mean over the folds it has finished is not better than the incumbent's worst of
    those same folds; and within a fold when even the largest late gain seen on that fold would leave it there.
    """
    row = matrix.row(trial)
    if np.isneginf(matrix.scores[row, fold]).any():
        return Verdict(decision=Decision.STOP, reason="diverged: the score is not finite")
    incumbent = _incumbent(matrix, settings.min_trials)
    if settings.rule == "none" or incumbent is None or matrix.done[row].all():
        return Verdict(decision=Decision.CONTINUE)
    own = _chosen(matrix.scores[row])
    reference = _chosen(matrix.scores[incumbent])
    judged = matrix.done[row].copy()
    if not judged[fold]:
        epoch = int(np.isfinite(matrix.scores[row, fold]).sum())
        if epoch < settings.min_epochs:
            return Verdict(decision=Decision.CONTINUE)
        gains = _gains(matrix, fold=fold, epoch=epoch)
        if gains.size < settings.min_trials:
            return Verdict(decision=Decision.CONTINUE)
        judged[fold] = True
        own[fold] += gains.max()
    mean, floor = float(own[judged].mean()), float(reference[judged].min())
    if mean > floor:
        return Verdict(decision=Decision.CONTINUE)
    kind = "behind:" if matrix.done[row, fold] else "hopeless: at best"
    reason = (
        f"{kind} {matrix.sign * mean:.4f} over {int(judged.sum())} of {judged.size} folds, not better than "
        f"{matrix.sign * floor:.4f}, the worst of them of trial {int(matrix.numbers[incumbent])}"
    )
    return Verdict(decision=Decision.STOP, reason=reason)


def estimate(matrix: Matrix, *, trial: int) -> float | None:
    """Estimate a trial's final mean of the metric; exact once all folds are done, None without a finite score.

    A partial trial is compared with the complete ones on its own folds, and the difference is shrunk towards 0 by
    k / (k + noise / spread): k folds seen, `noise` the trial x fold variance, `spread` the variance between trials.
    """
    if trial not in matrix.numbers:
        return None
    row = matrix.row(trial)
    values = _chosen(matrix.scores[row])
    if matrix.done[row].all() and np.isfinite(values).all():
        return matrix.sign * float(values.mean())
    for fold in np.flatnonzero(np.isfinite(values) & ~matrix.done[row]):
        gains = _gains(matrix, fold=int(fold), epoch=int(np.isfinite(matrix.scores[row, fold]).sum()))
        values[fold] += float(np.median(gains)) if gains.size else 0.0
    seen = np.isfinite(values)
    if not seen.any():
        return None
    complete = np.flatnonzero(matrix.done.all(axis=1))
    if not complete.size:
        return matrix.sign * float(values[seen].mean())
    reference = _chosen(matrix.scores[complete])
    fold_means = reference.mean(axis=0)
    weight = seen.sum() / (seen.sum() + _noise_ratio(reference))
    return matrix.sign * float(fold_means.mean() + weight * (values[seen] - fold_means[seen]).mean())


def _chosen(scores: FloatArray) -> FloatArray:
    """The chosen epoch's score per fold, (..., folds), which is the last one's standing; -inf where there is none."""
    num_epochs = (~np.isnan(scores)).sum(axis=-1)
    if not scores.shape[-1]:
        return np.full(scores.shape[:-1], -np.inf)
    last = np.take_along_axis(scores, np.maximum(num_epochs - 1, 0)[..., None], axis=-1)[..., 0]
    return np.where(num_epochs > 0, last, -np.inf)


def _incumbent(matrix: Matrix, min_trials: int) -> int | None:
    """Row of the best complete trial, once enough are complete to judge others by."""
    complete = np.flatnonzero(matrix.done.all(axis=1))
    if complete.size < max(min_trials, 1):
        return None
    return int(complete[_chosen(matrix.scores[complete]).mean(axis=1).argmax()])


def _gains(matrix: Matrix, *, fold: int, epoch: int) -> FloatArray:
    """How much the trials that finished `fold` with more than `epoch` epochs still gained on it after `epoch`."""
    curves = matrix.scores[matrix.done[:, fold], fold]
    curves = curves[np.isfinite(curves).sum(axis=1) > epoch]
    gains: FloatArray = _chosen(curves) - _chosen(curves[:, :epoch])
    return gains


def _noise_ratio(reference: FloatArray) -> float:
    """Trial x fold variance over the variance between trials' true means, from complete trials (trials, folds)."""
    num_trials, num_folds = reference.shape
    if num_trials < 3:
        return 1.0
    means = reference.mean(axis=1, keepdims=True)
    residual = reference - means - reference.mean(axis=0, keepdims=True) + reference.mean()
    noise = float((residual**2).sum() / ((num_trials - 1) * (num_folds - 1)))
    spread = float(means.var(ddof=1)) - noise / num_folds
    return float(np.clip(noise / max(spread, 1e-12), 0.1, 10.0))
