"""Several text columns as model inputs, each with its own tokens and its own length."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fold_search.models.classifiers import Classifier
from fold_search.models.columns import ColumnClassifier
from fold_search.models.encoders import load_config
from fold_search.models.params import ModelParams
from fold_search.models.reading import state_width
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.tasks.feeds import Batch, Feed
from fold_search.objectives.tasks.text import TextInputs, prepare_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnInputs:
    """What all fold runs of a study share: each column's tokens, and the frozen encoder's states of them."""

    columns: Mapping[str, TextInputs]
    present: NDArray[np.bool_]  # (rows, columns): whether a cell holds any text
    encoder: str

    def feed(self, job: FoldJob, *, device: str) -> "ColumnFeed":
        """Return what the job's trial sees of the rows; raises EncoderError, DataError."""
        feeds = {name: inputs.feed(_read_alone(job, name), device=device) for name, inputs in self.columns.items()}
        return ColumnFeed(columns=feeds, present=self.present, model=job.params.model)

    def embeddings(self) -> NDArray[np.float32]:
        """Return the mean-pooled frozen states of every row's columns, side by side.

        Each column is scaled to length 1 (0 where it is missing), and then the whole row to length 1.
        """
        each = [inputs.embeddings() for inputs in self.columns.values()]
        states = np.concatenate([column * held[:, None] for column, held in zip(each, self.present.T, strict=True)], 1)
        scaled: NDArray[np.float32] = states / np.sqrt(self.present.sum(axis=1, keepdims=True).clip(min=1), dtype="f4")
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFeed:
    """What one trial's model sees of the columns: for each of them, what a model of that column alone would see."""

    columns: Mapping[str, Feed]
    present: NDArray[np.bool_]  # (rows, columns)
    model: ModelParams

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the ensemble; raises EncoderError if the encoder cannot be used as asked."""
        feeds = list(self.columns.values())
        read_by = feeds[:1] if self.model.shared_encoder else feeds
        return ColumnClassifier(
            [feed.build(num_outputs=num_outputs, scale=None) for feed in read_by],
            dropouts={name: self.model.column_dropout.get(name, self.model.dropout) for name in self.columns},
            width=state_width(load_config(self.model.encoder)),
            fusion_width=self.model.fusion_width,
            num_outputs=num_outputs,
            scale=scale,
        )

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of tokens of each row's columns together."""
        lengths: NDArray[np.int64] = np.stack([feed.lengths(rows) for feed in self.columns.values()]).sum(axis=0)
        return lengths

    def batch(self, rows: Rows, *, random: np.random.Generator | None = None) -> Batch:
        """Return each column's inputs, named COLUMN/NAME, and `present`, (rows, columns)."""
        inputs = {
            f"{column}/{name}": tensor
            for column, feed in self.columns.items()
            for name, tensor in feed.batch(rows, random=random).items()
        }
        return inputs | {"present": torch.from_numpy(self.present[rows])}


def prepare_columns(
    content: Content, *, params: ModelParams, max_length: int, cache: Path, device: str = "cpu"
) -> ColumnInputs:
    """Tokenise each text column for models like `params`, or find it in `cache`.

    `max_length` is the study's largest, for columns without a length of their own. The frozen encoder's states are
    computed on `device` when they are first asked for. Raises EncoderError.
    """
    longest = {name: params.column_max_length.get(name, max_length) for name in content.spec.text}
    columns = {
        name: prepare_text(
            replace(content, texts=content.columns[name]),
            encoder=params.encoder,
            max_length=length,
            cache=cache,
            device=device,
            whole=params.long_text != "head",
        )
        for name, length in longest.items()
    }
    present = np.array([[bool(cell.strip()) for cell in content.columns[name]] for name in columns], dtype=bool).T
    return ColumnInputs(columns=columns, present=present, encoder=params.encoder)


def _read_alone(job: FoldJob, column: str) -> FoldJob:
    """Return the job of a model that reads this column only."""
    model = job.params.model
    alone = model.model_copy(update={"max_length": model.column_max_length.get(column, model.max_length)})
    return replace(job, params=job.params.model_copy(update={"model": alone}))
