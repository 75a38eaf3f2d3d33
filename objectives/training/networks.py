"""The model of one fold on its device: rows in, outputs out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fold_search.objectives.devices import uses_bf16
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.scoring.metrics import Task
from fold_search.objectives.tasks.feeds import Batch, Inputs
from fold_search.objectives.training.sampling import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one forward pass sees: rows, and the partners that some of them are mixed with after pooling."""

    own: Batch
    partners: Batch | None  # for the rows whose share is above 0
    shares: Tensor  # (rows,): the partner's share of the mix


class Network:
    """A classifier and its inputs.

    It is initialised from torch's global random state. Raises EncoderError if the encoder cannot be had or has fewer
    layers or positions than asked, DataError if its tokenizer lacks what an augmentation needs.
    """

    def __init__(self, job: FoldJob, *, inputs: Inputs, device: torch.device) -> None:
        training = job.params.training
        self._device = device
        self._autocast = uses_bf16(training.precision, device)
        self.feed = inputs.feed(job, device=str(device))
        self.module = self.feed.build(num_outputs=job.num_outputs, scale=training.cosine_scale)
        self.depths = self.module.depths()
        nn.Module.to(self.module, device)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    @property
    def state(self) -> dict[str, Tensor]:
        """All that training changes, by name: the trained weights, and what batch normalisation has seen so far."""
        buffers = dict(self.module.named_buffers())
        kept = self.module.state_dict(keep_vars=True).items()
        return {**self.trained, **{name: tensor for name, tensor in kept if name in buffers}}

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return what each row costs: the number of its tokens."""
        return self.feed.lengths(rows)

    def inputs(self, sample: Sample, *, random: np.random.Generator | None = None) -> Pass:
        """Return what is seen of the sample's rows, augmented where `random` is given and the trial wants it."""
        mixed = sample.shares > 0
        return Pass(
            own=self._batch(sample.rows, random),
            partners=self._batch(sample.partners[mixed], random) if mixed.any() else None,
            shares=torch.from_numpy(sample.shares).to(self._device),
        )

    def outputs(self, inputs: Pass) -> Tensor:
        """Return logits, (rows, classes), or one number a row, (rows, 1), in float32."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            states = self.module.pooled(**inputs.own)
            if inputs.partners is not None:
                mixed = inputs.shares > 0
                share = inputs.shares[mixed, None].to(states.dtype)
                blend = (1 - share) * states[mixed] + share * self.module.pooled(**inputs.partners)
                states = states.index_put((mixed,), blend)
            outputs: Tensor = self.module.head(states)
        return outputs.float()

    def _batch(self, rows: Rows, random: np.random.Generator | None) -> Batch:
        return {name: tensor.to(self._device) for name, tensor in self.feed.batch(rows, random=random).items()}


def as_predictions(outputs: Tensor, *, task: Task, scale: tuple[float, float]) -> Tensor:
    """Return probabilities, (rows, classes), or numbers in the label's unit, (rows, 1), from FoldJob.label_scale."""
    if task == "classification":
        return outputs.softmax(dim=1)
    mean, deviation = scale
    return outputs * deviation + mean
