"""Resampling of a fold's training rows against class imbalance; validation rows never come here."""

import math
from collections.abc import Callable

import numpy as np
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import EditedNearestNeighbours, RandomUnderSampler
from numpy.typing import NDArray

from objectives.params import TrainingParams

Rows = NDArray[np.int64]


def resample(
    rows: Rows,
    labels: NDArray[np.int64],
    *,
    params: TrainingParams,
    seed: int,
    embeddings: Callable[[], NDArray[np.float32]],
) -> Rows:
    """Return the training rows after the sampler, in rising order, some repeated or left out; no class is emptied.

    `labels` and `embeddings()` cover all rows of the data, `rows` are the fold's training rows.
    """
    classes, counts = np.unique(labels[rows], return_counts=True)
    if params.sampler == "none" or len(classes) == 1:
        return rows
    if params.sampler == "enn":
        return _edit(rows, labels, embeddings=embeddings()[rows], num_neighbors=params.enn_neighbors)
    targets = _targets(counts, params)
    sampler = RandomUnderSampler if params.sampler == "random_under" else RandomOverSampler
    strategy = {int(label): int(target) for label, target in zip(classes, targets, strict=True)}
    chosen, _ = sampler(sampling_strategy=strategy, random_state=seed).fit_resample(rows[:, None], labels[rows])
    return np.sort(chosen[:, 0])


def _targets(counts: NDArray[np.int64], params: TrainingParams) -> NDArray[np.int64]:
    """Return the number of rows that each class shall have."""
    if params.sampler == "random_over":
        return np.full_like(counts, counts.max())
    if params.sampler == "minority_over":
        return counts.clip(min=math.floor(params.sampler_ratio * counts.max()))
    return counts.clip(max=math.floor(counts.min() / params.sampler_ratio))


def _edit(rows: Rows, labels: NDArray[np.int64], *, embeddings: NDArray[np.float32], num_neighbors: int) -> Rows:
    """Edited nearest neighbours (Wilson 1972) on every class but the smallest, as imbalanced-learn has it.

    A row stays if its class is the commonest among its neighbours; a class that would lose all its rows keeps them.
    """
    neighbors = min(num_neighbors, len(rows) - 1)
    editor = EditedNearestNeighbours(n_neighbors=neighbors, kind_sel="mode")
    editor.fit_resample(embeddings, labels[rows])
    kept = rows[np.sort(editor.sample_indices_)]
    emptied = np.setdiff1d(labels[rows], labels[kept])
    return np.sort(np.concatenate([kept, rows[np.isin(labels[rows], emptied)]]))
