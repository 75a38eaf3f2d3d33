"""A linear model on what a frozen encoder makes of the rows: the baseline of images and relations."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.baselines.folds import FoldRows
from fold_search.objectives.baselines.linear import fit_linear
from fold_search.objectives.jobs import Rows


def predict_states(rows: FoldRows, states: NDArray[np.float32]) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Yield the validation rows of each fold and what the model of the others predicts; `states` are (rows, width)."""
    scaled = states.astype(np.float64)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    labels = rows.dataset.labels
    for training, validation in rows.splits:
        model = fit_linear(scaled[training], labels[training], num_outputs=rows.num_outputs, seed=rows.seed)
        yield validation, model.predict(scaled[validation])
