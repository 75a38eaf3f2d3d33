"""What each kind of data gives to training: the rows as inputs of a model, and the model that takes them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fold_search.models.classifiers import Classifier
from fold_search.objectives.jobs import FoldJob, Rows

Batch = dict[str, Tensor]


class Feed(Protocol):
    """What one trial's model sees of the rows."""

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the model, initialised from torch's global random state. With `scale` its logits are scaled cosines.

        Raises EncoderError.
        """

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return what each row costs, (rows,), so that batches have rows of similar cost: its tokens, or 1."""

    def batch(self, rows: Rows, *, random: np.random.Generator | None = None) -> Batch:
        """Return the inputs of `rows`, on the CPU; augmented if `random` is given and the trial asks for it."""


class Inputs(Protocol):
    """The rows of a study, prepared once for all its fold runs."""

    @property
    def encoder(self) -> str:
        """The encoder that they are prepared for."""

    def feed(self, job: FoldJob, *, device: str) -> Feed:
        """Return what the job's trial sees of the rows; EncoderError, DataError."""

    def embeddings(self) -> NDArray[np.float32]:
        """Return every row as a point, (rows, width), for finding neighbours; computed once per study."""
