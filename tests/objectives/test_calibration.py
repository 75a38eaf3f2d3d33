"""Calibration on data whose true probabilities are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from fold_search.objectives.scoring.calibration import (
    apply_temperature,
    correct_prior,
    cross_fitted,
    fit_temperature,
    reliability,
    temperature_scaled,
)


def drawn(rows, *, classes=5, seed=0):
    """Draw logits, and labels by exactly their softmax: at temperature 1 nothing is left to calibrate."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(rows, classes))
    cumulated = softmax(logits, axis=1).cumsum(axis=1)
    return logits, (random.random((rows, 1)) > cumulated).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_temperature_is_recovered(temperature):
    """Logits that were multiplied by T are calibrated by T, up to sampling noise."""
    logits, truth = drawn(20_000)
    assert fit_temperature(softmax(logits * temperature, axis=1), truth) == pytest.approx(temperature, rel=0.03)


def test_temperature_minimises_scikit_learns_log_loss():
    """On few, float32 rows: the same minimum, found another way."""
    logits, truth = drawn(40)
    probabilities = softmax(logits * 3, axis=1).astype(np.float32)

    def loss(temperature):
        return log_loss(truth, softmax(logits * 3 / temperature, axis=1), labels=range(5))

    expected = minimize_scalar(loss, bracket=(0.5, 3, 10)).x
    assert fit_temperature(probabilities, truth) == pytest.approx(expected, rel=1e-3)


def test_temperature_of_rows_that_are_all_right_is_finite():
    """Zeros and ones as probabilities: the lowest temperature, and probabilities that stay numbers."""
    certain = np.eye(3, dtype=np.float32)
    temperature = fit_temperature(certain, np.arange(3))
    assert 0.05 <= temperature <= 20
    assert apply_temperature(certain, temperature) == pytest.approx(np.eye(3))
    assert fit_temperature(certain, np.array([1, 2, 0])) == pytest.approx(20, rel=1e-3)


@given(st.floats(0.1, 10), st.integers(0, 5))
def test_temperature_is_a_softmax_of_scaled_logits(temperature, seed):
    """And keeps every row's ranking."""
    logits, _ = drawn(6, seed=seed)
    probabilities = softmax(logits, axis=1)
    scaled = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled, softmax(logits / temperature, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))


def test_prior_correction_gives_the_posteriors_of_bayes():
    """Two normal distributions whose posteriors under even shares are turned into those under 95 to 5."""
    x = np.linspace(-4, 6, 50)
    densities = np.stack([norm.pdf(x, 0, 1), norm.pdf(x, 2, 1.5)], axis=1)

    def posterior(shares):
        joint = densities * shares
        return joint / joint.sum(axis=1, keepdims=True)

    corrected = correct_prior(posterior(np.array([0.5, 0.5])), trained=[400, 400], wanted=[0.95, 0.05])
    np.testing.assert_allclose(corrected, posterior(np.array([0.95, 0.05])), rtol=1e-12)
    back = correct_prior(corrected, trained=[0.95, 0.05], wanted=[0.5, 0.5])
    np.testing.assert_allclose(back, posterior(np.array([0.5, 0.5])), rtol=1e-12)


def test_prior_correction_survives_classes_without_rows():
    """Of a class that was not trained on nothing is known; one that cannot occur has probability 0."""
    probabilities = np.array([[0.4, 0.5, 0.1], [0.0, 1.0, 0.0]], np.float32)
    corrected = correct_prior(probabilities, trained=[1, 1, 0], wanted=[1, 0, 1])
    np.testing.assert_allclose(corrected, [[0.8, 0, 0.2], [0.5, 0, 0.5]], rtol=1e-6)


def test_cross_fitting_never_fits_on_the_rows_it_calibrates():
    """Each fold's rows meet a calibration that saw exactly the others."""
    probabilities = softmax(drawn(9)[0], axis=1)
    truth, folds = np.arange(9), np.array([2, 0, 1, 0, 2, 2, 1, 0, 1])

    def seen(fitted_on, labels, calibrated):
        np.testing.assert_array_equal(fitted_on, probabilities[labels])
        return np.full_like(calibrated, labels.sum())

    expected = [truth[folds != fold].sum() for fold in folds]
    np.testing.assert_array_equal(cross_fitted(probabilities, truth, folds, seen), np.tile(expected, (5, 1)).T)
    with pytest.raises(ValueError, match="two folds or more"):
        cross_fitted(probabilities, truth, np.zeros(9, int), seen)


def test_calibration_error_shrinks_on_overconfident_rows():
    """Logits three times too large: cross-fitted temperatures bring the error close to the noise."""
    logits, truth = drawn(5_000)
    probabilities = softmax(logits * 3, axis=1).astype(np.float32)
    after = cross_fitted(probabilities, truth, np.arange(5_000) % 5, temperature_scaled)
    assert reliability(probabilities, truth).error > 0.15
    assert reliability(after, truth).error < 0.03


def test_reliability_by_hand():
    """Four rows in two of five bins, whose upper bounds belong to them."""
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [0.1, 0.9], [1.0, 0.0]])
    diagram = reliability(probabilities, np.array([0, 0, 1, 1]), bins=5)
    assert diagram.count.tolist() == [0, 0, 2, 0, 2]
    assert diagram.confidence == pytest.approx([0, 0, 0.575, 0, 0.95])
    assert diagram.accuracy == pytest.approx([0, 0, 0.5, 0, 0.5])
    assert diagram.error == pytest.approx((0.075 + 0.45) / 2)
