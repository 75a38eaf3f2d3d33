"""How long a decision of the race takes: `python -m benchmarks.race_speed [--trials N] [--folds K] [--epochs E]`.

Between two decisions a paused trial is trained one more epoch, so that none finds the one before remembered.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.policy import next_fold_run, verdict
from fold_search.search.study.sections import RaceConfig

NUM_COMPLETE, NUM_PAUSED, NUM_PARAMETERS, ROUNDS = 31, 100, 10, 30


def main() -> None:
    """Print a table: CPU milliseconds of a decision, the first one and the median of the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("trials", 10_000), ("folds", 10), ("epochs", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    matrix = build(arguments.trials, arguments.folds, arguments.epochs)
    settings, last = RaceConfig(), arguments.trials - 1
    fold = int(np.flatnonzero(matrix.states[last] == RunState.DONE)[-1])
    print("| decision | first, ms | next, ms |\n|---|---|---|")
    for name, decide in {
        "verdict": lambda: verdict(matrix, trial=last, fold=fold, settings=settings, trials_left=100),
        "next_fold_run": lambda: next_fold_run(matrix, settings=settings, trials_left=100),
    }.items():
        first, later = measure(decide), []
        for trial in range(arguments.trials - NUM_PAUSED, arguments.trials - NUM_PAUSED + ROUNDS):
            train(matrix, trial)
            later.append(measure(decide))
        print(f"| {name} | {first:.1f} | {np.median(later):.1f} |")


def build(num_trials: int, num_folds: int, num_epochs: int) -> Matrix:
    """A study late in its life: few trials complete, a hundred paused, the rest stopped after one to three folds."""
    random = np.random.default_rng(0)
    means = 0.7 + 0.05 * random.standard_normal(num_trials)
    ends = means[:, None] + 0.02 * random.standard_normal((num_trials, num_folds))
    rising = ends[:, :, None] - 0.3 * np.exp(-0.4 * np.arange(1, num_epochs + 1))
    scores = np.maximum.accumulate(rising + 0.005 * random.standard_normal(rising.shape), axis=2)
    states = np.full((num_trials, num_folds), RunState.ENDED, np.int8)
    for row in range(num_trials):
        count = num_folds if row < NUM_COMPLETE else int(random.integers(1, min(4, num_folds)))
        states[row, :count] = RunState.DONE
        scores[row, count:] = np.nan
        if row >= num_trials - NUM_PAUSED:
            trained = int(random.integers(1, num_epochs))
            scores[row, count, :trained] = ends[row, count] - 0.1
            states[row, count:] = RunState.WAITING
            states[row, count] = RunState.PAUSED
    lengths, params = np.full(num_trials, num_epochs), 0.9 * random.random((num_trials, NUM_PARAMETERS))
    return Matrix(numbers=np.arange(num_trials), scores=scores, states=states, lengths=lengths, params=params)


def train(matrix: Matrix, row: int) -> None:
    """Record one more epoch of a trial's paused fold run."""
    [fold] = np.flatnonzero(matrix.states[row] == RunState.PAUSED)
    epoch = min(int(matrix.num_epochs[row, fold]), matrix.scores.shape[2] - 1)
    matrix.scores[row, fold, epoch] = matrix.scores[row, fold, epoch - 1] + 0.001


def measure(decide: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    decide()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
