"""The score of a winner without the gain of having been chosen."""

from statistics import fmean

import numpy as np
import pytest

from fold_search.search.racing.corrected import corrected_scores


def test_each_fold_is_scored_where_the_other_folds_choose():
    """Trial 1 is chosen by folds 0 and 2 alone, and trial 0's last fold is best in another epoch than its others."""
    curves = {0: [[0.5, 0.7], [0.6, 0.7], [0.9, 0.4]], 1: [[0.5], [0.2], [0.95]]}
    # Means of the others at best: fold 0: 0.75 (trial 0, epoch 1), fold 1: 0.725 (trial 1), fold 2: 0.7 (0, epoch 2).
    assert corrected_scores(curves, maximise=True) == [0.5, 0.2, 0.4]
    assert corrected_scores({0: [[0.5], [0.6]]}, maximise=True) == [0.5, 0.6]


def test_smaller_is_better_where_it_is():
    curves = {0: [[0.5, 0.3], [0.4, 0.2]], 1: [[0.9], [0.8]]}
    assert corrected_scores(curves, maximise=False) == [0.3, 0.2]


def test_a_fold_that_ended_early_goes_on_with_its_best_epoch_and_nan_is_worst():
    """Patience ends it some epochs after its best one, and that one is exported."""
    curves = {0: [[0.8, 0.7], [0.5, 0.6, 0.9], [0.5, 0.6, 0.9]]}
    assert corrected_scores(curves, maximise=True) == [0.8, 0.9, 0.9]
    curves = {0: [[0.5], [0.4, 0.5, 0.6], [0.1, 0.2, 0.7]], 1: [[float("nan")], [0.9], [0.9]]}
    assert corrected_scores(curves, maximise=True)[0] == pytest.approx(-np.inf)
    assert corrected_scores(curves, maximise=True)[1:] == [0.6, 0.7]


@pytest.mark.parametrize("num_folds", [3, 5])
def test_the_luck_of_the_best_is_taken_off(num_folds: int):
    """30 trials that are all worth 0.5: the best looks better than that, and its corrected score does not."""
    random = np.random.default_rng(0)
    corrected, best = [], []
    for _ in range(200):
        scores = random.normal(0.5, 0.03, (30, num_folds, 4))
        curves = {number: folds.tolist() for number, folds in enumerate(scores)}
        corrected.append(fmean(corrected_scores(curves, maximise=True)))
        best.append(scores.max(axis=2).mean(axis=1).max())
    assert abs(fmean(corrected) - 0.5) < 0.003
    assert fmean(best) > 0.54
