"""What params say of a trial, against scikit-learn's Gaussian process and against what trials came to."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from fold_search.search.racing import surrogate
from fold_search.search.racing.surrogate import look_out

RANDOM = np.random.default_rng(0)


def trials(num: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers, of which the second does nothing, and a choice of three: their levels without noise."""
    random = np.random.default_rng(seed)
    params = np.column_stack([0.9 * random.random((num, 2)), random.integers(0, 3, num)])
    return params, 0.6 - (params[:, 0] - 0.5) ** 2 + 0.05 * (params[:, 2] == 1)


def test_trials_that_are_not_begun_are_foreseen_by_their_params():
    """And those parameters that do nothing do not disturb it."""
    params, levels = trials(80)
    seen = np.arange(80) < 50
    outlook = look_out(params, levels, np.full(80, 1e-4), seen)
    assert outlook is not None
    assert np.corrcoef(outlook.mean[~seen], levels[~seen])[0, 1] > 0.95
    assert outlook.variance[~seen].mean() < 0.2 * levels.var()


def test_a_trial_s_own_scores_are_left_out():
    """One that came out much better than its params say is still expected where they say."""
    params, levels = trials(40)
    usual = look_out(params, levels, np.full(40, 1e-4), np.ones(40, bool))
    levels[7] += 0.5
    lucky = look_out(params, levels, np.full(40, 1e-4), np.ones(40, bool))
    assert usual is not None
    assert lucky is not None
    assert lucky.mean[7] < levels[7] - 0.4


def test_leaving_one_out_is_predicting_it_from_the_others(monkeypatch: pytest.MonkeyPatch):
    """With the same kernel scikit-learn says the same of each trial, fitted without it (numbers alone)."""
    num, noise = 25, 0.05
    params = 0.9 * RANDOM.random((num, 2))
    levels = np.sin(4 * params[:, 0]) + 0.2 * RANDOM.standard_normal(num)
    signal, nugget, scales = 0.8, 0.1, np.array([0.4, 1.5])
    fitted = SimpleNamespace(x=np.log([signal, nugget, *scales]))
    monkeypatch.setattr(surrogate, "minimize", lambda *_, **__: fitted)
    outlook = look_out(params, levels, np.full(num, noise * levels.var()), np.ones(num, bool))
    assert outlook is not None
    y = (levels - levels.mean()) / levels.std()
    kernel = ConstantKernel(signal) * Matern(scales, nu=2.5) + WhiteKernel(nugget + noise)
    pull = np.linalg.inv(kernel(params)).sum(axis=1)
    level = pull @ y / (pull.sum() + 1)  # the mean of all, which has a standard normal prior
    means, deviations = [], []
    for row in range(num):
        others = np.arange(num) != row
        process = GaussianProcessRegressor(kernel, optimizer=None).fit(params[others], y[others] - level)
        mean, deviation = process.predict(params[[row]], return_std=True)
        means.append(level + mean[0])
        deviations.append(deviation[0])
    np.testing.assert_allclose((outlook.mean - levels.mean()) / levels.std(), means, atol=1e-6)
    surprise = max(float((((y - np.array(means)) / deviations) ** 2).mean()), 1.0)
    expected = (np.square(deviations) - noise) * surprise
    np.testing.assert_allclose(outlook.variance / levels.var(), expected, rtol=1e-5)


def test_the_fit_descends_along_its_gradient(monkeypatch: pytest.MonkeyPatch):
    """The gradient is that of the loss."""
    asked = []

    def check(loss, at, **_):
        for logarithms in (at, at + 0.3):
            slope = approx_fprime(logarithms, lambda x: loss(x)[0], 1e-6)
            np.testing.assert_allclose(loss(logarithms)[1], slope, atol=1e-4, rtol=1e-4)
            asked.append(logarithms)
        raise StopIteration

    monkeypatch.setattr(surrogate, "minimize", check)
    params, levels = trials(20, seed=3)
    with pytest.raises(StopIteration):
        look_out(params, levels, np.full(20, 1e-4), np.ones(20, bool))
    assert len(asked) == 2


def test_the_variance_is_what_the_predictions_miss_by():
    """Over many draws of smooth functions, within a third."""
    squares = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        params = 0.9 * random.random((60, 3))
        cloud = (RBF(0.4)(params) + 0.05 * np.eye(60)) * 0.01
        levels = random.multivariate_normal(np.full(60, 0.5), cloud)
        seen = np.arange(60) < 40
        outlook = look_out(params, levels, np.full(60, 1e-6), seen)
        assert outlook is not None
        squares.append(((outlook.mean - levels)[~seen] ** 2 / outlook.variance[~seen]).mean())
    assert 2 / 3 < np.mean(squares) < 3 / 2


@pytest.mark.parametrize(("num_seen", "num_parameters"), [(7, 3), (40, 0)])
def test_without_params_or_with_few_trials_nothing_is_said(num_seen: int, num_parameters: int):
    """The race then believes of all trials the same at the outset."""
    params, levels = trials(40)
    assert look_out(params[:, :num_parameters], levels, np.full(40, 1e-4), np.arange(40) < num_seen) is None


def test_trials_with_the_same_params_and_scores_are_no_obstacle():
    """Neither distances nor levels need differ."""
    outlook = look_out(np.zeros((20, 2)), np.full(20, 0.5), np.full(20, 1e-4), np.ones(20, bool))
    assert outlook is not None
    np.testing.assert_allclose(outlook.mean, 0.5)
    assert np.isfinite(outlook.variance).all()
