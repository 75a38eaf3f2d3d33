"""What the race estimates of every trial: its mean over all folds, and its chance to be the best.

::

    finished folds --------------------------------+
    partly trained folds -- as finished curves ----+--> the trial's level --> mean over all folds --> chance to beat
    params ---------------- as other trials' levels +                         and its deviation       the best trial
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from fold_search.search.racing.gains import FinishedCurves, finished_curves
from fold_search.search.racing.matrix import FloatArray, Matrix, last_scores
from fold_search.search.racing.noise import Noise, fit_noise
from fold_search.search.racing.surrogate import look_out

FLOOR = 4.0  # the lowest level: this many times as far below the upper quartile as the best is above it
MOST_ENDED = 300  # of the stopped and failed trials, how many of the latest count


@dataclass(frozen=True, slots=True, kw_only=True)
class Beliefs:
    """For every trial of the matrix, each (trials,), larger is better.

    `mean` and `deviation` describe the trial's mean over all folds; they are exact for complete trials. `chance` is the
    chance to be better than the best complete trial. While no trial is complete, it is the chance to be better than the
    trial with the best expected mean. It is 0 for complete and failed trials. `trained` is the share of the trial's
    epochs that are trained. `outlook` is the chance to be the best by its params alone, divided by that of the trials
    that were begun, on average; 1 if params tell nothing. `best` is the row of the best complete trial.
    """

    mean: FloatArray
    deviation: FloatArray
    chance: FloatArray
    trained: FloatArray
    outlook: FloatArray
    best: int | None
    noise: Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownFolds:
    """What is known of every fold run, each (trials, folds), and what it is known from.

    `share` is 1 for a finished fold and 0 for one of which nothing is known. `residual` is the fold's score without the
    effect of its rows, and `precision` is 1 over the variance with which it measures the trial's level.
    """

    share: FloatArray
    residual: FloatArray
    precision: FloatArray
    noise: Noise
    num_curves: int

    @property
    def unknown(self) -> FloatArray:
        """How many folds of each trial are unknown, (trials,)."""
        unknown: FloatArray = (1 - self.share).sum(axis=1)
        return unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Every trial's level by its own scores and their variance, each (trials,); anything finite where not `seen`.

    The level of a trial that diverged is finite and far below all others. `offset` is what the effects of the folds add
    to a level on average. `center` and `spread` describe all levels.
    """

    value: FloatArray
    variance: FloatArray
    seen: NDArray[np.bool_]
    offset: float
    center: float
    spread: float


def known_levels(matrix: Matrix) -> Levels:
    """The level of every trial of which a finished fold, or a part of one that can be predicted, is known."""
    standing = last_scores(matrix.scores, matrix.num_epochs)
    return _levels(_known_folds(matrix, standing, fit_noise(standing, matrix.done)))


def believe(matrix: Matrix) -> Beliefs:
    """Estimate every trial from all scores so far.

    A score is y = level + effect + noise: the trial's level, the effect of the fold's rows, and noise (see
    `fit_noise`). k folds of a trial are finished; partly trained ones count as far as they can be predicted. The mean
    over all K folds is then normal around
    mean(effects) + (sum of what is known + (K - known share) x posterior level) / K.
    """
    rows = rows_that_count(matrix)
    if len(rows) < len(matrix.numbers):
        return _spread(believe(matrix.take(rows)), rows, len(matrix.numbers))
    standing = last_scores(matrix.scores, matrix.num_epochs)  # (trials, folds)
    folds = _known_folds(matrix, standing, fit_noise(standing, matrix.done))
    prior, spread = _prior(matrix.params, _levels(folds))
    mean, variance = _final_means(folds, prior=prior, spread=spread)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    complete, num_folds = matrix.complete, standing.shape[1]
    mean[complete] = standing[complete].mean(axis=1)
    deviation[complete] = 0.0
    best = _best(complete, mean)
    trained = matrix.num_epochs.sum(axis=1) / np.maximum(matrix.lengths * num_folds, 1)
    alone = folds.noise.effects.mean() + prior, spread + folds.noise.variance / num_folds
    return Beliefs(
        mean=mean,
        deviation=deviation,
        chance=_chance(matrix, folds, mean=mean, variance=variance, best=best),
        trained=trained,
        outlook=_outlook(*alone, mean, best, begun=trained > 0),
        best=best,
        noise=folds.noise,
    )


def _known_folds(matrix: Matrix, standing: FloatArray, noise: Noise) -> _KnownFolds:
    curves = finished_curves(matrix, standing, noise.effects)
    values, uncertainty = _predict_folds(matrix, standing, curves)
    precision = np.where(np.isfinite(uncertainty), 1 / (noise.variance + uncertainty), 0.0)
    share = noise.variance * precision
    residual = np.where(share > 0, values - noise.effects, 0.0)
    residual = np.where(np.isfinite(residual), residual, -1e9)  # diverged: below all others, and sums stay numbers
    return _KnownFolds(share=share, residual=residual, precision=precision, noise=noise, num_curves=len(curves.rows))


def _final_means(folds: _KnownFolds, *, prior: FloatArray, spread: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of each trial's mean over all folds, (trials,).

    `prior` and `spread` are the mean and the variance of its level, (trials,), before any fold has measured it.
    """
    noise, known, unknown, num_folds = folds.noise, folds.share, folds.unknown, folds.share.shape[1]
    # A normal prior for each trial's level, and every fold as a measurement of it.
    level_precision = 1 / spread + folds.precision.sum(axis=1)
    level = (prior / spread + (folds.precision * folds.residual).sum(axis=1)) / level_precision
    mean = noise.effects.mean() + ((known * folds.residual).sum(axis=1) + unknown * level) / num_folds
    # An error in the level is the same in all unknown folds; the noise of each fold is its own.
    variance = (unknown**2 / level_precision + noise.variance * unknown) / num_folds**2
    # The effects of folds, of the known and of the unknown ones, are estimated from few trials. `reach` is how far an
    # error in the effect of a known fold moves the expected sum of the unknown ones.
    doubt = noise.variance / np.maximum(noise.counts, 1.0)
    reach = unknown * (1 - 1 / (spread * level_precision)) / np.maximum(known.sum(axis=1), 1e-9)
    variance += ((1 - known) @ doubt + reach**2 * (known @ doubt)) / num_folds**2
    return mean, variance


def _chance(
    matrix: Matrix, folds: _KnownFolds, *, mean: FloatArray, variance: FloatArray, best: int | None
) -> FloatArray:
    """Each trial's chance as Beliefs has it, (trials,)."""
    rivals = (folds.share > 0).any(axis=1) & ~matrix.failed
    chance = np.ones(len(mean))
    if best is not None:
        # Welch and Satterthwaite: the noise is estimated from few residuals, the rest from the finished curves. About a
        # fifth of these count for one prediction.
        fold_noise = folds.noise.variance * folds.unknown / folds.share.shape[1] ** 2
        other = np.maximum(variance - fold_noise, 0.0)
        degrees = variance**2 / np.maximum(
            fold_noise**2 / max(folds.noise.degrees, 1.0) + other**2 / max(0.2 * folds.num_curves, 3.0), 1e-300
        )
        deviation = np.sqrt(np.maximum(variance, 0.0))
        chance = 1 - stdtr(np.maximum(degrees, 1.0), (mean[best] - mean) / np.maximum(deviation, 1e-12))
    elif rivals.sum() >= 2:
        chance = _chance_to_lead(np.where(rivals, mean, -np.inf), variance)
    return np.where(matrix.complete | matrix.failed, 0.0, chance)


def _chance_to_lead(mean: FloatArray, variance: FloatArray) -> FloatArray:
    """Each trial's chance to beat the trial with the best expected mean; for that trial, to beat the second best."""
    first = int(mean.argmax())
    rival = np.full(len(mean), mean[first])
    rival[first] = np.partition(mean, -2)[-2]
    chance: FloatArray = ndtr((mean - rival) / np.sqrt(variance + variance[first] + 1e-24))
    return chance


def _predict_folds(matrix: Matrix, standing: FloatArray, known: FinishedCurves) -> tuple[FloatArray, FloatArray]:
    """What every fold run is expected to end with and the variance of that, infinite where nothing is known."""
    values = np.where(matrix.done, standing, 0.0)
    uncertainty = np.where(matrix.done, 0.0, np.inf)
    rows, folds = np.nonzero(np.isfinite(standing) & ~matrix.done & matrix.open[:, None])
    for row, fold in zip(rows.tolist(), folds.tolist(), strict=True):
        curve = matrix.scores[row, fold]
        values[row, fold], uncertainty[row, fold] = known.predict(row, fold, curve[~np.isnan(curve)])
    # A trial that learns late does so on every fold. So its unfinished folds together count only as much as the most
    # informative one of them.
    information = np.where(uncertainty > 0, 1 / np.maximum(uncertainty, 1e-300), 0.0)
    most = information.max(axis=1, keepdims=True)
    shared = information.sum(axis=1, keepdims=True) / np.where(most > 0, most, 1.0)
    return values, uncertainty * np.maximum(shared, 1.0)


def expected_gain(beliefs: Beliefs, *, num_new: int) -> float:
    """How much `num_new` more trials like those so far are expected to improve on the best, in the metric's unit.

    If scores have an exponential tail, the best of n + m trials is on average (1 / (n + 1) + ... + 1 / (n + m)) times
    the tail's mean excess above the best of n. The excess is that of the best fifth of the trials over the next one.
    """
    means = np.sort(beliefs.mean[(beliefs.trained > 0) & np.isfinite(beliefs.mean)])[::-1]
    if len(means) < 4:
        return float(np.inf)
    top = max(3, len(means) // 5)
    excess = float(means[:top].mean() - means[top])
    return excess * float((1 / np.arange(len(means) + 1, len(means) + num_new + 1)).sum())


def _best(complete: NDArray[np.bool_], mean: FloatArray) -> int | None:
    rows = np.flatnonzero(complete & np.isfinite(mean))
    return int(rows[mean[rows].argmax()]) if rows.size else None


def rows_that_count(matrix: Matrix) -> NDArray[np.int64]:
    """All trials except those that ended long ago: they only make decisions slower."""
    ended = np.flatnonzero(~(matrix.open | matrix.complete))[:-MOST_ENDED]
    return np.delete(np.arange(len(matrix.numbers)), ended)


def _spread(beliefs: Beliefs, rows: NDArray[np.int64], num_trials: int) -> Beliefs:
    """Put the beliefs of some rows among all rows. The other trials get no chance."""
    usual = float(beliefs.trained.mean())
    mean, deviation, chance, trained, outlook = (np.full(num_trials, at) for at in (-np.inf, 0.0, 0.0, usual, 0.0))
    mean[rows], deviation[rows] = beliefs.mean, beliefs.deviation
    chance[rows], trained[rows], outlook[rows] = beliefs.chance, beliefs.trained, beliefs.outlook
    best = None if beliefs.best is None else int(rows[beliefs.best])
    return replace(beliefs, mean=mean, deviation=deviation, chance=chance, trained=trained, outlook=outlook, best=best)


def _levels(folds: _KnownFolds) -> Levels:
    center, spread = _trials_at_large(folds.residual, folds.precision)
    weight = folds.precision.sum(axis=1)
    seen = weight > 0
    return Levels(
        value=np.where(seen, (folds.precision * folds.residual).sum(axis=1) / np.where(seen, weight, 1.0), center),
        variance=1 / np.where(seen, weight, 1.0),
        seen=seen,
        offset=float(folds.noise.effects.mean()),
        center=center,
        spread=spread,
    )


def _prior(params: FloatArray, levels: Levels) -> tuple[FloatArray, FloatArray]:
    """Mean and variance, (trials,), of each trial's level without its own scores: by its params, if these help.

    Levels far below the good trials are raised to a floor: how bad a trial is does not show where the best one is.
    """
    floor = levels.center - FLOOR * (levels.value.max(initial=levels.center) - levels.center)
    outlook = look_out(params, np.maximum(levels.value, floor), levels.variance, levels.seen)
    if outlook is None:
        return np.full(len(levels.value), levels.center), np.full(len(levels.value), levels.spread)
    return outlook.mean, np.minimum(outlook.variance, levels.spread)


def _outlook(
    expected: FloatArray, variance: FloatArray, mean: FloatArray, best: int | None, *, begun: NDArray[np.bool_]
) -> FloatArray:
    """The chance to be better than the best by params alone, against that of the trials that were begun, on average."""
    if not begun.any() or np.ptp(expected) == 0:
        return np.ones(len(expected))
    mark = mean[begun].max() if best is None else mean[best]
    alone = ndtr((expected - mark) / np.sqrt(variance))
    usual = float(alone[begun].mean())
    return alone / usual if usual > 0 else np.ones(len(expected))


def _trials_at_large(residual: FloatArray, precision: FloatArray) -> tuple[float, float]:
    """Centre and variance of a prior for the true mean of a trial, from all of which anything is known."""
    weight = precision.sum(axis=1)
    seen = weight > 0
    if seen.sum() < 2:
        return float(residual[seen].sum()), 1.0
    means = (precision * residual).sum(axis=1)[seen] / weight[seen]
    # Good trials crowd near the best that is possible, and what failed lies far below: the prior is centred among the
    # good ones, and as wide as all but the failed lie around them.
    center = float(np.quantile(means, 0.75))
    usual = means >= center - FLOOR * (means.max() - center)
    variance = float(((means[usual] - center) ** 2).mean())
    return center, max(variance - float(np.median(1 / weight[seen][usual])), 0.5 * variance, 1e-12)
