"""The race's rules: pure functions of the scores so far that say what to train next and whether a trial goes on."""

import numpy as np

from fold_search.search.racing.beliefs import believe, expected_gain
from fold_search.search.racing.early_stopping import early_stopping
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.paired import Paired
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.study.sections import RaceConfig


def verdict(matrix: Matrix, *, trial: int, fold: int, settings: RaceConfig, trials_left: int = 0) -> Verdict:
    """Judge a trial after an epoch of `fold`, or after the end of that fold. Diverged training always stops.

    `trials_left` is how many new trials the budget still has. KeyError for a trial that is not in the matrix.
    """
    if np.isneginf(matrix.scores[matrix.row(trial), fold]).any():
        return Verdict(decision=Decision.STOP, reason="diverged: the score is not finite")
    if settings.rule == "paired":
        return _paired(settings).verdict(matrix, trial=trial, fold=fold, trials_left=trials_left)
    if settings.rule == "early_stopping_cv":
        return early_stopping(
            matrix, trial=trial, fold=fold, min_trials=settings.fewest_trials, min_epochs=settings.min_epochs
        )
    return Verdict(decision=Decision.CONTINUE)


def next_fold_run(matrix: Matrix, *, settings: RaceConfig, trials_left: int) -> Choice:
    """Choose what a free worker trains: a fold run that waits or is paused, or a new trial if the budget has one.

    Without a race the trials are trained one after the other, each fold by fold.
    """
    if settings.rule == "paired":
        return _paired(settings).next_fold_run(matrix, trials_left=trials_left)
    waiting = ((matrix.states == RunState.WAITING) | (matrix.states == RunState.PAUSED)) & matrix.open[:, None]
    if waiting.any():
        row, fold = np.unravel_index(int(waiting.argmax()), waiting.shape)
        return Choice(action=Action.RUN, trial=int(matrix.numbers[row]), fold=int(fold))
    if trials_left > 0:
        return Choice(action=Action.START)
    return Choice(action=Action.WAIT if (matrix.states == RunState.RUNNING).any() else Action.END)


def gain_is_within_noise(matrix: Matrix) -> bool:
    """Whether ten more trials are expected to improve the best by less than the standard error of its mean over folds.

    Never before 20 trials are begun and one is complete.
    """
    beliefs = believe(matrix)
    if beliefs.best is None or (beliefs.trained > 0).sum() < 20:
        return False
    standard_error = float(np.sqrt(beliefs.noise.variance / matrix.states.shape[1]))
    return expected_gain(beliefs, num_new=10) < standard_error


def _paired(settings: RaceConfig) -> Paired:
    return Paired(
        risk=settings.risk,
        audit=settings.audit,
        min_trials=settings.fewest_trials,
        min_epochs=settings.min_epochs,
        breadth=settings.order == "breadth",
    )
