"""Trains one fold of one trial, epoch by epoch, and can be stopped and continued exactly between any two steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fold_search.objectives.devices import one_thread, rows_per_forward, seeded
from fold_search.objectives.errors import Diverged, TrialError
from fold_search.objectives.jobs import EpochScore, FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce, memory_of, memory_shape
from fold_search.objectives.scoring.metrics import EPOCH_METRICS, METRICS, score_all
from fold_search.objectives.stages import TRAINING, stage
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.tasks.text import bucketed_batches
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.leaks import prove
from fold_search.objectives.training.losses import build_loss
from fold_search.objectives.training.networks import Network, as_predictions
from fold_search.objectives.training.optimisers import Optimiser
from fold_search.objectives.training.sampling import Sample, as_sample, choose, draw, resample
from fold_search.objectives.training.schedules import is_out_of_patience, learning_rate_factor, plateau_falls
from fold_search.objectives.training.within import Leave, WithinEpoch, never

Predictions = NDArray[np.float32]

AUGMENTATION = 1  # sets its random numbers apart from those of the batch order


class FoldTraining:
    """The training of one fold run: of `network`, as `job` says.

    The losses of both parts are the trial's own loss, in evaluation mode at the epoch's end: `val_loss` over the
    validation rows, `train_loss` over a fixed random sample of as many original training rows. `train_loss_running` is
    what a loop would have printed: the mean over the epoch's batches, with dropout and while the weights move.

    Where memory runs out, fewer rows pass through at once: the same rows make the same step, but for dropout, which
    draws other masks, and batch normalisation, which sees fewer rows. `rows_that_fit` are the numbers of rows that were
    found earlier, by their shape, and `remember` is told of new ones.

    Raises EncoderError if the encoder cannot be had or has fewer layers or positions than asked, TrialError if the
    sampler leaves no row of a class, OutOfMemory.
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
        self.num_epochs = training.epochs
        self.scores: list[EpochScore] = []
        self._best_predictions = np.empty((0, job.num_outputs), np.float32)
        self._best_weights: dict[str, Tensor] = {}
        self._within: WithinEpoch | None = None  # between two epochs: None
        self._stop: Callable[[], bool] = never
        self.job = job
        self._metric = METRICS[job.goal.epoch_metric]
        self._device = torch.device(device)
        self._sample = as_sample(job.training_rows)
        if job.task == "classification":
            with stage("choosing rows", purpose="" if training.sampler == "none" else training.sampler):
                self._sample = resample(
                    job.training_rows,
                    job.classes,
                    params=training,
                    seed=job.seed,
                    embeddings=inputs.embeddings,
                    label_names=job.label_names,
                )
        drawn = self._draw(epoch=1)
        self.sample = replace(
            prove(
                self._sample,
                training_rows=job.training_rows,
                validation_rows=job.validation_rows,
                counts=job.counts,
                together=job.together,
            ),
            counts_after=job.counts(drawn.rows),
        )
        self._targets, self._scale = job.targets, job.label_scale
        self._training_sample = choose(job.training_rows, len(job.validation_rows), seed=job.seed)
        with seeded(job.seed, 0, self._device), memory_of(self._device), stage("building the model"):
            self._loss = build_loss(
                training,
                counts=job.counts(drawn.rows),
                label_names=job.label_names,
                device=self._device,
                before=job.counts(job.training_rows),
            )
            self.network = Network(job, inputs=inputs, device=self._device)
        most = {"training": training.batch_size, "evaluation": rows_per_forward(self._device)}
        self._rows_at_once = {}
        for use, rows in most.items():
            shape = f"{use}: {memory_shape(job)}"
            fitting = min(rows, rows_that_fit.get(shape, rows))
            self._rows_at_once[use] = RowsAtOnce(rows=fitting, device=self._device, halved=partial(remember, shape))
        self._trained, self._state = self.network.trained, self.network.state
        self._optimiser = Optimiser(self._trained, params=training, depths=self.network.depths)

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
        """What was trained, as it was scored at the best epoch so far; `read_weights` reads it."""
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
        """Train the epochs that remain, or until `stop` says so: it is asked before each step.

        An epoch that is left so is not yielded; `save` then holds its steps too. Raises TrialError, of which Diverged
        and OutOfMemory.
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
        """Train all epochs without ever looking at validation rows, and yield each one's number; raises TrialError.

        `best_weights` are then the last epoch's. The schedule plateau, which falls by scores, never does.
        """
        for epoch in range(1, self.num_epochs + 1):
            with memory_of(self._device), seeded(self.job.seed, epoch, self._device), self._threads():
                self._train_epoch(epoch)
            self._within = None
            yield epoch
        self._best_weights = self._scored_weights()

    def save(self) -> bytes:
        """Return a checkpoint: what is trained, now and at the best epoch, the optimiser and the scores.

        Within an epoch also how far that is.
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
        return pack(tensors | self._optimiser.tensors(), metadata | {"optimiser": self._optimiser.numbers()})

    def restore(self, checkpoint: bytes) -> None:
        """Go back to where `save` was called; `epochs` then continues exactly as if nothing had happened.

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
        self._optimiser.restore(tensors, metadata["optimiser"])
        for name, weight in self._state.items():
            with torch.no_grad():
                weight.copy_(tensors[f"model/{name}"])
        self._best_predictions = tensors["best_predictions"].numpy()
        self._best_weights = {name: tensors[f"best/{name}"] for name in self._state if "best" in kinds}
        self.scores = [EpochScore(**score) for score in metadata["scores"]]
        self._within = WithinEpoch.read(tensors, metadata)

    def predict(self, rows: Rows) -> Predictions:
        """Return predictions of `rows`, (rows, outputs), by the weights that are scored after the last epoch."""
        with self._optimiser.averaged():
            return self._evaluate(rows)[0]

    def _scored_weights(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of the weights that are scored after the last epoch."""
        with self._optimiser.averaged():
            return {name: weight.detach().to("cpu", copy=True) for name, weight in self._state.items()}

    def _threads(self) -> AbstractContextManager[None]:
        """One where a head alone is trained, for several would mostly wait for each other; else all of torch's."""
        return nullcontext() if any(self.network.depths.values()) else one_thread()

    def _run_epoch(self, epoch: int) -> tuple[EpochScore, Predictions]:
        job = self.job
        start = time.perf_counter() - (self._within.seconds if self._within else 0.0)
        with seeded(job.seed, epoch, self._device):
            metrics = self._train_epoch(epoch)
        metrics["rows_per_second"] = len(self._sample) / (time.perf_counter() - start)
        with self._optimiser.averaged(), stage("scoring"):
            _, metrics["train_loss"] = self._evaluate(self._training_sample)
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
        steps = self._steps(epoch)
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
                loss, norm = self._accumulate(batches, epoch=epoch, step=step), self._clip()
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise Diverged(f"epoch {epoch}, step {step + 1} of {len(steps)}: loss {loss}, gradient norm {norm}")
                self._optimiser.step(factors[step])
                within.add(loss=loss, norm=norm, rows=sum(map(len, batches)))
                advance(1)
        within.leave(self._device)  # what scores the epoch may be left too
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
        """What an epoch is chosen by."""
        return score.metrics[f"val_{self._metric.name}"]

    def _draw(self, *, epoch: int) -> Sample:
        if self.job.task == "regression":
            return self._sample
        training = self.job.params.training
        return draw(self._sample, self.job.classes, params=training, seed=self.job.seed, epoch=epoch)

    def _steps(self, epoch: int) -> list[list[Sample]]:
        """Return each batch of each optimiser step; the last step may have fewer."""
        training = self.job.params.training
        drawn = self._draw(epoch=epoch)
        random = np.random.default_rng((self.job.seed, epoch))
        lengths = np.maximum(self.network.lengths(drawn.rows), self.network.lengths(drawn.partners))
        batches = [
            drawn.take(batch) for batch in bucketed_batches(lengths, batch_size=training.batch_size, random=random)
        ]
        starts = range(0, len(batches), training.accumulation_steps)
        return [batches[start : start + training.accumulation_steps] for start in starts]

    def _accumulate(self, batches: Sequence[Sample], *, epoch: int, step: int) -> float:
        """Leave the gradients of the mean loss of all rows of one step, and return that loss.

        Where memory runs out the step begins again with batches half as large: the gradients are the same sum.
        """
        return self._rows_at_once["training"].attempt(
            lambda max_rows: self._backward(batches, epoch=epoch, step=step, max_rows=max_rows)
        )

    def _backward(self, batches: Sequence[Sample], *, epoch: int, step: int, max_rows: int) -> float:
        self._optimiser.zero_grad()
        num_rows = sum(map(len, batches))
        random = np.random.default_rng((self.job.seed, epoch, AUGMENTATION, step))
        total = torch.zeros((), device=self._device)
        for batch in batches:
            for start in range(0, len(batch), max_rows):
                part = batch.take(np.arange(start, min(start + max_rows, len(batch))))
                loss = self._training_losses(part, epoch=epoch, random=random).sum() / num_rows
                torch.autograd.backward(loss)
                total += loss.detach()
        return total.item()

    def _training_losses(self, batch: Sample, *, epoch: int, random: np.random.Generator) -> Tensor:
        """Return each row's loss, (rows,); with R-Drop of two passes, and what these differ by (Liang et al. 2021)."""
        inputs = self.network.inputs(batch, random=random)
        outputs = self.network.outputs(inputs)
        losses = self._losses(outputs, batch.rows, epoch=epoch)
        alpha = self.job.params.training.rdrop_alpha
        if alpha == 0:
            return losses
        again = self.network.outputs(inputs)
        both = (losses + self._losses(again, batch.rows, epoch=epoch)) / 2
        return both + alpha * self._loss.divergence(outputs, again)

    def _losses(self, outputs: Tensor, rows: Rows, *, epoch: int) -> Tensor:
        targets = torch.from_numpy(self._targets[rows]).to(self._device)
        return self._loss.rows(outputs, targets, progress=(epoch - 1) / self.num_epochs)

    def _clip(self) -> float:
        """Scale the gradients down to the largest norm allowed; return their norm before."""
        parameters = self._trained.values()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        limit = self.job.params.training.gradient_clip
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm.item()

    def _evaluate(self, rows: Rows) -> tuple[Predictions, float]:
        """Return the predictions of `rows`, in their order, and their mean loss, as the epoch in hand has it."""
        return self._rows_at_once["evaluation"].attempt(lambda size: self._evaluate_parts(rows, size=size))

    @torch.inference_mode()
    def _evaluate_parts(self, rows: Rows, *, size: int) -> tuple[Predictions, float]:
        self.network.module.eval()
        predictions = np.empty((len(rows), self.job.num_outputs), np.float32)
        loss = 0.0
        epoch = max(1, len(self.scores) + 1)
        order = np.argsort(self.network.lengths(rows), kind="stable")
        for start in range(0, len(order), size):
            if self._stop():
                raise Leave
            chosen = order[start : start + size]
            outputs = self.network.outputs(self.network.inputs(as_sample(rows[chosen])))
            loss += self._losses(outputs, rows[chosen], epoch=epoch).sum().item()
            predictions[chosen] = as_predictions(outputs, task=self.job.task, scale=self._scale).cpu().numpy()
        return predictions, loss / len(rows)


def read_weights(stored: bytes, *, job: FoldJob) -> dict[str, Tensor]:
    """Return the weights that `best_weights` of the job's training gave; TrialError if damaged or another job's."""
    tensors, metadata = unpack(stored)
    if metadata.get("job") != job.fingerprint():
        raise TrialError("the weights are of another job: other settings, rows or seed")
    return tensors
