"""What is foretold of a study: how many epochs it still trains, and the time in words."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import time_left as benchmark
from benchmarks.replay.recorded import read_sets
from fold_search.search.racing.matrix import Matrix, RunState, build_matrix
from fold_search.search.racing.work_left import epochs_left, expected_work
from fold_search.search.reporting.times import time_left
from fold_search.search.study.sections import RaceConfig

PAIRED = RaceConfig(audit=0)


def trials(*reached: float, folds: int = 3, epochs: int = 4) -> Matrix:
    """Trials whose first fold is done with these scores; the first trial is complete."""
    done = [(number, fold) for number in range(len(reached)) for fold in range(folds) if fold == 0 or number == 0]
    waiting = [(number, fold) for number in range(1, len(reached)) for fold in range(1, folds)]
    runs = [(*place, RunState.DONE) for place in done] + [(*place, RunState.WAITING) for place in waiting]
    scores = [(*place, epoch, reached[place[0]] * epoch / epochs) for place in done for epoch in range(1, epochs + 1)]
    return build_matrix([(number, epochs) for number in range(len(reached))], runs, scores, num_folds=folds)


def test_without_a_race_all_epochs_are_trained():
    """Those of the open trials, and those of the trials to come."""
    matrix = trials(0.9, 0.8)
    low, high = epochs_left(matrix, settings=RaceConfig(rule="none"), trials_left=2, num_epochs=4)
    assert low == high == 2 * 4 + 2 * 12
    assert expected_work(num_trials=30, num_folds=5, racing=False) == (1.0, 1.0)


def test_trials_without_a_chance_are_hardly_trained_on():
    """Fewer epochs are left where the others are far behind than where they are close."""
    close, far = (trials(0.9, *others) for others in ([0.89, 0.9, 0.91, 0.9], [0.3, 0.31, 0.2, 0.25]))
    forecasts = [epochs_left(matrix, settings=PAIRED, trials_left=0, num_epochs=4) for matrix in (close, far)]
    assert 2 * forecasts[1][1] < forecasts[0][1]
    assert all(low < high <= 4 * 8 for low, high in forecasts)


def test_nothing_is_left_of_a_study_that_is_complete():
    assert epochs_left(trials(0.9), settings=PAIRED, trials_left=0, num_epochs=4) == (0.0, 0.0)


def test_an_audited_trial_is_trained_to_its_end():
    """However hopeless it is."""
    matrix = trials(0.9, 0.3, 0.31, 0.2, 0.25)
    low, _ = epochs_left(matrix, settings=PAIRED, trials_left=0, num_epochs=4)
    audited, _ = epochs_left(replace(matrix, audited={1, 2, 3}), settings=PAIRED, trials_left=0, num_epochs=4)
    assert audited > 2 * low


def test_patience_ends_the_others_as_early_as_those_before():
    """Every done fold took two of four epochs."""
    matrix = trials(0.9, 0.8)
    matrix = replace(matrix, scores=np.where(np.arange(4) < 2, matrix.scores, np.nan))
    assert epochs_left(matrix, settings=RaceConfig(rule="none"), trials_left=1, num_epochs=4)[1] == 2 * 2 + 3 * 2


def test_a_study_that_is_not_begun_is_foretold_by_what_is_usual():
    """The more trials and folds, the smaller the share; what is trained already does not come again."""
    matrix = build_matrix([], [], [], num_folds=5)
    low, high = epochs_left(matrix, settings=PAIRED, trials_left=30, num_epochs=10)
    share = expected_work(num_trials=30, num_folds=5)
    assert (low, high) == pytest.approx((share[0] * 1500, share[1] * 1500))
    assert expected_work(num_trials=80, num_folds=10)[1] < share[1] < expected_work(num_trials=10, num_folds=3)[1] <= 1


def test_a_recorded_study_is_foretold_within_a_factor_of_a_half():
    """One of the benchmark's five, from a tenth of its epochs on; none of its trials had a part in the constants."""
    study = benchmark.FIVE[2]
    found = list(benchmark.foretell(study, read_sets(benchmark.CURVES, role=None, names=[study.name])))
    assert [foretold.moment for foretold in found] == list(benchmark.MOMENTS)
    assert all(foretold.is_right for foretold in found[1:])


@pytest.mark.parametrize(
    ("low", "high", "limit", "expected"),
    [
        (720, 1500, None, "12m to 25m"),
        (45, 80, None, "45s to 80s"),
        (5400, 9000, None, "1h30m to 2h30m"),
        (3, 9, None, "a few seconds"),
        (0, 0, None, "a few seconds"),
        (1188, 1212, None, "20m"),
        (720, 1500, 3600, "12m to 25m"),
        (720, 1500, 1200, "12m to 20m (time limit)"),
        (4000, 7000, 360, "at most 6m00s (time limit)"),
        (4000, 7000, -5, "at most 0s (time limit)"),
    ],
)
def test_a_range_of_time_in_words(low: float, high: float, limit: float | None, expected: str):
    """The time limit is the end where it comes before."""
    assert time_left(low, high, limit=limit) == expected
