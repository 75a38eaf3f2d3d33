"""How many epochs a study still trains: what the race usually leaves of them, and what its chances say of this study.

The constants are fitted to studies that were replayed from recorded curves (`benchmarks/replay/curves`, the sets for
tuning; 10 to 80 trials, K = 3, 5 and 10). `benchmarks/time_left.py` shows how far from the truth it is on other sets.
"""

import numpy as np

from fold_search.search.racing.beliefs import believe
from fold_search.search.racing.matrix import FloatArray, Matrix
from fold_search.search.racing.paired import NEARLY_DONE, is_audited
from fold_search.search.study.sections import RaceConfig

Range = tuple[float, float]  # the least and the most that is to be expected

FEWEST_RACED = 3  # trials: of fewer none can be stopped early enough to matter
SPREAD = 1.4  # four of five forecasts were so far from the truth at most, as a factor


def expected_work(*, num_trials: int, num_folds: int, num_workers: int = 1, racing: bool = True) -> Range:
    """Return which share of all its epochs a study trains that is not begun; all of them without the paired race.

    How many epochs a fold run has makes no difference: it was the same share with 1 to 10 of them.
    """
    if not racing or num_trials < FEWEST_RACED:
        return 1.0, 1.0
    usual = 0.36 * (num_folds / 5) ** -0.25 * (num_trials / 30) ** -0.17 * num_workers**0.12
    return min(1.0, usual / SPREAD), min(1.0, usual * SPREAD)


def epochs_left(matrix: Matrix, *, settings: RaceConfig, trials_left: int, num_epochs: float) -> Range:
    """Return how many epochs a study still trains, of which the budget has `trials_left` new trials.

    `num_epochs` are those of a fold run of a new trial. Patience ends the others as early as it ended those before.
    """
    num_folds, lasting = matrix.states.shape[1], _lasting(matrix)
    rest = np.maximum(lasting * matrix.lengths[:, None] - matrix.num_epochs, 0.0)
    rest = np.where(matrix.open, np.where(matrix.done, 0.0, rest).sum(axis=1), 0.0)
    new_trial = num_folds * num_epochs * lasting
    most = float(rest.sum()) + trials_left * new_trial
    if settings.rule != "paired":
        return _share_of_ended(matrix, lasting=lasting) * most, most
    if not matrix.done.any():
        num_trials, trained = len(matrix.numbers) + trials_left, float(matrix.num_epochs.sum())
        low, high = expected_work(num_trials=num_trials, num_folds=num_folds)
        return max(low * (most + trained) - trained, 0.0), max(high * (most + trained) - trained, 0.0)
    open_shares, new_shares = _shares(matrix, settings=settings, trials_left=trials_left)
    expected = float(rest @ open_shares) + float(new_shares.sum()) * new_trial
    return expected / SPREAD, min(expected * SPREAD, most)


def _shares(matrix: Matrix, *, settings: RaceConfig, trials_left: int) -> tuple[FloatArray, FloatArray]:
    """How much of what is left of each trial will be trained, (trials,), and of each new one, (trials_left,).

    The more, the better a trial's chance to be the best; all of an audited one, which is drawn by its number.
    """
    beliefs, num_trials = believe(matrix), len(matrix.numbers) + trials_left
    new = 0.263 * (matrix.states.shape[1] / 5) ** -0.82 * (num_trials / 30) ** -0.14
    numbers = [*matrix.numbers.tolist(), *range(len(matrix.numbers), num_trials)]
    audited = np.array([is_audited(matrix, number, share=settings.audit) for number in numbers])
    relative = np.maximum(beliefs.chance, 1e-9) * num_trials / settings.risk  # 1: it is about to be stopped
    begun = np.where(beliefs.trained >= NEARLY_DONE, 1.0, np.minimum(1.0, 0.088 * relative**0.423))
    shares = np.concatenate([np.where(beliefs.trained > 0, begun, 0.75 * new), np.full(trials_left, new)])
    shares = np.where(audited, 1.0, np.minimum(shares, 1.0))
    return shares[: len(matrix.numbers)], shares[len(matrix.numbers) :]


def _lasting(matrix: Matrix) -> float:
    """The share of its epochs that a fold run takes which is trained to its end; below 1 where patience ends them."""
    planned = np.broadcast_to(matrix.lengths[:, None], matrix.states.shape)[matrix.done].sum()
    return float(matrix.num_epochs[matrix.done].sum() / planned) if planned else 1.0


def _share_of_ended(matrix: Matrix, *, lasting: float) -> float:
    """The share of their epochs that the trials which have ended were trained; 1 if none has."""
    planned = float(matrix.lengths[~matrix.open].sum()) * matrix.states.shape[1] * lasting
    return min(1.0, float(matrix.num_epochs[~matrix.open].sum()) / planned) if planned else 1.0
