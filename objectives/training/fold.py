"""Trains one fold of one trial, epoch by epoch, and can be stopped and continued exactly between any two steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_search.objectives.devices import one_thread, seeded
from fold_search.objectives.errors import Diverged, TrialError
from fold_search.objectives.jobs import EpochScore, FoldJob, Rows
from fold_search.objectives.memory import memory_of
from fold_search.objectives.scoring.metrics import EPOCH_METRICS, METRICS, score_all
from fold_search.objectives.stages import SCORING, TRAINING, stage
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.optimisers import Optimiser
from fold_search.objectives.training.passes import Passes, Predictions
from fold_search.objectives.training.sampling import choose
from fold_search.objectives.training.schedules import is_out_of_patience, learning_rate_factor, plateau_falls
from fold_search.objectives.training.within import Leave, WithinEpoch, never

FEWEST_COMPARED = 32  # training rows of which the loss is taken after an epoch: what one forward pass has on a CPU


class FoldTraining:
    """The training of one fold run: of `network`, as `job` says.

    Both losses are the trial's own loss, in evaluation mode at the end of an epoch: `val_loss` over the validation
    rows, `train_loss` over `training_sample`, a fixed random sample of the original training rows with a quarter as
    many rows. `train_loss_running` is the mean over the epoch's batches, with dropout and while the weights change.

    `rows_that_fit` and `remember` go to Passes, which says what they are for and what is raised.
    """

    def __init__(
        self,
        job: FoldJob,
        *,
        inputs: Inputs,
        device: str,
        rows_that_fit: Mapping[str, int] = MappingProxyType({}),
        remember: Callable[[str, int], None] = lambda shape, rows: None,
    ) -> None:
        if inputs.encoder != job.params.model.encoder:
            raise ValueError(f"tokens of {inputs.encoder!r} cannot train {job.params.model.encoder!r}")
        training = job.params.training
        self.job = job
        self.num_epochs = training.epochs
        self.scores: list[EpochScore] = []
        self._best_predictions = np.empty((0, job.num_outputs), np.float32)
        self._best_weights: dict[str, Tensor] = {}
        self._within: WithinEpoch | None = None  # between two epochs: None
        self._stop: Callable[[], bool] = never
        self._metric = METRICS[job.goal.epoch_metric]
        self._device = torch.device(device)
        self.passes = Passes(job, inputs=inputs, device=self._device, rows_that_fit=rows_that_fit, remember=remember)
        self.sample, self.network = self.passes.sample, self.passes.network
        num_compared = max(FEWEST_COMPARED, len(job.validation_rows) // 4)
        self.training_sample = choose(job.training_rows, job.labels, num_compared, seed=job.seed)
        self._state = self.network.state
        self.optimiser = Optimiser(self.network.trained, params=training, depths=self.network.depths)

    @property
    def best(self) -> EpochScore:
        """The first of the epochs that are best by the epoch metric; there must have been one."""
        best = self.scores[0]
        for score in self.scores[1:]:
            best = score if self._metric.improves(self._choosing(score), self._choosing(best)) else best
        return best

    @property
    def best_predictions(self) -> Predictions:
        """Predictions of the validation rows at the best epoch so far: probabilities (validation rows, classes)."""
        return self._best_predictions

    @property
    def best_weights(self) -> bytes:
        """The trained weights that the best epoch so far was scored with; `read_weights` reads them."""
        return pack(self._best_weights, {"job": self.job.fingerprint()})

    @property
    def epoch(self) -> int:
        """The last epoch that is trained to its end; 0 before the first."""
        return len(self.scores)

    @property
    def within_epoch(self) -> bool:
        """Whether an epoch was left in its middle."""
        return self._within is not None

    @property
    def finished(self) -> bool:
        """Whether no epoch remains: all are trained, or the patience is out."""
        return len(self.scores) >= self.num_epochs or is_out_of_patience(
            [self._choosing(score) for score in self.scores],
            patience=self.job.params.training.patience,
            maximize=self._metric.direction == "maximize",
        )

    def epochs(self, stop: Callable[[], bool] = never) -> Iterator[EpochScore]:
        """Train the epochs that remain, and yield the score of each. `stop` is asked before each step, and may end it.

        An epoch that is stopped in its middle is not yielded, but `save` keeps its steps. Raises TrialError, also as
        Diverged and OutOfMemory.
        """
        self._stop = stop
        while not self.finished and not stop():
            try:
                with memory_of(self._device), self._threads():
                    score, predictions = self._run_epoch(len(self.scores) + 1)
            except Leave:
                return
            self._within = None
            self.scores.append(score)
            if self.best is score:
                self._best_predictions = predictions
                self._best_weights = self._scored_weights()
            score = self.scores[-1] = replace(score, standing=self.best.score)
            yield score

    def refit(self) -> Iterator[int]:
        """Train all epochs without looking at validation rows, and yield the number of each; raises TrialError.

        `best_weights` are then those of the last epoch. The schedule plateau, which needs scores, never falls.
        """
        for epoch in range(1, self.num_epochs + 1):
            with memory_of(self._device), seeded(self.job.seed, epoch, self._device), self._threads():
                self._train_epoch(epoch)
            self._within = None
            yield epoch
        self._best_weights = self._scored_weights()

    def save(self) -> bytes:
        """Return a checkpoint: the trained weights now and at the best epoch, the optimiser and the scores.

        In the middle of an epoch it also says how far that is.
        """
        tensors = {"best_predictions": torch.from_numpy(self._best_predictions)}
        tensors |= {f"model/{name}": weight for name, weight in self._state.items()}
        tensors |= {f"best/{name}": weight for name, weight in self._best_weights.items()}
        metadata: dict[str, Any] = {"job": self.job.fingerprint(), "scores": [asdict(score) for score in self.scores]}
        if self.scores:
            metadata["best_epoch"] = self.best.epoch
        if self._within is not None:
            tensors |= self._within.tensors()
            metadata |= self._within.metadata()
        return pack(tensors | self.optimiser.tensors(), metadata | {"optimiser": self.optimiser.numbers()})

    def restore(self, checkpoint: bytes) -> None:
        """Go back to where `save` was called. `epochs` then goes on exactly as if nothing had happened.

        Raises TrialError, and changes nothing, if the checkpoint is damaged or another job's.
        """
        tensors, metadata = unpack(checkpoint)
        if metadata["job"] != self.job.fingerprint():
            raise TrialError("the checkpoint is of another job: other settings, rows or seed")
        kinds = ("model", "best") if metadata["scores"] else ("model",)
        for name, weight in self._state.items():
            for kept in (f"{kind}/{name}" for kind in kinds):
                if kept not in tensors or tensors[kept].shape != weight.shape:
                    raise TrialError(f"the checkpoint does not fit the model: {kept} is missing or of another shape")
        self.optimiser.restore(tensors, metadata["optimiser"])
        for name, weight in self._state.items():
            with torch.no_grad():
                weight.copy_(tensors[f"model/{name}"])
        self._best_predictions = tensors["best_predictions"].numpy()
        self._best_weights = {name: tensors[f"best/{name}"] for name in self._state if "best" in kinds}
        self.scores = [EpochScore(**score) for score in metadata["scores"]]
        self._within = WithinEpoch.read(tensors, metadata)

    def predict(self, rows: Rows) -> Predictions:
        """Return predictions of `rows`, (rows, outputs), by the weights that the last epoch was scored with."""
        with self.optimiser.averaged():
            return self._evaluate(rows)[0]

    def _evaluate(self, rows: Rows) -> tuple[Predictions, float]:
        """Return predictions of `rows` and their mean loss, as the current epoch has it."""
        return self.passes.evaluate(rows, epoch=self.epoch + 1, stop=self._stop)

    def _scored_weights(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of the weights that the last epoch is scored with."""
        with self.optimiser.averaged():
            return {name: weight.detach().to("cpu", copy=True) for name, weight in self._state.items()}

    def _threads(self) -> AbstractContextManager[None]:
        """One thread if only a head is trained, since several would mostly wait for each other; else all of torch's."""
        return nullcontext() if any(self.network.depths.values()) else one_thread()

    def _run_epoch(self, epoch: int) -> tuple[EpochScore, Predictions]:
        job = self.job
        start = time.perf_counter() - (self._within.seconds if self._within else 0.0)
        with seeded(job.seed, epoch, self._device):
            metrics = self._train_epoch(epoch)
        metrics["rows_per_second"] = self.passes.num_rows / (time.perf_counter() - start)
        with self.optimiser.averaged(), stage(SCORING):
            _, metrics["train_loss"] = self._evaluate(self.training_sample)
            predictions, metrics["val_loss"] = self._evaluate(job.validation_rows)
        if not math.isfinite(metrics["train_loss"] + metrics["val_loss"]):
            losses = f"training loss {metrics['train_loss']}, validation loss {metrics['val_loss']}"
            raise Diverged(f"epoch {epoch}, after its last step: {losses}")
        names = dict.fromkeys((*EPOCH_METRICS[job.task], job.goal.metric, job.goal.epoch_metric))
        truth = job.labels[job.validation_rows]
        metrics |= {f"val_{name}": value for name, value in score_all(names, truth, predictions, job.goal).items()}
        score, seconds = metrics[f"val_{job.goal.metric}"], time.perf_counter() - start
        return EpochScore(epoch=epoch, score=score, standing=score, metrics=metrics, seconds=seconds), predictions

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        training = self.job.params.training
        self.network.module.train()
        steps = self.passes.steps(epoch)
        falls = self._falls()
        factors = [
            learning_rate_factor(
                (epoch - 1) * len(steps) + step,
                params=training,
                num_epochs=self.num_epochs,
                steps_per_epoch=len(steps),
                num_falls=falls,
            )
            for step in range(len(steps))
        ]
        within = self._within = self._within or WithinEpoch()
        within.go_on(self._device)
        with stage(TRAINING, total=len(steps)) as advance:
            advance(within.step)
            for step, batches in list(enumerate(steps))[within.step :]:
                if self._stop():
                    within.leave(self._device)
                    raise Leave
                loss, norm = self.passes.backward(batches, epoch=epoch, step=step), self.passes.clip()
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise Diverged(f"epoch {epoch}, step {step + 1} of {len(steps)}: loss {loss}, gradient norm {norm}")
                self.optimiser.step(factors[step])
                within.add(loss=loss, norm=norm, rows=sum(map(len, batches)))
                advance(1)
        within.leave(self._device)  # the scoring that follows may be stopped too
        return {
            "train_loss_running": within.loss_sum / sum(len(batch) for batches in steps for batch in batches),
            "gradient_norm": within.norm_sum / len(steps),
            "learning_rate": training.learning_rate * factors[-1],
        }

    def _falls(self) -> int:
        """How often the schedule plateau has fallen so far."""
        scores = [self._choosing(score) for score in self.scores]
        maximize = self._metric.direction == "maximize"
        return plateau_falls(scores, params=self.job.params.training, maximize=maximize)

    def _choosing(self, score: EpochScore) -> float:
        """The score by which the best epoch is chosen."""
        return score.metrics[f"val_{self._metric.name}"]


def read_weights(stored: bytes, *, job: FoldJob) -> dict[str, Tensor]:
    """Return the weights that `best_weights` of the job's training gave; TrialError if damaged or another job's."""
    tensors, metadata = unpack(stored)
    if metadata.get("job") != job.fingerprint():
        raise TrialError("the weights are of another job: other settings, rows or seed")
    return tensors
