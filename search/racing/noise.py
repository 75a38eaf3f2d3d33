"""How trials and folds differ: score = level of the trial + effect of the fold + noise, fitted to finished folds."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fold_search.search.racing.matrix import BoolArray, FloatArray

ITERATIONS = 6
PRIOR_DEGREES = 6.0  # how many residuals the first guess of the noise is worth
FIRST_GUESS = 0.7  # of the noise's standard deviation, as a share of the trials' spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The two-way model of the better half of the trials.

    `effects` (folds,) is what each fold adds, with mean 0, estimated from `counts` (folds,) trials. `variance` is that
    of the rest, the trial x fold interaction, estimated from `degrees` residuals.
    """

    effects: FloatArray
    variance: float
    degrees: float
    counts: FloatArray


def fit_noise(values: FloatArray, done: BoolArray) -> Noise:
    """Fit the model to the finished folds' scores, (trials, folds), by expectation maximisation.

    Trials are random effects, so that a fold on which only promising trials were trained is not taken for an easy one:
    scores are missing because of scores that are in the matrix (Rubin 1976). Only the better half of the trials counts:
    bad configurations fail differently on every fold, and tell nothing about the noise near the best.
    """
    seen = done & np.isfinite(values)
    return _fit(np.where(seen, values, np.nan).tobytes(), values.shape)


# Arrays as bytes can be a key: until the next fold run ends, the answer is the same.
@lru_cache(maxsize=4)
def _fit(scores_or_nan: bytes, shape: tuple[int, ...]) -> Noise:
    values = np.frombuffer(scores_or_nan).reshape(shape)
    seen = ~np.isnan(values)
    rows = np.flatnonzero(seen.any(axis=1))
    if not rows.size:
        return Noise(effects=np.zeros(shape[1]), variance=1.0, degrees=0.0, counts=np.zeros(shape[1]))
    first = np.where(seen[rows], values[rows], 0.0).sum(axis=1) / seen[rows].sum(axis=1)
    rows = rows[first >= np.median(first)]
    seen = seen[rows]
    scores = np.where(seen, values[rows], 0.0)
    counts = seen.sum(axis=1)
    per_fold = seen.sum(axis=0)
    means = scores.sum(axis=1) / counts
    level = float(means.mean())
    spread = max(float(means.var()), 1e-12)
    variance = FIRST_GUESS**2 * spread
    guess = variance
    effects = np.zeros(values.shape[1])
    # Of a two-way layout: each trial's level and each fold's effect, but for one, uses up a score.
    residuals_left = max(float(seen.sum() - len(rows) - (per_fold > 0).sum() + 1), 0.0)
    for _ in range(ITERATIONS):
        # Each trial's level by its scores, drawn to the mean of all: the more, the fewer folds it has.
        precision = 1 / spread + counts / variance
        levels = (level / spread + ((scores - effects) * seen).sum(axis=1) / variance) / precision
        effects = np.where(per_fold > 0, ((scores - levels[:, None]) * seen).sum(axis=0) / np.maximum(per_fold, 1), 0.0)
        # The effects have mean 0 over the folds that were seen; the levels take what they had.
        shift = effects[per_fold > 0].mean()
        effects = np.where(per_fold > 0, effects - shift, 0.0)
        levels = levels + shift
        level = float(levels.mean())
        spread = max(float(((levels - level) ** 2 + 1 / precision).mean()), 1e-12)
        # The residuals are taken from a trial's own mean: from the drawn level they would be too large.
        own = ((scores - effects) * seen).sum(axis=1) / counts
        squares = float((((scores - effects - own[:, None]) * seen) ** 2).sum())
        variance = max((squares + PRIOR_DEGREES * guess) / (residuals_left + PRIOR_DEGREES), 1e-12)
    return Noise(
        effects=effects,
        variance=variance,
        degrees=residuals_left + PRIOR_DEGREES,
        counts=per_fold.astype(np.float64),
    )
