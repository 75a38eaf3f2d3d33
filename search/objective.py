"""From a study's record to the training of one claimed fold run: the place where the rooms meet in a worker."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.data import Dataset, read_dataset
from objectives.tasks.text import TextInputs, prepare_text
from objectives.training import FoldJob, FoldTraining
from search.config import StudyConfig
from search.errors import ConfigError
from search.space import field_values, resolve
from storage.ledger import Ledger
from storage.records import Claim


class Objective:
    """Builds the training of a fold run; rows, folds and tokens are read once a process and shared by all of them."""

    def __init__(self, ledger: Ledger, *, config: StudyConfig, device: str) -> None:
        self._ledger = ledger
        self._config = config
        self._device = device
        self._inputs: dict[str, TextInputs] = {}

    def __call__(self, claim: Claim) -> FoldTraining:
        """Return the training of `claim` from its first epoch; raises TrialError, DataError, ConfigError."""
        params = resolve(self._config, claim.params)
        held_out = self._assignments == claim.fold
        job = FoldJob(
            params=params,
            metric=self._config.study.metric,
            num_classes=len(self.dataset.label_names),
            labels=self.dataset.labels,
            training_rows=np.flatnonzero(~held_out),
            validation_rows=np.flatnonzero(held_out),
            seed=fold_seed(self._config.study.seed, claim.fold),
        )
        return FoldTraining(job, inputs=self._text(params.model.encoder), device=self._device)

    @cached_property
    def dataset(self) -> Dataset:
        """The study's rows; ConfigError if they are not those that the study was begun with."""
        dataset = read_dataset(self._config.data)
        expected = self._ledger.study().fingerprints["data"]
        if dataset.fingerprint != expected:
            raise ConfigError(
                f"{self._config.data.path}: the data has changed since the study began "
                f"(fingerprint {dataset.fingerprint[:12]}, expected {expected[:12]})"
            )
        return dataset

    @cached_property
    def _assignments(self) -> np.ndarray[Any, np.dtype[np.int16]]:
        return self._ledger.assignments()

    def _text(self, encoder: str) -> TextInputs:
        if encoder not in self._inputs:
            max_length = max(int(value or 0) for value in field_values(self._config, "max_length"))
            self._inputs[encoder] = prepare_text(
                self.dataset,
                encoder=encoder,
                max_length=max_length,
                cache=Path(self._config.storage.cache),
                device=self._device,
            )
        return self._inputs[encoder]


def fold_seed(study_seed: int, fold: int) -> int:
    """Seed of a fold's initialisation and batch order: the same for every trial, so that trials compare as pairs."""
    digest = hashlib.sha256(f"{study_seed}/{fold}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def choose_device(index: int) -> str:
    """The device of the index-th worker of this machine: GPUs in turn, else the CPU."""
    num_devices = torch.cuda.device_count()
    return f"cuda:{index % num_devices}" if num_devices else "cpu"
