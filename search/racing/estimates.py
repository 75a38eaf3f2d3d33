"""What the sampler is told of a trial: its mean over all folds, or what that is expected to be."""

import numpy as np

from search.racing.forgiving import late_gains
from search.racing.matrix import FloatArray, Matrix, last_scores


def estimate(matrix: Matrix, *, trial: int) -> float | None:
    """Estimate a trial's final mean of the metric; exact once all folds are done, None without a finite score.

    A partial trial is compared with the complete ones on its own folds, and the difference is shrunk towards 0 by
    k / (k + noise / spread): k folds seen, `noise` the trial x fold variance, `spread` the variance between trials.
    """
    if trial not in matrix.numbers:
        return None
    row = matrix.row(trial)
    values = np.where(np.isfinite(matrix.standing[row]), matrix.standing[row], -np.inf)
    if matrix.done[row].all() and np.isfinite(values).all():
        return matrix.sign * float(values.mean())
    for fold in np.flatnonzero(np.isfinite(values) & ~matrix.done[row]):
        gains = late_gains(matrix, fold=int(fold), epoch=int(matrix.num_epochs[row, fold]))
        values[fold] += float(np.median(gains)) if gains.size else 0.0
    seen = np.isfinite(values)
    if not seen.any():
        return None
    complete = np.flatnonzero(matrix.complete)
    if not complete.size:
        return matrix.sign * float(values[seen].mean())
    reference = last_scores(matrix.scores[complete])
    fold_means = reference.mean(axis=0)
    weight = seen.sum() / (seen.sum() + _noise_ratio(reference))
    return matrix.sign * float(fold_means.mean() + weight * (values[seen] - fold_means[seen]).mean())


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
