"""What a winner is worth on rows that did not choose it: its score without the gain of choosing; pure functions.

The best of many trials is partly the luckiest, and its epochs were chosen on the rows that they are scored on. So each
fold is scored as if it had had no say: at the trial and the epoch that the other folds choose (as in Tsamardinos et al.
2018, Machine Learning 107, of which this is the form without resampling).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Curves = Mapping[int, Sequence[Sequence[float]]]  # by trial: each fold's score after each epoch


def corrected_scores(curves: Curves, *, maximise: bool) -> list[float]:
    """Return the score of each fold, (folds,), at the trial and epoch that the other folds choose.

    `curves` has the trials whose folds are all trained, at least one; there are two folds or more.
    """
    sign = 1.0 if maximise else -1.0
    padded = {trial: _padded(folds, sign) for trial, folds in curves.items()}
    num_folds = len(next(iter(padded.values())))
    corrected = []
    for fold in range(num_folds):
        others = {trial: np.delete(scores, fold, axis=0).mean(axis=0) for trial, scores in padded.items()}
        chosen = max(others, key=lambda trial: others[trial].max())
        corrected.append(sign * float(padded[chosen][fold, others[chosen].argmax()]))
    return corrected


def _padded(folds: Sequence[Sequence[float]], sign: float) -> NDArray[np.float64]:
    """Return the scores, larger is better, (folds, epochs): a fold that ended earlier goes on with its best epoch."""
    padded = np.full((len(folds), max(map(len, folds))), np.nan)
    for row, scores in zip(padded, folds, strict=True):
        row[: len(scores)] = sign * np.array(scores)
        row[~np.isfinite(row)] = -np.inf
        row[len(scores) :] = row.max()
    return padded
