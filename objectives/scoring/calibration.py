"""Calibrated probabilities: temperature, other class shares, and how far confidence is from accuracy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15
LARGEST_TEMPERATURE = 20.0

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]
Calibration = Callable[[Probabilities, Labels, Probabilities], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """A reliability diagram. Each array is (bins,): mean of the top probabilities, share of right rows, number of rows.

    Bin m of M has the rows whose top probability is in ((m - 1) / M, m / M]. If it has none, all three are 0.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: the gap between confidence and accuracy, averaged over the rows."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.count))


def reliability(probabilities: Probabilities, truth: Labels, *, bins: int = NUM_BINS) -> Reliability:
    """Compare the confidence in the predicted class with how often it is right (Guo et al. 2017).

    Takes (rows, classes) and (rows,).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    bin_of_row = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_of_row, minlength=bins)
    confidences, rights = (np.bincount(bin_of_row, weights=values, minlength=bins) for values in (confidence, right))
    divisor = np.maximum(count, 1)
    return Reliability(confidence=confidences / divisor, accuracy=rights / divisor, count=count)


def fit_temperature(probabilities: Probabilities, truth: Labels) -> float:
    """Return the temperature, from 1/20 to 20, that gives the labels the highest likelihood (Guo et al. 2017).

    Above 1 the probabilities were too high. If every row is right, the result is the lowest temperature: such rows
    cannot show that a probability is too high.
    """
    logits = _log(probabilities)

    from scipy.optimize import minimize_scalar  # which takes long to load
    from scipy.special import log_softmax

    def negative_log_likelihood(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(np.take_along_axis(log_probabilities, truth[:, None], axis=1).mean())

    largest = np.log(LARGEST_TEMPERATURE)
    result = minimize_scalar(
        negative_log_likelihood, bounds=(-largest, largest), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(result.x))


def apply_temperature(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Return p^(1 / temperature), scaled so that each row sums to 1: the softmax of logits / temperature."""
    from scipy.special import softmax  # which takes long to load

    return np.asarray(softmax(_log(probabilities) / temperature, axis=1), np.float64)


def temperature_scaled(fitted_on: Probabilities, truth: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return `probabilities` at the temperature fitted on the rows of `fitted_on`; for use in `cross_fitted`."""
    return apply_temperature(probabilities, fit_temperature(fitted_on, truth))


def correct_prior(probabilities: Probabilities, *, trained: ArrayLike, wanted: ArrayLike) -> NDArray[np.float64]:
    """Return the probabilities for other class shares (Elkan 2001; Saerens et al. 2002).

    `trained`, (classes,): the shares or counts that the loss saw, after resampling and times the class weights.
    `wanted`, (classes,): the shares among the rows that are predicted. A class without training rows is treated as a
    class whose share does not change. A row of which only impossible classes are left gets the wanted shares.
    """
    before, after = _shares(trained), _shares(wanted)
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    weighted = probabilities * ratio
    total = weighted.sum(axis=1, keepdims=True)
    return np.where(total > 0, weighted / np.where(total > 0, total, 1.0), after)


def cross_fitted(
    probabilities: Probabilities, truth: Labels, folds: NDArray[np.integer[Any]], calibration: Calibration
) -> NDArray[np.float64]:
    """Calibrate out-of-fold probabilities, (rows, classes), and never fit on the rows that are calibrated.

    `calibration(probabilities to fit on, their labels, probabilities to calibrate)` is called for every fold, and fits
    on the rows of all other folds. Raises ValueError if there is only one fold.
    """
    named = np.unique(folds)
    if len(named) < 2:
        raise ValueError("out-of-fold probabilities of one fold only cannot be calibrated; expected two folds or more")
    calibrated = np.empty(probabilities.shape, np.float64)
    for fold in named:
        held_out = folds == fold
        calibrated[held_out] = calibration(probabilities[~held_out], truth[~held_out], probabilities[held_out])
    return calibrated


def _log(probabilities: Probabilities) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), float(np.finfo(np.float32).tiny)))


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.asarray(counts, np.float64)
    shares: NDArray[np.float64] = values / values.sum()
    return shares
