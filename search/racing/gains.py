"""Predicts the final score of a partly trained fold run from the curves of finished fold runs."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fold_search.search.racing.matrix import FloatArray, Matrix

MOST_CURVES = 400  # the latest: older ones only cost time
FEWEST_CURVES = 4
TAIL = 3.0  # deviations
INFLATION = 1.0  # of a prediction's deviation; 1 leaves it as the curves say
TOP = 1.0  # how far the top is above the best score, as a share of `reach`
SMALLEST_SCALE = 1e-3  # of the logarithms of a distance
OWN_WEIGHT = 4.0  # of a curve of the same trial on another fold, against one of another trial

Prediction = tuple[float, float]  # mean and variance of what a fold run ends with


@dataclass(frozen=True, slots=True)
class _At:
    """The finished curves at one epoch: standardised features (curves, features), and what followed.

    `shrinkage` says, as a logarithm, by how much each curve's distance to the top shrank from there to its end.
    """

    rows: NDArray[np.int64]
    features: FloatArray
    center: FloatArray
    scale: FloatArray
    shrinkage: FloatArray


@dataclass(slots=True)
class FinishedCurves:
    """The latest finished fold runs: `curves` (n, epochs) of `rows` and `folds` that ended with `finals`.

    `top`, without a fold's effect, stands for a score that no curve reaches; `reach` is the deviation of the good ones.
    Gains are measured as logarithms of the distance to the top, since near the top the same effort gains less.
    """

    rows: NDArray[np.int64]
    folds: NDArray[np.int64]
    curves: FloatArray
    finals: FloatArray
    effects: FloatArray
    top: float
    reach: float
    _at: dict[int, _At | None] = field(default_factory=dict)
    _predictions: dict[tuple[int, int, int], Prediction] = field(default_factory=dict)

    def predict(self, row: int, fold: int, curve: FloatArray) -> Prediction:
        """Predict what a partly trained fold run ends with, from its scores (epochs trained,).

        Curves with a similar score and slope at this epoch weigh most, and curves of the same trial on other folds more
        than those of other trials. The variance is infinite if too few curves are known.
        """
        key = (row, fold, len(curve))
        if key not in self._predictions:
            self._predictions[key] = self._predict(row, fold, curve)
        return self._predictions[key]

    def _predict(self, row: int, fold: int, curve: FloatArray) -> Prediction:
        epoch, now = len(curve), float(curve[-1])
        at = self._known_at(epoch)
        if at is None or not np.isfinite(curve).all():
            return now, np.inf
        offset = (_features(self._distance_to_top(curve - self.effects[fold]), epoch) - at.center) / at.scale
        difference = at.features - offset
        distance = (difference**2).sum(axis=1)
        # The bandwidth follows the neighbours: the distance to the nearest fifth of the curves, at least 4 of them.
        nearest = min(max(FEWEST_CURVES, len(distance) // 5), len(distance) - 1)
        weights = np.exp(-0.5 * distance / (np.partition(distance, nearest)[nearest] + 1e-12))
        weights[at.rows == row] *= OWN_WEIGHT
        weights /= weights.sum()
        # How much of the way to the top is left at the end, as a logarithm: near 0 nothing more is gained.
        shrinkage, variance = _local_line(difference, at.shrinkage, weights)
        gap = float(self._distance_to_top(np.array([now - self.effects[fold]]))[0])
        left = gap * np.exp(shrinkage)
        # The normal distribution that has the same chance of the top as the skewed one, TAIL deviations out.
        deviation = left * (1 - np.exp(-TAIL * INFLATION * np.sqrt(variance))) / TAIL
        return now + gap - left, deviation**2 + 1e-12

    def _distance_to_top(self, scores: FloatArray) -> FloatArray:
        return np.maximum(self.top - scores, 1e-3 * self.reach)

    def _known_at(self, epoch: int) -> _At | None:
        if epoch not in self._at:
            self._at[epoch] = self._collect(epoch)
        return self._at[epoch]

    def _collect(self, epoch: int) -> _At | None:
        if epoch > self.curves.shape[1]:
            return None
        there = np.isfinite(self.curves[:, epoch - 1])
        if there.sum() < FEWEST_CURVES:
            return None
        effects = self.effects[self.folds[there]]
        distances = self._distance_to_top(self.curves[there, :epoch] - effects[:, None])
        features = _features(distances, epoch)
        # If all curves have the same score here, another score is far from them, but not infinitely far.
        center, scale = features.mean(axis=0), np.maximum(features.std(axis=0), SMALLEST_SCALE)
        return _At(
            rows=self.rows[there],
            features=(features - center) / scale,
            center=center,
            scale=scale,
            shrinkage=np.log(self._distance_to_top(self.finals[there] - effects)) - np.log(distances[:, -1]),
        )


def _features(distances: FloatArray, epoch: int) -> FloatArray:
    """Level and slope of a curve, as logarithms: (..., 1 or 2). The slope is measured since half as many epochs."""
    logarithms = np.log(distances)
    level = logarithms[..., -1]
    if epoch == 1:
        return np.asarray(level[..., None])
    return np.stack([level, logarithms[..., epoch // 2 - 1] - level], axis=-1)


def _local_line(difference: FloatArray, values: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Fit a weighted line, and return where it is at difference 0, with the variance of a new value there."""
    design = np.column_stack([np.ones(len(values)), difference])
    ridge = np.diag([0.0] + [0.05] * difference.shape[1])
    hat = np.linalg.solve((design * weights[:, None]).T @ design + ridge, (design * weights[:, None]).T)
    coefficients = hat @ values
    residual = values - design @ coefficients
    effective = 1 / float(weights @ weights)
    lost = min(0.8 * effective, design.shape[1])
    variance = float(weights @ residual**2) * effective / (effective - lost)
    return float(coefficients[0]), variance * (1 + float(hat[0] @ hat[0]))


def finished_curves(matrix: Matrix, standing: FloatArray, effects: FloatArray) -> FinishedCurves:
    """Collect the finished fold runs with finite scores; what was worked out from the same ones is remembered."""
    rows, folds = np.nonzero(matrix.done & np.isfinite(standing))
    rows, folds = rows[-MOST_CURVES:], folds[-MOST_CURVES:]
    finite = ~np.isneginf(matrix.scores[rows, folds]).any(axis=1)
    rows, folds = rows[finite], folds[finite]
    curves = matrix.scores[rows, folds]
    return _remembered(rows.tobytes(), folds.tobytes(), curves.tobytes(), effects.tobytes(), curves.shape)


# Arrays as bytes can be a key. Many questions are asked between two ends of a fold run, with the same curves.
@lru_cache(maxsize=4)
def _remembered(rows: bytes, folds: bytes, curves: bytes, effects: bytes, shape: tuple[int, ...]) -> FinishedCurves:
    known, fold_of, effect = (
        np.frombuffer(curves).reshape(shape),
        np.frombuffer(folds, np.int64),
        np.frombuffer(effects),
    )
    last = np.maximum((~np.isnan(known)).sum(axis=1) - 1, 0)
    finals = known[np.arange(len(known)), last]
    levels = finals - effect[fold_of]
    good = levels[levels >= np.median(levels)] if len(levels) else np.zeros(1)
    reach = max(float(good.std()), 1e-9)
    return FinishedCurves(
        rows=np.frombuffer(rows, np.int64),
        folds=fold_of,
        curves=known,
        finals=finals,
        effects=effect,
        top=float(good.max()) + TOP * reach,
        reach=reach,
    )
