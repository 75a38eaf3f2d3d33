"""What a fold is trained towards: classes, or a numeric label on a scale of its own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.jobs import FoldJob


def label_scale(job: FoldJob) -> tuple[float, float]:
    """Return the mean and the deviation of a numeric label's training rows, by which it is standardised; else 0, 1."""
    if job.label_names:
        return 0.0, 1.0
    known = job.labels[job.training_rows]
    return float(known.mean()), float(known.std()) or 1.0


def targets(job: FoldJob) -> NDArray[Any]:
    """Return what is trained towards, (all rows,)."""
    if job.label_names:
        return job.labels
    mean, deviation = label_scale(job)
    return ((job.labels - mean) / deviation).astype(np.float32)
