"""One weight per class, and whether a trial's loss fits the labels; needs no torch."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.names import quoted, which_label
from fold_search.objectives.errors import DataError
from fold_search.objectives.loss_params import REGRESSION_LOSSES, WEIGHTED
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.scoring.metrics import Task
from fold_search.words import listed


def class_weights(
    counts: NDArray[np.int64],
    *,
    params: TrainingParams,
    label_names: Sequence[str],
    before: NDArray[np.int64] | None = None,
) -> NDArray[np.float64] | None:
    """Return one weight per class, (classes,), from the training rows' class counts; None if the loss has none.

    Inverse frequency is 1 / n, class-balanced (1 - beta) / (1 - beta^n) (Cui et al. 2019), both scaled so that the mean
    weight of a training row is 1. Given weights are taken as they are. One number, as focal loss's alpha is (Lin et al.
    2017), is the weight of the rarer of two classes (the second where they are even); the other's is 1 less it. Where
    counts `before` sampling are given, they say which is rarer: a sampler may have made them even.
    """
    given = params.class_weights
    if params.loss not in WEIGHTED or given == "none":
        return None
    if isinstance(given, dict):
        return np.array([given[label] for label in label_names], np.float64)
    if isinstance(given, float):
        first, second = counts if before is None else before
        return np.array([given, 1 - given] if first < second else [1 - given, given])
    present = np.maximum(counts, 1).astype(np.float64)
    beta = params.class_balanced_beta
    weights = 1 / present if given == "inverse_frequency" else (1 - beta) / (1 - beta**present)
    scale: float = counts.sum() / (weights * counts).sum()
    return weights * scale


def check_loss(params: TrainingParams, *, task: Task, label_names: Sequence[str]) -> None:
    """Raise DataError where the loss, its weights or its prior do not fit the task and its classes."""
    if task == "regression":
        if params.loss not in REGRESSION_LOSSES:
            expected = ", ".join(REGRESSION_LOSSES)
            raise DataError(f"training.loss: found {params.loss} for a numeric label; expected one of {expected}")
        return
    if params.loss in REGRESSION_LOSSES:
        raise DataError(
            f"training.loss: found {params.loss}, which is for a numeric label; expected a loss for "
            f"{len(label_names)} classes, such as cross_entropy"
        )
    _check_weights(params.class_weights, label_names)
    prior = params.smoothing_prior
    if isinstance(prior, dict):
        _check_mapping(prior, label_names, key="training.smoothing_prior")
        total = math.fsum(prior.values())
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise DataError(f"training.smoothing_prior: found shares that sum to {total:.7g}, expected 1")


def _check_weights(weights: str | float | dict[str, float], label_names: Sequence[str]) -> None:
    key = "training.class_weights"
    if isinstance(weights, dict):
        _check_mapping(weights, label_names, key=key)
        if not any(weights.values()):
            raise DataError(f"{key}: found weights that are all 0, expected at least one above 0")
    elif isinstance(weights, float):
        if len(label_names) > 2:
            raise DataError(
                f"{key}: found the one number {weights:g} for {len(label_names)} classes: that would only rescale "
                "the loss; expected {label: weight}, class_balanced or inverse_frequency"
            )
        if not 0 < weights < 1:
            raise DataError(
                f"{key}: found {weights:g}, expected a number between 0 and 1: the weight of the rarer class; "
                "the other class gets 1 minus that weight"
            )


def _check_mapping(given: Mapping[str, float], label_names: Sequence[str], *, key: str) -> None:
    for label in given:
        if label not in label_names:
            raise DataError(
                f"{key}: found {quoted(label)}, which is not a label of the data; {which_label(label, label_names)}"
            )
    missing = [label for label in label_names if label not in given]
    if missing:
        raise DataError(
            f"{key}: found no entry for {listed(map(quoted, missing))}, expected one for each of the labels"
        )
    for label, number in given.items():
        if not 0 <= number < math.inf:
            raise DataError(f"{key}.{label}: found {number:g}, expected a number of at least 0")
