"""How true the trial's probabilities are: as trained, temperature scaled, and corrected for shifted class shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.params import TrainingParams
from fold_search.objectives.scoring.calibration import (
    correct_prior,
    cross_fitted,
    fit_temperature,
    reliability,
    temperature_scaled,
)
from fold_search.objectives.scoring.metrics import METRICS, Goal
from fold_search.objectives.training.weights import class_weights
from fold_search.search.reporting.diagnosis.evidence import Evidence

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A bar of a reliability diagram: rows of like confidence in their predicted class, and how many are right."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One way to compute the probabilities, and how true they are."""

    name: str
    expected_calibration_error: float
    log_loss: float
    bins: tuple[Bin, ...]  # those with rows, by confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """As trained first, then each correction that can be made; nothing is fitted on the rows it is applied to."""

    ways: tuple[Calibrated, ...]
    temperature: float | None  # fitted on all rows together: what a user would apply to new predictions
    missing: tuple[str, ...]  # the corrections that cannot be made, and why


def calibrate(evidence: Evidence) -> Calibration:
    """Compare the probabilities before and after each correction."""
    held_out = evidence.held_out
    truth, probabilities = held_out.truth.astype(np.int64), held_out.predictions
    ways, missing = [_judge("as trained", probabilities, truth, evidence.goal)], []
    temperature = None
    if len(np.unique(held_out.folds)) > 1:
        scaled = cross_fitted(probabilities, truth, held_out.folds, temperature_scaled)
        ways.append(_judge("temperature scaling", scaled, truth, evidence.goal))
        temperature = fit_temperature(probabilities, truth)
    else:
        missing.append(
            "temperature scaling: only one fold is done, and a fold's temperature is fitted on the other folds"
        )
    shares = _shares(evidence)
    if shares is None:
        missing.append("prior correction: the class counts of the training rows are not recorded")
    elif all(np.allclose(trained, wanted) for trained, wanted in shares.values()):
        missing.append("prior correction: not needed, because training used the class shares of the data")
    else:
        ways.append(_judge("prior correction", _correct_priors(evidence, shares), truth, evidence.goal))
    return Calibration(ways=tuple(ways), temperature=temperature, missing=tuple(missing))


def _judge(name: str, probabilities: Probabilities, truth: Labels, goal: Goal) -> Calibrated:
    diagram = reliability(probabilities, truth)
    return Calibrated(
        name=name,
        expected_calibration_error=diagram.error,
        log_loss=METRICS["log_loss"](truth, probabilities, goal),
        bins=tuple(
            Bin(confidence=float(confidence), accuracy=float(accuracy), rows=int(count))
            for confidence, accuracy, count in zip(diagram.confidence, diagram.accuracy, diagram.count, strict=True)
            if count
        ),
    )


def _shares(evidence: Evidence) -> dict[int, tuple[Shares, Shares]] | None:
    """By fold, the class shares that its probabilities are pulled to, and those of its training rows in the data."""
    names, params = evidence.dataset.label_names, evidence.params.training
    shares = {}
    for run in evidence.done:
        others = (evidence.assignments >= 0) & (evidence.assignments != run.fold)
        counts = np.bincount(evidence.dataset.labels[others].astype(np.int64), minlength=len(names))
        trained = _trained_counts(counts, run.sample, params=params)
        if trained is None:
            return None
        wanted = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
        shares[run.fold] = (trained_shares(trained, params=params, label_names=names, before=counts), wanted)
    return shares


def _correct_priors(evidence: Evidence, shares: Mapping[int, tuple[Shares, Shares]]) -> Shares:
    corrected = np.empty(evidence.held_out.predictions.shape, np.float64)
    for fold, (trained, wanted) in shares.items():
        mine = evidence.held_out.folds == fold
        corrected[mine] = correct_prior(evidence.held_out.predictions[mine], trained=trained, wanted=wanted)
    return corrected


def _trained_counts(counts: Labels, sample: Mapping[str, Any] | None, *, params: TrainingParams) -> Labels | None:
    if sample is not None:
        return np.array(sample["counts_after"], np.int64)
    return counts if params.sampler == "none" else None


def trained_shares(
    counts: Labels, *, params: TrainingParams, label_names: Sequence[str], before: Labels | None = None
) -> Shares:
    """Return the class shares, (classes,), that the loss pulls the probabilities to.

    `counts` are the rows after sampling, `before` those before it. Class weights count a row that many times; logit
    adjustment takes tau of the logarithm of the shares away. Exact for cross entropy (Elkan 2001), near it for others.
    """
    shares = np.maximum(counts, 1).astype(np.float64)
    weights = class_weights(counts, params=params, label_names=label_names, before=before)
    if params.loss == "logit_adjusted":
        shares = shares ** (1 - params.adjustment_tau)
    elif weights is not None:
        shares = shares * weights
    return np.asarray(shares / shares.sum())
