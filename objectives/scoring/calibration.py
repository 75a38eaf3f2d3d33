"""Probabilities that mean what they say: temperature, shifted class shares, and how far confidence is from accuracy."""

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
    """A reliability diagram, each array (bins,): the mean of the top probabilities, the share of right rows, the rows.

    Bin m of M holds the rows whose top probability is in ((m - 1) / M, m / M]; where it holds none, all three are 0.
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
    """Return the temperature, of 1/20 to 20, that gives the labels the highest likelihood (Guo et al. 2017).

    Above 1 the probabilities were too sure of themselves. Where every row is right the lowest temperature is the best:
    such rows cannot tell how sure is too sure.
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
    """Return p^(1 / temperature), scaled to sum to 1 a row: the softmax of the logits divided by the temperature."""
    from scipy.special import softmax  # which takes long to load

    return np.asarray(softmax(_log(probabilities) / temperature, axis=1), np.float64)


def temperature_scaled(fitted_on: Probabilities, truth: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return `probabilities` at the temperature that fits the rows of `fitted_on`; for `cross_fitted`."""
    return apply_temperature(probabilities, fit_temperature(fitted_on, truth))


def correct_prior(probabilities: Probabilities, *, trained: ArrayLike, wanted: ArrayLike) -> NDArray[np.float64]:
    """Return what the probabilities would be, had the classes come in other shares (Elkan 2001; Saerens et al. 2002).

    `trained`, (classes,): the shares, or counts, that the loss saw: after resampling, and times the class weights;
    `wanted`, (classes,): those of the rows that are predicted. A class that was not trained on keeps its probability
    against that of a class whose share stays; a row with nothing left but impossible classes gets the wanted shares.
    """
    before, after = _shares(trained), _shares(wanted)
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    weighted = probabilities * ratio
    total = weighted.sum(axis=1, keepdims=True)
    return np.where(total > 0, weighted / np.where(total > 0, total, 1.0), after)


def cross_fitted(
    probabilities: Probabilities, truth: Labels, folds: NDArray[np.integer[Any]], calibration: Calibration
) -> NDArray[np.float64]:
    """Calibrate out-of-fold probabilities, (rows, classes), without ever fitting on the rows that are calibrated.

    `calibration(probabilities to fit on, their labels, probabilities to calibrate)` is called for every fold with the
    rows of the others. Raises ValueError if there is one fold only.
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
