"""Early stopping of cross-validation: stop a trial that is no better than the incumbent's worst fold."""

import numpy as np

from fold_search.search.racing.matrix import FloatArray, Matrix, last_scores
from fold_search.search.racing.verdicts import Decision, Verdict


def early_stopping(matrix: Matrix, *, trial: int, fold: int, min_trials: int, min_epochs: int) -> Verdict:
    """Judge a trial after an epoch of `fold`, or after that fold's end.

    The rule `forgiving` of Bergman, Purucker and Hutter 2024, "Don't Waste Your Time: Early Stopping Cross-Validation",
    arXiv 2405.03389, but on the same folds: a trial stops when its mean over its finished folds is not better than the
    incumbent's worst score on those folds. Within a fold it stops when even the largest late gain seen on that fold
    would not make it better. In replays this rule loses the best trial more often than its name in the paper suggests.
    """
    row = matrix.row(trial)
    incumbent = best_complete(matrix)
    if incumbent is None or matrix.complete.sum() < min_trials or matrix.done[row].all():
        return Verdict(decision=Decision.CONTINUE)
    own, reference = matrix.standing[row], matrix.standing[incumbent]
    judged = matrix.done[row].copy()
    if not judged[fold]:
        epoch = int(matrix.num_epochs[row, fold])
        gains = late_gains(matrix, fold=fold, epoch=epoch)
        if epoch < min_epochs or gains.size < min_trials:
            return Verdict(decision=Decision.CONTINUE)
        judged[fold] = True
        own[fold] += gains.max()
    mean, floor = float(own[judged].mean()), float(reference[judged].min())
    if mean > floor:
        return Verdict(decision=Decision.CONTINUE)
    kind = "mean" if matrix.done[row, fold] else "mean at best"
    reason = (
        f"{kind} {matrix.sign * mean:.4f} over {int(judged.sum())} of {judged.size} folds is not better than "
        f"{matrix.sign * floor:.4f}, the worst of these folds of trial {int(matrix.numbers[incumbent])}, the best one"
    )
    return Verdict(decision=Decision.STOP, reason=reason)


def best_complete(matrix: Matrix) -> int | None:
    """Row of the complete trial with the best mean; None without one."""
    complete = np.flatnonzero(matrix.complete)
    if not complete.size:
        return None
    return int(complete[last_scores(matrix.scores[complete]).mean(axis=1).argmax()])


def late_gains(matrix: Matrix, *, fold: int, epoch: int) -> FloatArray:
    """How much the trials that finished `fold` with more than `epoch` epochs still gained on it after `epoch`."""
    curves = matrix.scores[matrix.done[:, fold], fold]
    curves = curves[np.isfinite(curves).sum(axis=1) > epoch]
    gains: FloatArray = last_scores(curves) - last_scores(curves[:, :epoch])
    return gains
