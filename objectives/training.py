"""Trains one fold of one trial, epoch by epoch, and can be stopped and continued exactly after every epoch."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers import Head, TextClassifier
from objectives.checkpoints import pack, unpack
from objectives.devices import rows_per_forward, seeded, uses_bf16
from objectives.errors import Diverged, TrialError
from objectives.losses import class_weights, row_losses
from objectives.metrics import METRICS
from objectives.params import Params
from objectives.sampling import resample
from objectives.schedules import decay_groups, learning_rate_factor
from objectives.tasks.text import TextInputs, bucketed_batches

Rows = NDArray[np.int64]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScore:
    """What one epoch came to."""

    epoch: int  # from 1
    score: float  # the study's metric on the validation rows
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """What is trained: everything but the machine."""

    params: Params
    metric: str  # a key of METRICS
    num_classes: int
    labels: NDArray[np.int64]  # of all rows
    training_rows: Rows
    validation_rows: Rows
    seed: int  # a function of the study's seed and the fold, never of the trial

    def fingerprint(self) -> str:
        """Return the sha256 of everything that decides the training."""
        digest = hashlib.sha256(
            f"1 {self.params.model_dump_json()} {self.metric} {self.num_classes} {self.seed}".encode()
        )
        for rows in (self.labels, self.training_rows, self.validation_rows):
            digest.update(rows.astype("<i8").tobytes() + b"/")
        return digest.hexdigest()


class FoldTraining:
    """The training of one fold run.

    The losses of both parts are the trial's own loss, in evaluation mode at the epoch's end: `val_loss` over the
    validation rows, `train_loss` over a fixed random sample of as many original training rows. `train_loss_running` is
    what a loop would have printed: the mean over the epoch's batches, with dropout and while the weights move.

    Raises EncoderError if the encoder cannot be had or has fewer layers or positions than asked.
    """

    def __init__(self, job: FoldJob, *, inputs: TextInputs, device: str) -> None:
        if inputs.encoder != job.params.model.encoder:
            raise ValueError(f"tokens of {inputs.encoder!r} cannot train {job.params.model.encoder!r}")
        training = job.params.training
        self.num_epochs = training.epochs
        self.scores: list[EpochScore] = []
        self._best_predictions = np.empty((0, job.num_classes), np.float32)
        self._job = job
        self._tokens = inputs.tokens
        self._device = torch.device(device)
        self._rows = resample(
            job.training_rows, job.labels, params=training, seed=job.seed, embeddings=inputs.embeddings
        )
        self._training_sample = _sample(job.training_rows, len(job.validation_rows), seed=job.seed)
        self._max_length = job.params.model.max_length
        self._max_rows = training.batch_size  # of one forward pass; fewer once memory ran out
        self._autocast = uses_bf16(training.precision, self._device)
        counts = np.bincount(job.labels[self._rows], minlength=job.num_classes)
        alpha = class_weights(counts, params=training)
        self._alpha = None if alpha is None else torch.tensor(alpha, dtype=torch.float32, device=self._device)
        # With nothing but the head to train, the encoder runs once a study, not once an epoch.
        frozen = job.params.model.trainable_layers == 0
        pooling = job.params.model.pooling
        self._pooled = inputs.pooled(pooling=pooling, max_length=self._max_length) if frozen else None
        with seeded(job.seed, 0, self._device):
            self._model = _build_model(job, self._pooled).to(self._device)
        self._trained = {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}
        groups = decay_groups(self._trained.values(), weight_decay=training.weight_decay)
        self._optimiser = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)

    @property
    def best(self) -> EpochScore:
        """The first of the epochs with the best score; there must have been one."""
        metric = METRICS[self._job.metric]
        best = self.scores[0]
        for score in self.scores[1:]:
            best = score if metric.improves(score.score, best.score) else best
        return best

    @property
    def best_predictions(self) -> Probabilities:
        """Probabilities of the validation rows at the best epoch so far, (validation rows, classes)."""
        return self._best_predictions

    def epochs(self) -> Iterator[EpochScore]:
        """Train the epochs that remain; raises TrialError, of which Diverged."""
        while len(self.scores) < self.num_epochs:
            try:
                score, predictions = self._run_epoch(len(self.scores) + 1)
            except torch.OutOfMemoryError as error:
                raise TrialError(f"out of memory on {self._device}: {error}") from error
            self.scores.append(score)
            if self.best is score:
                self._best_predictions = predictions
            yield score

    def save(self) -> bytes:
        """Return a checkpoint of the state after the last epoch: what is trained, the optimiser and the scores."""
        tensors = {"best_predictions": torch.from_numpy(self._best_predictions)}
        for name, parameter in self._trained.items():
            tensors[f"model/{name}"] = parameter
            for key, value in self._optimiser.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        return pack(tensors, {"job": self._job.fingerprint(), "scores": [asdict(score) for score in self.scores]})

    def restore(self, checkpoint: bytes) -> None:
        """Go back to where `save` was called; `epochs` then continues exactly as if nothing had happened.

        Raises TrialError, and changes nothing, if the checkpoint is damaged or another job's.
        """
        tensors, metadata = unpack(checkpoint)
        if metadata["job"] != self._job.fingerprint():
            raise TrialError("the checkpoint is of another job: other settings, rows or seed")
        states = _states(tensors, self._trained)
        for name, parameter in self._trained.items():
            state = {key: value.to(self._device) for key, value in states[name].items()}
            with torch.no_grad():
                parameter.copy_(state.pop("model"))
            self._optimiser.state[parameter] = state
        self._best_predictions = tensors["best_predictions"].numpy()
        self.scores = [EpochScore(**score) for score in metadata["scores"]]

    def _run_epoch(self, epoch: int) -> tuple[EpochScore, Probabilities]:
        job = self._job
        start = time.perf_counter()
        with seeded(job.seed, epoch, self._device):
            metrics = self._train_epoch(epoch)
        metrics["rows_per_second"] = len(self._rows) / (time.perf_counter() - start)
        _, metrics["train_loss"] = self._evaluate(self._training_sample)
        probabilities, metrics["val_loss"] = self._evaluate(job.validation_rows)
        if not math.isfinite(metrics["train_loss"] + metrics["val_loss"]):
            losses = f"training loss {metrics['train_loss']}, validation loss {metrics['val_loss']}"
            raise Diverged(f"epoch {epoch}, after its last step: {losses}")
        predicted = probabilities.argmax(axis=1)
        for name, metric in METRICS.items():
            metrics[f"val_{name}"] = metric.function(job.labels[job.validation_rows], predicted)
        score = metrics[f"val_{job.metric}"]
        return EpochScore(epoch=epoch, score=score, metrics=metrics, seconds=time.perf_counter() - start), probabilities

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        training = self._job.params.training
        self._model.train()
        steps = self._steps(epoch)
        loss_sum, norm_sum, learning_rate = 0.0, 0.0, 0.0
        for step, batches in enumerate(steps):
            loss, norm = self._accumulate(batches), self._clip()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise Diverged(f"epoch {epoch}, step {step + 1} of {len(steps)}: loss {loss}, gradient norm {norm}")
            learning_rate = training.learning_rate * learning_rate_factor(
                (epoch - 1) * len(steps) + step,
                num_steps=self.num_epochs * len(steps),
                warmup_ratio=training.warmup_ratio,
                schedule=training.schedule,
            )
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate
            self._optimiser.step()
            loss_sum += loss * sum(map(len, batches))
            norm_sum += norm
        return {
            "train_loss_running": loss_sum / len(self._rows),
            "gradient_norm": norm_sum / len(steps),
            "learning_rate": learning_rate,
        }

    def _steps(self, epoch: int) -> list[list[Rows]]:
        """Return the rows of each batch of each optimiser step; the last step may have fewer."""
        training = self._job.params.training
        random = np.random.default_rng((self._job.seed, epoch))
        lengths = self._tokens.lengths(self._rows, max_length=self._max_length)
        batches = [
            self._rows[batch] for batch in bucketed_batches(lengths, batch_size=training.batch_size, random=random)
        ]
        starts = range(0, len(batches), training.accumulation_steps)
        return [batches[start : start + training.accumulation_steps] for start in starts]

    def _accumulate(self, batches: Sequence[Rows]) -> float:
        """Leave the gradients of the mean loss of all rows of one step, and return that loss.

        Where memory runs out the step begins again with batches half as large: the gradients are the same sum.
        """
        while True:
            self._optimiser.zero_grad()
            try:
                return self._backward(batches)
            except torch.OutOfMemoryError:
                if self._max_rows == 1:
                    raise
                self._max_rows = math.ceil(self._max_rows / 2)
            torch.cuda.empty_cache()

    def _backward(self, batches: Sequence[Rows]) -> float:
        num_rows = sum(map(len, batches))
        total = torch.zeros((), device=self._device)
        for batch in batches:
            for start in range(0, len(batch), self._max_rows):
                rows = batch[start : start + self._max_rows]
                loss = self._row_losses(self._logits(rows), rows).sum() / num_rows
                torch.autograd.backward(loss)
                total += loss.detach()
        return total.item()

    def _clip(self) -> float:
        """Scale the gradients down to the largest norm allowed; return their norm before."""
        parameters = self._trained.values()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        limit = self._job.params.training.gradient_clip
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm.item()

    def predict(self, rows: Rows) -> Probabilities:
        """Return probabilities of `rows`, (rows, classes), by the weights as they are after the last epoch."""
        return self._evaluate(rows)[0]

    @torch.inference_mode()
    def _evaluate(self, rows: Rows) -> tuple[Probabilities, float]:
        """Return the probabilities of `rows`, in their order, and their mean loss."""
        self._model.eval()
        probabilities = np.empty((len(rows), self._job.num_classes), np.float32)
        loss = 0.0
        order = np.argsort(self._tokens.lengths(rows, max_length=self._max_length), kind="stable")
        size = rows_per_forward(self._device)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            logits = self._logits(rows[chosen])
            loss += self._row_losses(logits, rows[chosen]).sum().item()
            probabilities[chosen] = logits.softmax(dim=1).cpu().numpy()
        return probabilities, loss / len(rows)

    def _logits(self, rows: Rows) -> Tensor:
        if self._pooled is not None:
            head_logits: Tensor = self._model(torch.from_numpy(self._pooled[rows]).to(self._device))
            return head_logits
        batch = self._tokens.batch(rows, max_length=self._max_length)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits: Tensor = self._model(**{name: tensor.to(self._device) for name, tensor in batch.items()})
        return logits.float()

    def _row_losses(self, logits: Tensor, rows: Rows) -> Tensor:
        labels = torch.from_numpy(self._job.labels[rows]).to(self._device)
        return row_losses(logits, labels, params=self._job.params.training, alpha=self._alpha)


def _build_model(job: FoldJob, pooled: NDArray[np.float32] | None) -> nn.Module:
    if pooled is None:
        return TextClassifier(job.params.model, num_classes=job.num_classes)
    return Head(pooled.shape[1], dropout=job.params.model.dropout, num_classes=job.num_classes)


def _sample(rows: Rows, size: int, *, seed: int) -> Rows:
    if size >= len(rows):
        return rows
    return np.sort(np.random.default_rng((seed, 0)).choice(rows, size, replace=False))


def _states(tensors: dict[str, Tensor], trained: dict[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Return each trained weight ("model") and its optimiser's state by name; raises TrialError if any is missing."""
    states: dict[str, dict[str, Tensor]] = {name: {} for name in trained}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if name in states:
            states[name][kind] = tensor
    for name, parameter in trained.items():
        if "model" not in states[name] or states[name]["model"].shape != parameter.shape:
            raise TrialError(f"the checkpoint does not fit the model: {name} is missing or of another shape")
    return states
