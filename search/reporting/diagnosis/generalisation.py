"""The generalisation gap with dropout off, and how it depends on dropout over a study's trials."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata, zscore

from fold_search.objectives.loss_params import LossParams
from fold_search.search.reporting.diagnosis.evidence import Evidence
from fold_search.storage.records import EpochRecord, FoldRun, TrialRecord, TrialState

FEWEST_TRIALS = 4
_PERMUTATIONS = 9999
_OfTrial = TypeVar("_OfTrial", FoldRun, EpochRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldGap:
    """A fold's losses at its best epoch.

    `train_loss` and `val_loss` are both taken at the epoch's end in evaluation mode; `train_loss_running` is what a
    training loop prints. `gap` is val_loss - train_loss, `excess` train_loss_running - train_loss.
    """

    fold: int
    best_epoch: int
    train_loss: float
    val_loss: float
    gap: float
    train_loss_running: float
    excess: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A fold's losses after every epoch, the first of them being epoch 1."""

    fold: int
    best_epoch: int
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    train_loss_running: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutPoint:
    """A complete trial's dropout and the means over its folds of `gap` and `excess`."""

    trial: int
    dropout: float
    gap: float
    excess: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation of `n` pairs, with the two-sided p-value of a permutation test."""

    rho: float
    p_value: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutRelation:
    """How dropout correlates with the gap and with what the printed loss adds; None, with the reason, if unknown."""

    points: tuple[DropoutPoint, ...]
    gap: Correlation | None
    excess: Correlation | None
    reason: str | None
    loss: str  # the points are the complete trials with this loss
    num_other_losses: int  # complete trials left out, because another loss has another unit
    also_searched: tuple[str, ...]
    loss_settings_searched: tuple[str, ...]  # of those, what changes the unit of the loss


def fold_gaps(runs: Sequence[FoldRun], epochs: Sequence[EpochRecord]) -> tuple[FoldGap, ...]:
    """The losses of each fold run that is done; `epochs` may hold more than theirs."""
    metrics = {(epoch.trial, epoch.fold, epoch.epoch): epoch.metrics for epoch in epochs}
    return tuple(
        _gap(run.fold, run.best_epoch, metrics.get((run.trial, run.fold, run.best_epoch), {}))
        for run in runs
        if run.best_epoch is not None
    )


def curves(runs: Sequence[FoldRun], epochs: Sequence[EpochRecord]) -> tuple[Curve, ...]:
    """The losses of each of these fold runs, epoch by epoch."""
    return tuple(
        Curve(
            fold=run.fold,
            best_epoch=run.best_epoch or 0,
            train_loss=_series(mine, "train_loss"),
            val_loss=_series(mine, "val_loss"),
            train_loss_running=_series(mine, "train_loss_running"),
        )
        for run in runs
        for mine in [[epoch for epoch in epochs if (epoch.trial, epoch.fold) == (run.trial, run.fold)]]
    )


def relate_dropout(evidence: Evidence) -> DropoutRelation:
    """Compare the study's complete trials that minimised the same loss as this one."""
    config = evidence.config
    loss = str(evidence.trial.params.get("loss", config.training.loss))
    complete = [trial for trial in evidence.trials if trial.state is TrialState.COMPLETE]
    alike = [trial for trial in complete if trial.params.get("loss", config.training.loss) == loss]
    runs = _by_trial(evidence.runs)
    epochs = _by_trial(evidence.epochs)
    points = [_point(evidence, trial, fold_gaps(runs[trial.number], epochs[trial.number])) for trial in alike]
    points = [point for point in points if math.isfinite(point.gap + point.excess)]
    also_searched = tuple(name for name in config.space if name not in ("dropout", "loss"))
    reason = None
    if "dropout" not in config.space:
        reason = f"dropout was not searched: it is {config.model.dropout:g} in every trial"
    elif len(points) < FEWEST_TRIALS:
        reason = f"{len(points)} complete trials with the loss {loss}; expected at least {FEWEST_TRIALS}"
    elif len({point.dropout for point in points}) == 1:
        reason = f"dropout is {points[0].dropout:g} in every complete trial with the loss {loss}"
    dropouts = [point.dropout for point in points]
    return DropoutRelation(
        points=tuple(points),
        gap=None if reason else correlate(dropouts, [point.gap for point in points]),
        excess=None if reason else correlate(dropouts, [point.excess for point in points]),
        reason=reason,
        loss=loss,
        num_other_losses=len(complete) - len(alike),
        also_searched=also_searched,
        loss_settings_searched=tuple(name for name in also_searched if name in LossParams.model_fields),
    )


def correlate(one: Sequence[float], other: Sequence[float]) -> Correlation | None:
    """Spearman's correlation of pairs; None where one side is constant.

    The p-value is exact up to seven pairs, else of 9,999 random permutations: the usual formula would call four pairs
    in the same order certain.
    """
    if min(np.ptp(one), np.ptp(other)) == 0:
        return None
    first, second = zscore(rankdata(one)), zscore(rankdata(other))

    def rho(ranks: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray((ranks * second).mean(axis=axis))

    result = permutation_test(
        (first,),
        rho,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return Correlation(rho=float(result.statistic), p_value=float(result.pvalue), n=len(first))


def _gap(fold: int, best_epoch: int, metrics: Mapping[str, float]) -> FoldGap:
    train, val = metrics.get("train_loss", math.nan), metrics.get("val_loss", math.nan)
    running = metrics.get("train_loss_running", math.nan)
    return FoldGap(
        fold=fold,
        best_epoch=best_epoch,
        train_loss=train,
        val_loss=val,
        gap=val - train,
        train_loss_running=running,
        excess=running - train,
    )


def _series(epochs: Sequence[EpochRecord], name: str) -> tuple[float, ...]:
    return tuple(epoch.metrics.get(name, math.nan) for epoch in epochs)


def _by_trial(records: Sequence[_OfTrial]) -> dict[int, list[_OfTrial]]:
    found: defaultdict[int, list[_OfTrial]] = defaultdict(list)
    for record in records:
        found[record.trial].append(record)
    return found


def _point(evidence: Evidence, trial: TrialRecord, gaps: Sequence[FoldGap]) -> DropoutPoint:
    return DropoutPoint(
        trial=trial.number,
        dropout=float(trial.params.get("dropout", evidence.config.model.dropout)),
        gap=float(np.mean([gap.gap for gap in gaps])),
        excess=float(np.mean([gap.excess for gap in gaps])),
    )
