"""What the sampler is told of a trial: its mean over all folds, or what the race expects of that."""

from dataclasses import replace

import numpy as np

from fold_search.search.racing.beliefs import believe, rows_that_count
from fold_search.search.racing.gains import FEWEST_CURVES
from fold_search.search.racing.matrix import FloatArray, Matrix, RunState


def estimates(matrix: Matrix) -> dict[int, float]:
    """Return what the final mean of each trial is expected to be, in the metric's own sign; exact for complete ones.

    Trials without a score, those with one that is not finite, and those that were stopped long ago have none.
    """
    if not matrix.numbers.size:
        return {}
    matrix = matrix.take(rows_that_count(matrix))
    # To the race a fold run that was stopped says nothing any more; the sampler learns from it as from a paused one.
    matrix = replace(matrix, states=np.where(matrix.states >= RunState.ENDED, RunState.PAUSED, matrix.states))
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
