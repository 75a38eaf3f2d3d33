"""Which trials cannot be told from the best one, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from fold_search.search.racing.ties import holm, resampled_t_test, tied_with

BEST = [0.80, 0.82, 0.78, 0.81, 0.79]


def shifted(by: float, noise: float) -> list[float]:
    signs = np.array([1, -1, 1, -1, 0])
    return (np.array(BEST) - by + noise * signs).tolist()


def test_without_the_correction_it_is_the_paired_t_test():
    """The corrected statistic is smaller by sqrt(1 + K / (K - 1)), at the same degrees of freedom."""
    other = shifted(0.03, 0.02)
    plain = ttest_rel(BEST, other)
    corrected = resampled_t_test(np.subtract(BEST, other))
    assert float(corrected) == pytest.approx(2 * t.sf(plain.statistic / math.sqrt(1 + 5 / 4), 4))


@pytest.mark.parametrize(("difference", "expected"), [(0.0, 1.0), (0.1, 0.0)])
def test_a_difference_without_noise_is_certain(difference: float, expected: float):
    """Equal trials are equal; one that is ahead by the same on every fold is ahead."""
    assert float(resampled_t_test([difference] * 5)) == expected


def test_holm_steps_down_until_the_first_that_is_not_small_enough():
    """0.03 fails at 0.05 / 2, so 0.031 is not looked at any more although it is below 0.05."""
    found = holm(np.array([0.03, 0.001, 0.031, 0.0001]), alpha=0.05)
    assert found.tolist() == [False, True, False, True]
    assert holm(np.array([0.04, 0.001]), alpha=0.05).tolist() == [True, True]


def test_ties_are_named_from_the_nearest():
    """A trial far behind, and one whose folds are not all finite, are none of them."""
    scores = {7: BEST, 1: shifted(0.004, 0.01), 2: shifted(0.001, 0.01), 3: shifted(0.2, 0.001), 4: [math.nan] * 5}
    ties = tied_with(7, scores)
    assert [tie.trial for tie in ties] == [2, 1]
    assert (ties[0].score, ties[0].difference) == pytest.approx((0.799, 0.001))
    assert min(tie.p_value for tie in ties) > 0.05


def test_of_two_trials_it_is_their_own_test():
    """The noise of one pair is that of its differences."""
    other = shifted(0.004, 0.01)
    [tie] = tied_with(0, {0: BEST, 1: other})
    assert tie.p_value == pytest.approx(float(resampled_t_test(np.subtract(BEST, other))))


def test_noise_is_pooled_over_the_better_half():
    """The residuals of a two-way table of trials and folds, by hand; three wild trials far behind are not in it."""
    noise = np.random.default_rng(0).normal(0, 0.01, (7, 5))
    scores = {trial: (0.8 - 0.01 * trial + noise[trial]).tolist() for trial in range(4)}
    scores |= {trial: (0.2 + 20 * noise[trial]).tolist() for trial in range(4, 7)}
    best = max(scores, key=lambda trial: float(np.mean(scores[trial])))
    table = np.array([scores[trial] for trial in range(4)])
    residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    error = math.sqrt(2 * (residual**2).sum() / 12 * (1 / 5 + 1 / 4))
    [tie] = [tie for tie in tied_with(best, scores) if tie.trial == 1]
    assert tie.p_value == pytest.approx(2 * t.sf(tie.difference / error, 12))
    assert {tie.trial for tie in tied_with(best, scores)}.isdisjoint({4, 5, 6})


def test_of_a_minimised_metric_the_sign_does_not_matter():
    """The test is two-sided: the same trials are tied."""
    scores = {1: shifted(0.004, 0.01), 2: shifted(-0.001, 0.01), 7: BEST}
    assert [tie.trial for tie in tied_with(7, scores)] == [2, 1]


def test_one_trial_alone_has_no_ties():
    """There is nothing to compare it with."""
    assert tied_with(0, {0: BEST}) == []
