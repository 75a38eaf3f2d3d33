"""Predicts a trial's level from its params: a Gaussian process over the levels of all trials."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from fold_search.search.racing.matrix import BoolArray, FloatArray

FEWEST_TRIALS = 8
MOST_TRIALS = 120  # that the process rests on, the latest
MOST_FITTED = 64  # of these, to which its length scales are fitted
ITERATIONS = 8
CHOICES_APART = 0.5  # the square distance of two choices, where the ends of a range are at 0.81
SQRT5 = 5**0.5

# The fit's log-normal prior: of signal and nugget, for levels of variance 1, and of the length scales.
SIGNAL, NUGGET, SHAPE_DEVIATION, SCALE_DEVIATION = 0.7, 0.2, 1.0, 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is expected of each trial's level by the params and levels of all others: mean and variance, (trials,)."""

    mean: FloatArray
    variance: FloatArray


def look_out(params: FloatArray, levels: FloatArray, variances: FloatArray, seen: BoolArray) -> Outlook | None:
    """Predict every trial's level, (trials,), from its params, (trials, parameters), leaving its own scores out.

    `levels` are known with `variances` where `seen`, which need be no more than finite elsewhere. None where params say
    nothing: there are none, or fewer than 8 trials are seen.

    The kernel is Matern 5/2 with a length scale for every parameter, and a nugget for what params do not explain,
    fitted to the largest posterior density (Rasmussen and Williams 2006, sections 5.4.1 and 5.4.2).
    """
    if not params.size or seen.sum() < FEWEST_TRIALS:
        return None
    rows = np.flatnonzero(seen)[-MOST_TRIALS:]
    known = (levels[rows].tobytes(), variances[rows].tobytes())
    # On matrices as small as these, several threads of BLAS spend their time waiting for each other.
    with _libraries().limit(limits=1, user_api="blas"):
        mean, variance = _predict(params.tobytes(), params.shape, rows.tobytes(), *known)
    return Outlook(mean=mean, variance=variance)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


# Arrays as bytes can be a key: one fit serves all questions until the next score.
@lru_cache(maxsize=4)
def _predict(
    params: bytes, shape: tuple[int, int], rows_seen: bytes, levels: bytes, variances: bytes
) -> tuple[FloatArray, FloatArray]:
    rows = np.frombuffer(rows_seen, np.int64)
    y, noise = np.frombuffer(levels), np.frombuffer(variances)
    center, scale = float(y.mean()), max(float(y.std()), 1e-9)
    y, noise = (y - center) / scale, noise / scale**2
    squares = _square_distances(params, shape, rows_seen)
    fitted = slice(max(0, len(rows) - MOST_FITTED), None)
    signal, nugget, weights = _fit(squares[:, rows[fitted], fitted], y[fitted], noise[fitted])
    kernel, _ = _matern(np.tensordot(weights, squares, axes=1), signal)
    inverse, _ = _invert(kernel[rows] + np.diag(noise + nugget))
    level = _level(inverse, y)
    pull = inverse @ (y - level)
    mean = level + kernel @ pull
    variance = signal + nugget - ((kernel @ inverse) * kernel).sum(axis=1)
    # What was seen, predicted from all others: the inverse gives it without another fit (section 5.4.2).
    own = np.diag(inverse)
    mean[rows], variance[rows] = y - pull / own, 1 / own - noise
    # Where the others' levels were predicted worse than they should have been, these are, too.
    surprise = max(float((pull**2 / own).mean()), 1.0)
    variance = np.maximum(variance, 0.05 * nugget) * surprise
    return center + scale * mean, scale**2 * np.maximum(variance, 1e-12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """The fitted process, of levels with mean `center` and deviation `scale`: what params are expected to reach.

    `points` (n, parameters) are the trials that it rests on, `levels` (n,) theirs, standardised, with the variance of
    each as `noise` (n,), the nugget included. `weights` (parameters,) are length scales to the power -2.
    """

    points: FloatArray
    levels: FloatArray
    noise: FloatArray
    signal: float
    weights: FloatArray
    center: float
    scale: float

    def pulls(self, values: FloatArray) -> FloatArray:
        """Solve for what `values` (n, ...) of the points pull a prediction by; a constant mean is part of the prior."""
        prior = self.kernel(self.points) + 1 + np.diag(self.noise)
        solved: FloatArray = cho_solve((np.linalg.cholesky(prior), True), values)
        return solved

    def kernel(self, points: FloatArray) -> FloatArray:
        """The covariance of any points (m, parameters) with those that it rests on, (m, n), without the constant."""
        distances = np.zeros((len(points), len(self.points)))
        for column, weight in enumerate(self.weights):
            distances += weight * _squares(points[:, column, None], self.points[None, :, column])
        return _matern(distances, self.signal)[0]

    @property
    def explained(self) -> float:
        """The share of the levels' variance that is predicted from the other trials; below 0 it is worse than none."""
        inverse = self.pulls(np.eye(len(self.points)))
        off = inverse @ self.levels / np.diag(inverse)
        return 1 - float((off**2).sum() / ((self.levels - self.levels.mean()) ** 2).sum())


def fit_surface(params: FloatArray, levels: FloatArray, variances: FloatArray) -> Surface | None:
    """Fit the process to trials with params (n, parameters), (n,) levels and their variances, as for `look_out`.

    None where that says nothing: without params, below 8 trials, or if all levels are equal.
    """
    if not params.size or len(levels) < FEWEST_TRIALS or not np.ptp(levels):
        return None
    center, scale = float(levels.mean()), float(levels.std())
    y, noise = (levels - center) / scale, variances / scale**2
    with _libraries().limit(limits=1, user_api="blas"):
        columns = np.ascontiguousarray(params.T)
        signal, nugget, weights = _fit(_squares(columns[:, :, None], columns[:, None, :]), y, noise)
    return Surface(
        points=params, levels=y, noise=noise + nugget, signal=signal, weights=weights, center=center, scale=scale
    )


def _fit(squares: FloatArray, y: FloatArray, noise: FloatArray) -> tuple[float, float, FloatArray]:
    """Signal, nugget, and a weight for the square distance along every parameter: its length scale to the power -2."""
    num_parameters, num_points, _ = squares.shape
    flat = squares.reshape(num_parameters, -1)
    # Length scales that grow with the number of parameters keep the distances where they are (Hvarfner 2024).
    usual = np.concatenate([np.log([SIGNAL, NUGGET]), np.full(num_parameters, 0.5 * np.log(num_parameters))])
    deviation = np.concatenate([np.full(2, SHAPE_DEVIATION), np.full(num_parameters, SCALE_DEVIATION)])

    def loss(logarithms: FloatArray) -> tuple[float, FloatArray]:
        """The negative logarithm of the posterior density, and its gradient."""
        signal, nugget = np.exp(logarithms[:2])
        weights = np.exp(-2 * logarithms[2:])
        distances = (weights @ flat).reshape(num_points, num_points)
        kernel, steepness = _matern(distances, signal)
        inverse, half_determinant = _invert(kernel + np.diag(noise + nugget))
        level = _level(inverse, y)
        pull = inverse @ (y - level)
        slope = 0.5 * (inverse - np.outer(pull, pull))
        by_scale = 2 * weights * (flat @ (slope * steepness).ravel())
        gradient = np.concatenate([[(slope * kernel).sum(), nugget * np.trace(slope)], by_scale])
        off = (logarithms - usual) / deviation
        quadratic = float((y - level) @ pull) + level**2 + float(off @ off)
        return 0.5 * quadratic + half_determinant, gradient + off / deviation

    bounds = list(zip(usual - 3 * deviation, usual + 3 * deviation, strict=True))
    options = {"maxiter": ITERATIONS, "maxfun": ITERATIONS + 3}
    best = minimize(loss, usual, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(np.exp(best[0])), float(np.exp(best[1])), np.exp(-2 * best[2:])


def _matern(distances: FloatArray, signal: float) -> tuple[FloatArray, FloatArray]:
    """The kernel at square distances, and how steeply it falls with them: minus its derivative."""
    way = SQRT5 * np.sqrt(distances)
    decay = signal * np.exp(-way)
    return (1 + way + 5 / 3 * distances) * decay, 5 / 6 * (1 + way) * decay


@lru_cache(maxsize=4)
def _square_distances(params: bytes, shape: tuple[int, int], rows: bytes) -> FloatArray:
    """Of all trials to those of `rows` along every parameter, (parameters, trials, rows)."""
    columns = np.frombuffer(params).reshape(shape).T
    return _squares(columns[:, :, None], columns[:, np.frombuffer(rows, np.int64)][:, None, :])


def _squares(one: FloatArray, other: FloatArray) -> FloatArray:
    """Square distances along parameters. Numbers lie within less than 1; any two choices are as far from each other."""
    apart = np.abs(one - other)
    return np.where(apart < 1, apart**2, CHOICES_APART)


def _invert(matrix: FloatArray) -> tuple[FloatArray, float]:
    """The inverse of a positive definite matrix, and half the logarithm of its determinant."""
    factor, _ = lapack.dpotrf(matrix, lower=1)
    lower: NDArray[np.float64] = np.tril(lapack.dpotri(factor, lower=1)[0])
    return lower + np.tril(lower, -1).T, float(np.log(np.diag(factor)).sum())


def _level(inverse: FloatArray, y: FloatArray) -> float:
    """The mean of all, fitted by generalised least squares with a standard normal prior."""
    pull = inverse.sum(axis=1)
    return float(pull @ y) / float(pull.sum() + 1)
