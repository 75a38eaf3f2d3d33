"""What the sampler is told of a trial: its mean over all folds, or what the race expects of that."""

import numpy as np

from search.racing.beliefs import believe
from search.racing.gains import FEWEST_CURVES
from search.racing.matrix import FloatArray, Matrix


def estimates(matrix: Matrix) -> dict[int, float]:
    """Return what the final mean of each trial is expected to be, in the metric's own sign; exact for complete ones.

    Trials without a score, and those with one that is not finite, have none.
    """
    if not matrix.numbers.size:
        return {}
    standing = matrix.standing
    # Before there are curves to learn from, what a trial has reached is the best guess.
    guess = matrix.done.any(axis=1) | (matrix.done.sum() >= FEWEST_CURVES)
    mean = np.where(guess, believe(matrix).mean, _mean_of_known(standing))
    known = np.isfinite(standing).any(axis=1) & ~np.isneginf(standing).any(axis=1) & np.isfinite(mean)
    return {int(matrix.numbers[row]): matrix.sign * float(mean[row]) for row in np.flatnonzero(known)}


def _mean_of_known(standing: FloatArray) -> FloatArray:
    there = np.isfinite(standing)
    means: FloatArray = np.where(there, standing, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return means
