"""What one fold run trains, and what it reports: settings, rows and goal, and the score of each epoch."""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from fold_search.models.params import ModelParams
from fold_search.objectives.params import Params
from fold_search.objectives.scoring.metrics import Goal, Task

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScore:
    """The result of one epoch."""

    epoch: int  # from 1
    score: float  # the study's metric on the validation rows
    standing: float  # the score that the fold would have if it ended now: that of the best epoch so far
    metrics: dict[str, float]  # val_METRIC, val_loss, train_loss, train_loss_running, learning_rate, rows_per_second
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """What is trained: everything but the machine."""

    params: Params
    goal: Goal
    labels: NDArray[np.int64] | NDArray[np.float64]  # of all rows: classes, or numbers
    label_names: tuple[str, ...]  # empty for a numeric label
    training_rows: Rows
    validation_rows: Rows
    seed: int  # a function of the study's seed and the fold, never of the trial
    together: Rows | None = None  # of all rows: those that share a number stay in one fold; None: each stands alone
    encoder_name: str | None = None  # the encoder's name in the study, wherever it lies here; None: that of params

    @property
    def model(self) -> ModelParams:
        """The model's parameters as the study has them, the same on every machine and in every folder."""
        return self.params.model.model_copy(update={"encoder": self.encoder_name or self.params.model.encoder})

    @property
    def task(self) -> Task:
        """What the label is: a class, or a number."""
        return "classification" if self.label_names else "regression"

    @property
    def num_outputs(self) -> int:
        """One for each class, or one number."""
        return len(self.label_names) or 1

    @property
    def classes(self) -> NDArray[np.int64]:
        """The labels of all rows, where they are classes."""
        return np.asarray(self.labels, np.int64)

    def counts(self, rows: Rows) -> NDArray[np.int64]:
        """How many of `rows` are of each class, (classes,); empty for a numeric label."""
        if self.task == "regression":
            return np.empty(0, np.int64)
        return np.bincount(self.classes[rows], minlength=len(self.label_names))

    @property
    def label_scale(self) -> tuple[float, float]:
        """Mean and deviation of a numeric label's training rows, by which it is standardised; 0 and 1 for classes."""
        if self.task == "classification":
            return 0.0, 1.0
        known = self.labels[self.training_rows]
        return float(known.mean()), float(known.std()) or 1.0

    @property
    def targets(self) -> NDArray[np.int64] | NDArray[np.float32]:
        """What is trained towards, (all rows,): classes, or standardised numbers."""
        if self.task == "classification":
            return self.classes
        mean, deviation = self.label_scale
        return ((self.labels - mean) / deviation).astype(np.float32)

    def fingerprint(self) -> str:
        """Return the sha256 of everything that decides the training."""
        params = self.params.model_copy(update={"model": self.model})
        settings = (params.model_dump_json(), asdict(self.goal), self.label_names, self.seed)
        digest = hashlib.sha256(f"2 {settings}".encode())
        kind = "<i8" if self.task == "classification" else "<f8"
        digest.update(self.labels.astype(kind).tobytes() + b"/")
        for rows in (self.training_rows, self.validation_rows):
            digest.update(rows.astype("<i8").tobytes() + b"/")
        return digest.hexdigest()
