"""What is chosen while a time budget runs out."""

from collections.abc import Callable

import pytest

from fold_search.objectives.jobs import EpochScore
from fold_search.search.racing.haste import Haste, TimeLimit, haste
from fold_search.search.racing.matrix import Matrix, RunState, build_matrix
from fold_search.search.study.sections import BudgetConfig
from tests.search.conftest import ScriptedStudy

EPOCHS = 4
DONE = (0.5, 0.6, 0.7, 0.7)


def matrix_of(*trials: tuple[float, list[int]]) -> Matrix:
    """Trials by how much better they are than the usual, and the epochs of each of their three folds."""
    runs, scores = [], []
    for trial, (better, folds) in enumerate(trials):
        for fold, epochs in enumerate(folds):
            state = RunState.DONE if epochs == EPOCHS else RunState.PAUSED if epochs else RunState.WAITING
            runs.append((trial, fold, state))
            scores += [(trial, fold, epoch + 1, DONE[epoch] + better) for epoch in range(epochs)]
    return build_matrix([(trial, EPOCHS) for trial in range(len(trials))], runs, scores, num_folds=3)


def choose(
    matrix: Matrix, *, left: float, workers: int = 1, live: int = 0, seconds: float | None = 10.0
) -> tuple[int, int] | None:
    """The trial and fold that are hurried with so many seconds left, epochs taking ten; None: the race chooses."""
    limit = TimeLimit(deadline=left, num_workers=workers)
    haste = Haste(limit=limit, live_workers=lambda: live or workers, epoch_seconds=lambda: seconds, clock=lambda: 0.0)
    choice = haste.choose(matrix)
    return None if choice is None else (choice.trial, choice.fold)


@pytest.mark.parametrize(
    ("trials", "workers", "left", "chosen"),
    [
        # Trial 1 is the better one. It lacks 8 epochs, 80 s, and is hurried from 160 s on.
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 1, 1000, None),
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 1, 161, None),
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 1, 159, (1, 1)),
        # Where nothing is complete, also when it is too late for it: more folds make a better provisional model.
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 1, 20, (1, 1)),
        # But one that can be complete goes before a better one that cannot.
        ([(0.1, [4, 0, 0]), (0.0, [4, 4, 3])], 1, 15, (1, 2)),
        # Two workers need half the time.
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 2, 85, None),
        ([(0.0, [4, 0, 0]), (0.1, [4, 0, 0])], 2, 79, (1, 1)),
        # The fold that is furthest goes first.
        ([(0.1, [4, 1, 3])], 1, 30, (0, 2)),
        # Beside a complete trial only a better one that can be complete in time.
        ([(0.0, [4, 4, 4]), (0.1, [4, 4, 0])], 1, 79, (1, 2)),
        ([(0.0, [4, 4, 4]), (0.1, [4, 4, 0])], 1, 39, None),
        ([(0.1, [4, 4, 4]), (0.0, [4, 4, 0])], 1, 79, None),
        # Nothing is begun, or everything is complete.
        ([(0.0, [0, 0, 0])], 1, 1, None),
        ([(0.0, [4, 4, 4])], 1, 1, None),
    ],
)
def test_the_best_trial_that_can_be_complete_is_hurried(
    trials: list[tuple[float, list[int]]], workers: int, left: float, chosen: tuple[int, int] | None
):
    """Once the time that is left is short for it, and not before."""
    assert choose(matrix_of(*trials), left=left, workers=workers) == chosen


def test_folds_that_others_train_are_left_to_them():
    """Where all that is left of the trial is running, the race chooses what else is worth it."""
    matrix = matrix_of((0.1, [4, 4, 0]), (0.0, [4, 0, 0]))
    assert choose(matrix, left=30) == (0, 2)
    assert choose(matrix.with_state(0, 2, RunState.RUNNING), left=30) is None


def test_before_any_epoch_is_timed_the_race_chooses():
    """Nobody knows how long an epoch takes."""
    assert choose(matrix_of((0.1, [4, 0, 0])), left=1, seconds=None) is None


def test_hours_and_money_hurry_all_workers():
    """They end all runs at once, so workers of other runs help. A time limit of this run counts if it ends first."""
    matrix = matrix_of((0.1, [4, 0, 0]))
    limit = TimeLimit(deadline=1000, num_workers=1)

    def chosen(*, left: float, live: int, limit: TimeLimit | None = None) -> bool:
        haste = Haste(
            limit=limit,
            live_workers=lambda: live,
            epoch_seconds=lambda: 10.0,
            seconds_left=lambda: left,
            clock=lambda: 0.0,
        )
        return haste.choose(matrix) is not None

    # Eight epochs are left, four of each fold: two workers need 40 s, and one 80 s.
    assert [chosen(left=left, live=2) for left in (81, 79)] == [False, True]
    assert [chosen(left=left, live=1, limit=limit) for left in (161, 159)] == [False, True]
    assert [chosen(left=left, live=2, limit=limit) for left in (81, 79)] == [False, True]
    assert chosen(left=2000, live=1, limit=TimeLimit(deadline=159, num_workers=1))


@pytest.mark.parametrize(("num_slow", "low", "high"), [(0, 1.0, 1.0), (5, 5.0, 6.5), (10, 7.5, 9.0), (20, 10.0, 10.0)])
def test_the_forecast_follows_a_machine_that_becomes_slower(
    scripted_study: Callable[..., ScriptedStudy], num_slow: int, low: float, high: float
):
    """Ten times as slow: after five epochs it is more than half there."""
    ledger = scripted_study().ledger
    ledger.add_trial(0, {})
    claim = ledger.claim_run("worker", trial=0, fold=0, lease_seconds=60)
    assert claim is not None
    for number in range(1, 21 + num_slow):
        seconds = 1.0 if number <= 20 else 10.0
        epoch = EpochScore(epoch=number, score=0.5, standing=0.5, metrics={}, seconds=seconds)
        ledger.record_epoch(claim, epoch, checkpoint=None)
    found = haste(ledger, None, BudgetConfig()).epoch_seconds()
    assert found is not None
    assert low - 1e-9 <= found <= high + 1e-9


def test_with_workers_of_other_runs_nothing_is_hurried():
    """Their time goes on, and they would not be told."""
    matrix = matrix_of((0.1, [4, 0, 0]))
    assert choose(matrix, left=10, workers=2, live=2) == (0, 1)
    assert choose(matrix, left=10, workers=2, live=3) is None
