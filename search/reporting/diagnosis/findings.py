"""The whole diagnosis of one trial in numbers: what `--json` prints, and what tables and pictures are made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fold_search.search.reporting.diagnosis.calibration import Calibration, calibrate
from fold_search.search.reporting.diagnosis.evidence import Evidence
from fold_search.search.reporting.diagnosis.generalisation import (
    Curve,
    DropoutRelation,
    FoldGap,
    curves,
    fold_gaps,
    relate_dropout,
)
from fold_search.search.reporting.diagnosis.held_out import (
    Classes,
    PooledScore,
    Residuals,
    judge_classes,
    judge_numbers,
    pooled_scores,
)
from fold_search.storage.records import BaselineRecord, FoldRun

_SAMPLE_NUMBERS = ("num_rows_in", "num_rows_out", "num_synthetic", "num_validation_rows_used")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldSample:
    """What resampling made of a fold's training rows; the counts are of rows by class, in the labels' order."""

    fold: int
    num_rows_in: int
    num_rows_out: int  # those of them that are trained on, once or more
    num_synthetic: int
    counts_before: tuple[int, ...]
    counts_after: tuple[int, ...]
    num_validation_rows_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A trial, by the folds of it that are done; `classes` and `calibration`, or `residuals`, are None."""

    study: str
    trial: int
    state: str
    metric: str
    params: dict[str, Any]  # those that were searched
    folds: tuple[int, ...]
    num_folds: int
    num_rows: int  # held out in those folds
    gaps: tuple[FoldGap, ...]
    curves: tuple[Curve, ...]
    dropout: DropoutRelation
    scores: tuple[PooledScore, ...]
    classes: Classes | None
    calibration: Calibration | None
    residuals: Residuals | None
    samples: tuple[FoldSample, ...]  # of the folds that have one
    baselines: tuple[BaselineRecord, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return everything with plain types; what is not finite is None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def diagnose(evidence: Evidence) -> Diagnosis:
    """Find out what the trial's done folds show."""
    done, is_classification = evidence.done, evidence.is_classification
    return Diagnosis(
        study=evidence.study.name,
        trial=evidence.trial.number,
        state=evidence.trial.state.value,
        metric=evidence.study.metric,
        params=dict(evidence.trial.params),
        folds=tuple(run.fold for run in done),
        num_folds=evidence.study.num_folds,
        num_rows=len(evidence.held_out.rows),
        gaps=fold_gaps(done, evidence.epochs),
        curves=curves(done, evidence.epochs),
        dropout=relate_dropout(evidence),
        scores=pooled_scores(evidence),
        classes=judge_classes(evidence) if is_classification else None,
        calibration=calibrate(evidence) if is_classification else None,
        residuals=None if is_classification else judge_numbers(evidence),
        samples=_samples(done),
        baselines=tuple(evidence.baselines),
    )


def _samples(runs: Sequence[FoldRun]) -> tuple[FoldSample, ...]:
    return tuple(
        FoldSample(
            fold=run.fold,
            counts_before=tuple(run.sample["counts_before"]),
            counts_after=tuple(run.sample["counts_after"]),
            **{name: run.sample[name] for name in _SAMPLE_NUMBERS},
        )
        for run in runs
        if run.sample is not None
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
