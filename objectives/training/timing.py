"""How long steps of a training take on this machine: a few of them are trained and timed."""

import time

import numpy as np

from fold_search.objectives.training.fold import FoldTraining


def time_steps(training: FoldTraining, *, steps: int, seconds: float) -> list[float]:
    """Train at most `steps` steps of the first epoch and return the seconds of each.

    No step is begun after `seconds`. The first step is often slower than the others. The training must have more steps
    than that. Raises TrialError, of which OutOfMemory.
    """
    asked: list[float] = []  # when the training asked whether to stop: once before all, then before each step

    def stop() -> bool:
        asked.append(time.perf_counter())
        return len(asked) > steps + 1 or (len(asked) > 2 and asked[-1] - asked[0] > seconds)

    for _ in training.epochs(stop):
        break
    return [float(taken) for taken in np.diff(asked[1:])]
