"""The rows of a study: its data, its folds, and the out-of-fold predictions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.data.dataset import Dataset, Labels, read_dataset
from fold_search.objectives.data.folds import split
from fold_search.objectives.scoring.metrics import METRICS, Goal
from fold_search.objectives.stages import stage
from fold_search.search.errors import USER_ERRORS, ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.goal import make_goal
from fold_search.search.study.stored import misplaced
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError
from fold_search.storage.records import FoldRun, FoldRunState
from fold_search.storage.view import LedgerView

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Every row whose fold is done, predicted by the best epoch of the fold that did not train on it."""

    rows: NDArray[np.int64]  # (n,) indices into the data, rising within a fold
    folds: NDArray[np.int16]  # (n,)
    truth: Labels  # (n,) classes, or a numeric label
    predictions: NDArray[np.float32]  # (n, classes) probabilities, or (n, 1)


@dataclass(frozen=True, kw_only=True)
class StudyRows:
    """The rows of one study; `config` has this machine's paths. They are read once, when they are first needed.

    `read` are the rows if they were read before.
    """

    ledger: LedgerView
    config: StudyConfig
    read: Dataset | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The study's rows; DataError, or ConfigError if they are not those that the study was begun with."""
        dataset = self.read
        if dataset is None:
            with stage("reading rows"):
                dataset = read_dataset(self.config.data)
        expected = self.ledger.study().fingerprints["data"]
        if dataset.fingerprint != expected:
            raise ConfigError(
                f"{self.config.data.path}: the data has changed since the study began "
                f"(fingerprint {dataset.fingerprint[:12]}, expected {expected[:12]})"
            )
        return dataset

    @cached_property
    def assignments(self) -> NDArray[np.int16]:
        """The fold of every row, EXTRA for those that are only trained on."""
        return self.ledger.assignments()

    @cached_property
    def goal(self) -> Goal:
        """What an epoch is scored by."""
        return make_goal(self.config, self.dataset.label_names)

    def split(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the training and the validation rows of a fold."""
        return split(self.assignments, self.dataset.groups, fold, contents=self.dataset.contents)

    @cached_property
    def together(self) -> NDArray[np.int64]:
        """What the leak proof compares rows by, (rows,)."""
        return rows_together(self.dataset, self.config)

    def held_out(self, runs: Sequence[FoldRun]) -> HeldOut:
        """Return the stored predictions of the finished fold runs of one trial.

        Raises ConfigError where they are damaged or do not fit the rows, StorageError where they cannot be read.
        """
        artifacts = Artifacts(self.config.storage.artifacts)
        folds = [np.flatnonzero(self.assignments == run.fold) for run in runs]
        rows, num_outputs = np.concatenate(folds), self.dataset.num_outputs
        try:
            stored = [_read(artifacts, run, (len(mine), num_outputs)) for run, mine in zip(runs, folds, strict=True)]
        except StorageError:
            if reason := misplaced(self.ledger, artifacts):
                raise ConfigError(reason) from None
            raise
        return HeldOut(
            rows=rows,
            folds=self.assignments[rows],
            truth=self.dataset.labels[rows],
            predictions=np.concatenate(stored),
        )

    def pooled_score(self, trial: int) -> float | None:
        """Score a complete trial's predictions of all rows together; None, and a warning, if they are missing."""
        runs = [run for run in self.ledger.fold_runs() if run.trial == trial and run.state is FoldRunState.DONE]
        try:
            held_out = self.held_out(runs)
            return METRICS[self.goal.metric](held_out.truth, held_out.predictions, self.goal)
        except USER_ERRORS as error:
            log.warning("trial %d has no pooled score: %s", trial, error)
            return None


def rows_together(dataset: Dataset, config: StudyConfig) -> NDArray[np.int64]:
    """Return a group number for each row, (rows,): rows of one group are in one fold, as the study file says."""
    together = config.folds.group_duplicates or config.data.group is not None
    return dataset.groups if together else np.arange(len(dataset.labels))


def _read(artifacts: Artifacts, run: FoldRun, shape: tuple[int, int]) -> NDArray[np.float32]:
    where = f"trial {run.trial}, fold {run.fold}: the stored predictions {run.predictions!r}"
    if run.predictions is None:
        raise ConfigError(f"trial {run.trial}, fold {run.fold}: there are no stored predictions")
    content = artifacts.get(run.predictions)
    try:
        arrays = read_arrays(content)
        # Earlier versions wrote the array alone, which has no checksum.
        stored = arrays[""] if "" in arrays else arrays["predictions"]
    except (ValueError, KeyError):
        raise ConfigError(f"{where} are damaged, expected an .npz file") from None
    if stored.shape != shape:
        raise ConfigError(f"{where} have shape {stored.shape}, expected {shape}")
    return np.asarray(stored, np.float32)
