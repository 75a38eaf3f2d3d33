"""What a fold run still gains after an epoch, from the curves of fold runs that are finished."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search.racing.matrix import FloatArray, Matrix

MOST_CURVES = 400
FEWEST_CURVES = 4
OWN_WEIGHT = 4.0  # of a curve of the same trial on another fold, against one of another trial

Prediction = tuple[float, float]  # mean and variance of what a fold run ends with


@dataclass(frozen=True, slots=True)
class _At:
    """The finished curves at one epoch, each (curves,): level and slope in units of their spread, gain to the end."""

    rows: NDArray[np.int64]
    level: FloatArray
    slope: FloatArray
    gain: FloatArray
    level_scale: float
    slope_scale: float


@dataclass(slots=True)
class FinishedCurves:
    """The latest finished fold runs: `curves` (n, epochs) of `rows` and `folds` that ended with `finals`."""

    rows: NDArray[np.int64]
    folds: NDArray[np.int64]
    curves: FloatArray
    finals: FloatArray
    effects: FloatArray
    _at: dict[int, _At | None] = field(default_factory=dict)
    _predictions: dict[tuple[int, int, int], Prediction] = field(default_factory=dict)

    def predict(self, row: int, fold: int, curve: FloatArray) -> Prediction:
        """Predict what a partly trained fold run ends with, from its scores (epochs trained,).

        Curves that stood near, with a slope like this one's, weigh most, and the trial's own curves on other folds more
        than others'. The variance is infinite where too few curves are known.
        """
        key = (row, fold, len(curve))
        if key not in self._predictions:
            self._predictions[key] = self._predict(row, fold, curve)
        return self._predictions[key]

    def _predict(self, row: int, fold: int, curve: FloatArray) -> Prediction:
        epoch, now = len(curve), float(curve[-1])
        at = self._known_at(epoch)
        if at is None or not np.isfinite(now):
            return now, np.inf
        distance = ((now - self.effects[fold]) / at.level_scale - at.level) ** 2
        if epoch > 1:
            distance += ((now - curve[_half(epoch)]) / at.slope_scale - at.slope) ** 2
        # The bandwidth follows the neighbours: the distance to the nearest tenth of the curves, at least 4 of them.
        nearest = min(max(FEWEST_CURVES, len(distance) // 10), len(distance) - 1)
        width = np.partition(distance, nearest)[nearest] + 1e-12
        weights = np.exp(-0.5 * distance / width)
        weights[at.rows == row] *= OWN_WEIGHT
        weights /= weights.sum()
        gain = float(weights @ at.gain)
        spread = float(weights @ (at.gain - gain) ** 2)
        return now + gain, spread * (1 + 2 * float(weights @ weights)) + 1e-12

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
        now = self.curves[there, epoch - 1]
        level, slope = now - self.effects[self.folds[there]], now - self.curves[there, _half(epoch)]
        level_scale, slope_scale = max(float(level.std()), 1e-9), max(float(slope.std()), 1e-9)
        return _At(
            rows=self.rows[there],
            level=level / level_scale,
            slope=slope / slope_scale,
            gain=self.finals[there] - now,
            level_scale=level_scale,
            slope_scale=slope_scale,
        )


def finished_curves(matrix: Matrix, standing: FloatArray, effects: FloatArray) -> FinishedCurves:
    """Collect the finished fold runs with finite scores; what was worked out from the same ones is remembered."""
    rows, folds = np.nonzero(matrix.done & np.isfinite(standing))
    rows, folds = rows[-MOST_CURVES:], folds[-MOST_CURVES:]
    curves = matrix.scores[rows, folds]
    return _remembered(rows.tobytes(), folds.tobytes(), curves.tobytes(), effects.tobytes(), curves.shape)


@lru_cache(maxsize=4)
def _remembered(rows: bytes, folds: bytes, curves: bytes, effects: bytes, shape: tuple[int, ...]) -> FinishedCurves:
    known = np.frombuffer(curves).reshape(shape)
    last = np.maximum((~np.isnan(known)).sum(axis=1) - 1, 0)
    return FinishedCurves(
        rows=np.frombuffer(rows, np.int64),
        folds=np.frombuffer(folds, np.int64),
        curves=known,
        finals=known[np.arange(len(known)), last],
        effects=np.frombuffer(effects),
    )


def _half(epoch: int) -> int:
    """Index of the epoch that a slope is taken from."""
    return max(epoch // 2 - 1, 0)
