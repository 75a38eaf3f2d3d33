"""Builds the training of a claimed fold run from the study's record."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fold_search.models.classifiers import Classifier
from fold_search.models.params import ModelParams, Scalar
from fold_search.objectives import memory
from fold_search.objectives.cores import num_threads
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.errors import OutOfMemory, is_out_of_memory
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.memory import describe_device
from fold_search.objectives.predicting.exported import trained_classifier
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.tasks.preparation import PREPARED_FOR, prepare
from fold_search.objectives.training.fold import FoldTraining
from fold_search.search.errors import ConfigError
from fold_search.search.running.caches import Hold
from fold_search.search.study.encoder_places import located
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.space import field_values, resolve
from fold_search.search.study.spending import CPU
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Claim


class Objective:
    """Builds the training of a fold run; rows, folds and tokens are read once a process and shared by all of them.

    With a `ledger` it is remembered there how many rows fit into memory; `memory_limit` is what `limit_memory` set.
    """

    def __init__(
        self, rows: StudyRows, *, device: str, ledger: Ledger | None = None, memory_limit: int | None = None
    ) -> None:
        self._rows = rows
        self._config = rows.config
        self._device = device
        self._ledger = ledger
        self._memory = describe_device(torch.device(device), memory_limit)
        self._inputs: dict[tuple[object, ...], Inputs] = {}
        self._hold: Hold | None = None  # on the cache

    def __call__(self, claim: Claim) -> FoldTraining:
        """Return the training of `claim` from its first epoch; raises TrialError, DataError, ConfigError."""
        job, ledger = self.job(claim.params, claim.fold), self._ledger
        if ledger is None:
            return self.training(job)
        return FoldTraining(
            job,
            inputs=self._prepared(job.params.model),
            device=self._device,
            rows_that_fit=ledger.rows_that_fit(self._memory),
            remember=lambda shape, rows: ledger.note_rows(claim, device=self._memory, shape=shape, rows=rows),
        )

    def job(self, sampled: dict[str, Scalar], fold: int) -> FoldJob:
        """Return what a trial that sampled these parameters trains in a fold; raises DataError, ConfigError."""
        training_rows, validation_rows = self._rows.split(fold)
        params = resolve(self._config, sampled)
        model = params.model.model_copy(update={"encoder": located(params.model.encoder, self._config)})
        return FoldJob(
            params=params.model_copy(update={"model": model}),
            encoder_name=params.model.encoder,
            goal=self._rows.goal,
            labels=self._rows.dataset.labels,
            label_names=tuple(self._rows.dataset.label_names),
            training_rows=training_rows,
            validation_rows=validation_rows,
            seed=fold_seed(self._config.study.seed, fold),
            together=self._rows.together,
        )

    def training(self, job: FoldJob) -> FoldTraining:
        """Return the training of a job from its first epoch; raises TrialError, DataError, EncoderError."""
        return FoldTraining(job, inputs=self._prepared(job.params.model), device=self._device)

    def frozen_states(self, sampled: dict[str, Scalar]) -> NDArray[np.float32] | None:
        """What the frozen encoder makes of all rows, (rows, width); None where a trial's head does not see that alone.

        Found in the cache where such a trial was prepared on this machine. Raises DataError, EncoderError.
        """
        job = self.job(sampled, 0)
        feed = self._prepared(job.params.model).feed(job, device=self._device)
        if set(feed.batch(np.arange(1))) != {"states"}:
            return None
        found: NDArray[np.float32] = feed.batch(np.arange(len(job.labels)))["states"].numpy()
        return found

    def classifier(self, job: FoldJob, weights: Mapping[str, Tensor]) -> Classifier:
        """Return the job's whole model with the weights that its training kept; raises TrialError, EncoderError."""
        return trained_classifier(job, weights, inputs=self._prepared(job.params.model), device=self._device)

    @property
    def longest(self) -> int:
        """The largest max_length of the study's trials, which texts are cut at when they are tokenised."""
        return max(int(str(value)) for value in field_values(self._config, "max_length"))

    def prepare(self, content: Content, model: ModelParams) -> Inputs:
        """Prepare rows for trials with such a model; the cache is held from now on, so that nobody removes it."""
        cache = Path(self._config.storage.cache)
        if self._hold is None:
            self._hold = Hold(cache)
        return prepare(content, params=model, max_length=self.longest, cache=cache, device=self._device)

    def _prepared(self, model: ModelParams) -> Inputs:
        key = tuple(getattr(model, name) for name in PREPARED_FOR)
        if key not in self._inputs:
            self._inputs[key] = self.prepare(self._rows.dataset, model)
        return self._inputs[key]


def fold_seed(study_seed: int, fold: int) -> int:
    """Seed of a fold's initialisation and batch order: the same for every trial, so that trials compare as pairs."""
    digest = hashlib.sha256(f"{study_seed}/{fold}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def choose_device(index: int) -> str:
    """The device of the index-th worker of this machine: GPUs in turn, else the CPU."""
    num_devices = torch.cuda.device_count()
    return f"cuda:{index % num_devices}" if num_devices else "cpu"


def device_name(device: str) -> str:
    """The device in words: a GPU's name, or CPU."""
    return CPU if device == "cpu" else str(torch.cuda.get_device_properties(device).name)


def device_share(index: int, num_workers: int) -> float:
    """The share that the index-th of a machine's workers has of its device: GPUs are shared, and CPUs are not."""
    num_devices = torch.cuda.device_count()
    return 1 / len(range(index % num_devices, num_workers, num_devices)) if num_devices else 1.0


def share_cores(num_workers: int) -> None:
    """Let this process compute on its share of the machine's cores."""
    torch.set_num_threads(num_threads(num_workers))


def limit_memory(limit: int) -> None:
    """Let this process hold at most `limit` bytes of the host's memory; ConfigError if it holds more by now."""
    try:
        memory.limit_memory(limit)
    except OutOfMemory as error:
        raise ConfigError(f"--memory-limit: {error}") from None


@contextmanager
def memory_limited(limit: int | None) -> Iterator[None]:
    """The same, without a limit if None; ConfigError too where what is done within does not fit, whatever it tries."""
    if limit is None:
        yield
        return
    limit_memory(limit)
    try:
        yield
    except BaseException as error:  # a panic of Rust's is no Exception
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"--memory-limit: {limit} bytes are not enough: {str(error) or type(error).__name__}"
        ) from error
