"""The model of one fold on its device: rows in, outputs out."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers import Head, TextClassifier
from models.masked_language import draw_replacements, load_masked_language_model
from objectives.augmentation import Augmentation
from objectives.devices import uses_bf16
from objectives.jobs import FoldJob, Rows
from objectives.params import TOKEN_CHANGES
from objectives.sampling import Sample
from objectives.tasks.text import TextInputs

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What one forward pass sees: rows, and those that some of them are mixed with at their pooled states."""

    own: Batch
    partners: Batch | None  # of the rows whose share is above 0
    shares: Tensor  # (rows,): what the partner has of each row


class Network:
    """A text classifier, or its head alone on the cached states where nothing else is trained.

    It is initialised from torch's global random state. Raises EncoderError if the encoder cannot be had or has fewer
    layers or positions than asked, DataError if its tokenizer lacks what an augmentation needs.
    """

    def __init__(self, job: FoldJob, *, inputs: TextInputs, device: torch.device) -> None:
        params = job.params
        self._tokens = inputs.tokens
        self._labels = job.labels
        self._device = device
        self._max_length = params.model.max_length
        self._autocast = uses_bf16(params.training.precision, device)
        self._states: NDArray[np.float32] | None = None
        scale = params.training.ldam_scale if params.training.loss == "ldam" else None
        if params.model.trainable_layers == 0:
            # With nothing but the head to train, the encoder runs once a study, not once an epoch.
            self._states = inputs.pooled(pooling=params.model.pooling, max_length=self._max_length)
            width = self._states.shape[1]
            self.module: nn.Module = Head(width, dropout=params.model.dropout, num_outputs=job.num_outputs, scale=scale)
            self.depths = {name: 0 for name, _ in self.module.named_parameters()}
        else:
            classifier = TextClassifier(params.model, num_outputs=job.num_outputs, scale=scale)
            self.module, self.depths = classifier, classifier.depths()
        self.module.to(device)
        self._augment = _augmentation(job, inputs, device)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of tokens of each row."""
        return self._tokens.lengths(rows, max_length=self._max_length)

    def inputs(self, sample: Sample, *, random: np.random.Generator | None = None) -> Inputs:
        """Return what is seen of the sample's rows, augmented where `random` is given and the trial wants it."""
        mixed = sample.shares > 0
        return Inputs(
            own=self._batch(sample.rows, random),
            partners=self._batch(sample.partners[mixed], random) if mixed.any() else None,
            shares=torch.from_numpy(sample.shares).to(self._device),
        )

    def outputs(self, inputs: Inputs) -> Tensor:
        """Return logits, (rows, classes), or one number a row, (rows, 1), in float32."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            states = self._pooled(inputs.own)
            if inputs.partners is not None:
                mixed = inputs.shares > 0
                share = inputs.shares[mixed, None].to(states.dtype)
                blend = (1 - share) * states[mixed] + share * self._pooled(inputs.partners)
                states = states.index_put((mixed,), blend)
            outputs: Tensor = self._head(states)
        return outputs.float()

    def _batch(self, rows: Rows, random: np.random.Generator | None) -> Batch:
        if self._states is not None:
            return {"states": torch.from_numpy(self._states[rows]).to(self._device)}
        batch = self._tokens.batch(rows, max_length=self._max_length)
        if self._augment is not None and random is not None:
            batch = self._augment(batch, self._labels[rows], random=random)
        return {name: tensor.to(self._device) for name, tensor in batch.items()}

    def _pooled(self, batch: Batch) -> Tensor:
        if isinstance(self.module, TextClassifier):
            return self.module.pooled(**batch)
        return batch["states"]

    @property
    def _head(self) -> nn.Module:
        return self.module.head if isinstance(self.module, TextClassifier) else self.module


def _augmentation(job: FoldJob, inputs: TextInputs, device: torch.device) -> Augmentation | None:
    training = job.params.training
    if not any(getattr(training, name) for name in TOKEN_CHANGES):
        return None
    replace = None
    if training.token_replacement > 0:
        model = load_masked_language_model(inputs.encoder)
        replace = partial(draw_replacements, model.to(device))
    return Augmentation(
        training,
        counts=job.counts(job.training_rows) if job.label_names else None,
        special=inputs.tokens.special_ids,
        pad_id=inputs.tokens.pad_id,
        mask_id=inputs.tokens.mask_id,
        replace=replace,
    )
