"""What passes through the network of one fold: the batches that it learns from, and the rows that are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fold_search.objectives.devices import rows_per_forward, seeded
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce, memory_of, memory_shape
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.tasks.text import bucketed_batches
from fold_search.objectives.training.leaks import LeakProof, prove
from fold_search.objectives.training.losses import build_loss
from fold_search.objectives.training.networks import Network, as_predictions
from fold_search.objectives.training.sampling import Sample, as_sample, draw, resample
from fold_search.objectives.training.within import Leave, never

Predictions = NDArray[np.float32]

AUGMENTATION = 1  # sets its random numbers apart from those of the batch order


class Passes:
    """The passes through `network`, as `job` says. `sample` is what resampling made of the training rows.

    Where memory runs out, fewer rows pass through at once. The same rows still make the same step, with two exceptions:
    dropout draws other masks, and batch normalisation sees fewer rows. `rows_that_fit` are the numbers of rows that
    were found earlier, by their shape, and `remember` is told of new ones.

    Raises EncoderError if the encoder cannot be had or has fewer layers or positions than asked, TrialError if the
    sampler leaves no row of a class, OutOfMemory.
    """

    def __init__(
        self,
        job: FoldJob,
        *,
        inputs: Inputs,
        device: torch.device,
        rows_that_fit: Mapping[str, int],
        remember: Callable[[str, int], None],
    ) -> None:
        self._job = job
        self._device = device
        self._resampled = _resampled(job, inputs)
        drawn = self._drawn(epoch=1)
        self.sample = _proof(job, self._resampled, drawn)
        with seeded(job.seed, 0, device), memory_of(device), stage("building the model"):
            self._loss = build_loss(
                job.params.training,
                counts=job.counts(drawn.rows),
                label_names=job.label_names,
                device=device,
                before=job.counts(job.training_rows),
            )
            self.network = Network(job, inputs=inputs, device=device)
        self._trained = tuple(self.network.trained.values())
        self._targets, self._scale = job.targets, job.label_scale
        most = {"training": job.params.training.batch_size, "evaluation": rows_per_forward(device)}
        self._rows_at_once = {}
        for use, rows in most.items():
            shape = f"{use}: {memory_shape(job)}"
            fitting = min(rows, rows_that_fit.get(shape, rows))
            self._rows_at_once[use] = RowsAtOnce(rows=fitting, device=device, halved=partial(remember, shape))

    @property
    def num_rows(self) -> int:
        """How many rows an epoch trains on."""
        return len(self._resampled)

    def steps(self, epoch: int) -> list[list[Sample]]:
        """Return each batch of each optimiser step of an epoch; the last step may have fewer."""
        training = self._job.params.training
        drawn = self._drawn(epoch=epoch)
        random = np.random.default_rng((self._job.seed, epoch))
        lengths = np.maximum(self.network.lengths(drawn.rows), self.network.lengths(drawn.partners))
        batches = [
            drawn.take(batch) for batch in bucketed_batches(lengths, batch_size=training.batch_size, random=random)
        ]
        starts = range(0, len(batches), training.accumulation_steps)
        return [batches[start : start + training.accumulation_steps] for start in starts]

    def backward(self, batches: Sequence[Sample], *, epoch: int, step: int) -> float:
        """Leave the gradients of the mean loss of all rows of one step, and return that loss.

        Where memory runs out the step begins again with batches half as large: the gradients are the same sum.
        """
        return self._rows_at_once["training"].attempt(
            lambda max_rows: self._backward(batches, epoch=epoch, step=step, max_rows=max_rows)
        )

    def clip(self) -> float:
        """Scale the gradients down to the largest norm allowed; return their norm before."""
        norm = nn.utils.get_total_norm([weight.grad for weight in self._trained if weight.grad is not None])
        limit = self._job.params.training.gradient_clip
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self._trained, limit, norm)
        return norm.item()

    def training_losses(self, batch: Sample, *, epoch: int, random: np.random.Generator) -> Tensor:
        """Return each row's loss, (rows,); with R-Drop of two passes, and what these differ by (Liang et al. 2021)."""
        inputs = self.network.inputs(batch, random=random)
        outputs = self.network.outputs(inputs)
        losses = self._losses(outputs, batch.rows, epoch=epoch)
        alpha = self._job.params.training.rdrop_alpha
        if alpha == 0:
            return losses
        again = self.network.outputs(inputs)
        both = (losses + self._losses(again, batch.rows, epoch=epoch)) / 2
        return both + alpha * self._loss.divergence(outputs, again)

    def evaluate(self, rows: Rows, *, epoch: int, stop: Callable[[], bool] = never) -> tuple[Predictions, float]:
        """Return the predictions of `rows`, in their order, and their mean loss, as `epoch` has it.

        `stop` is asked before each forward pass; raises Leave when it says so.
        """
        return self._rows_at_once["evaluation"].attempt(
            lambda size: self._evaluate(rows, epoch=epoch, size=size, stop=stop)
        )

    def _drawn(self, *, epoch: int) -> Sample:
        if self._job.task == "regression":
            return self._resampled
        training = self._job.params.training
        return draw(self._resampled, self._job.classes, params=training, seed=self._job.seed, epoch=epoch)

    def _backward(self, batches: Sequence[Sample], *, epoch: int, step: int, max_rows: int) -> float:
        self.network.module.zero_grad()
        num_rows = sum(map(len, batches))
        random = np.random.default_rng((self._job.seed, epoch, AUGMENTATION, step))
        total = torch.zeros((), device=self._device)
        for batch in batches:
            for start in range(0, len(batch), max_rows):
                part = batch.take(np.arange(start, min(start + max_rows, len(batch))))
                loss = self.training_losses(part, epoch=epoch, random=random).sum() / num_rows
                torch.autograd.backward(loss)
                total += loss.detach()
        return total.item()

    def _losses(self, outputs: Tensor, rows: Rows, *, epoch: int) -> Tensor:
        targets = torch.from_numpy(self._targets[rows]).to(self._device)
        return self._loss.rows(outputs, targets, progress=(epoch - 1) / self._job.params.training.epochs)

    @torch.inference_mode()
    def _evaluate(self, rows: Rows, *, epoch: int, size: int, stop: Callable[[], bool]) -> tuple[Predictions, float]:
        self.network.module.eval()
        predictions = np.empty((len(rows), self._job.num_outputs), np.float32)
        loss = 0.0
        # Rows of like length together: little is padded.
        order = np.argsort(self.network.lengths(rows), kind="stable")
        for start in range(0, len(order), size):
            if stop():
                raise Leave
            chosen = order[start : start + size]
            outputs = self.network.outputs(self.network.inputs(as_sample(rows[chosen])))
            loss += self._losses(outputs, rows[chosen], epoch=epoch).sum().item()
            predictions[chosen] = as_predictions(outputs, task=self._job.task, scale=self._scale).cpu().numpy()
        return predictions, loss / len(rows)


def _resampled(job: FoldJob, inputs: Inputs) -> Sample:
    if job.task == "regression":
        return as_sample(job.training_rows)
    sampler = job.params.training.sampler
    with stage("choosing rows", purpose="" if sampler == "none" else sampler):
        return resample(
            job.training_rows,
            job.classes,
            params=job.params.training,
            seed=job.seed,
            embeddings=inputs.embeddings,
            label_names=job.label_names,
        )


def _proof(job: FoldJob, resampled: Sample, drawn: Sample) -> LeakProof:
    """That no validation row is trained on; `drawn` is what the first epoch really holds."""
    proof = prove(
        resampled,
        training_rows=job.training_rows,
        validation_rows=job.validation_rows,
        counts=job.counts,
        together=job.together,
    )
    return replace(proof, counts_after=job.counts(drawn.rows))
