"""What a fold is scored by: plain functions of true and predicted classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score of predicted classes, (rows,), against the true ones, (rows,)."""

    name: str
    direction: Literal["maximize", "minimize"]
    function: Callable[[Labels, Labels], float]  # true, predicted

    def improves(self, score: float, best: float) -> bool:
        """Whether `score` is better than `best`; equal is not."""
        return score > best if self.direction == "maximize" else score < best


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Share of the rows whose class is right."""
    return float(accuracy_score(labels, predicted))


def macro_f1(labels: Labels, predicted: Labels) -> float:
    """Mean F1 of the classes that occur among the true or the predicted ones, each class weighing the same."""
    return float(f1_score(labels, predicted, average="macro", zero_division=0))


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", direction="maximize", function=accuracy),
        Metric(name="macro_f1", direction="maximize", function=macro_f1),
    )
}
