"""The column ensemble: each text column is read and classified on its own, and a two-layer head fuses the outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fold_search.models.classifiers import Classifier, Head


class ColumnClassifier(Classifier):
    """Classifies rows of several text columns.

    A reader makes a column's pooled states, (rows, width). Each column has a reader, or all share one; their own heads
    are dropped. Each column has a classifier, with its dropout from `dropouts`, whose outputs are (rows, outputs). Two
    layers with a ReLU between them fuse the outputs of all columns. A missing cell's outputs are replaced by a learned
    vector. With `scale` the last layer's logits are scaled cosines.

    ::

        title --> reader --> classifier --+
                                          +--> linear, ReLU, linear --> logits
        body  --> reader --> classifier --+
    """

    def __init__(
        self,
        readers: Sequence[Classifier],
        *,
        dropouts: Mapping[str, float],
        width: int,
        fusion_width: int,
        num_outputs: int,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.columns = tuple(dropouts)
        self.readers = nn.ModuleList(readers)
        for reader in readers:
            reader.head = nn.Identity()
        self.classifiers = nn.ModuleList(
            _head(width, dropout=dropout, num_outputs=num_outputs) for dropout in dropouts.values()
        )
        # One vector: as a matrix it would have weight decay.
        self.missing = nn.Parameter(torch.zeros(len(self.columns) * num_outputs))
        self.head = nn.Sequential(
            nn.Linear(len(self.columns) * num_outputs, fusion_width),
            nn.ReLU(),
            _head(fusion_width, dropout=0.0, num_outputs=num_outputs, scale=scale),
        )

    def pooled(self, *, present: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Return the outputs of all columns, (rows, columns x outputs).

        `present`, (rows, columns), says which cells have any text. `inputs` are the readers', each named COLUMN/NAME.
        """
        said = [classify(states) for classify, states in zip(self.classifiers, self._states(inputs), strict=True)]
        num_outputs = said[0].shape[1]
        return torch.where(present.repeat_interleave(num_outputs, dim=1), torch.cat(said, dim=1), self.missing)

    def depths(self) -> dict[str, int]:
        """Return how far below the column's classifier each reader's parameter lies; all others are at 0."""
        inner = {
            f"readers.{number}.{name}": depth
            for number, reader in enumerate(self._readers())
            for name, depth in reader.depths().items()
        }
        return super().depths() | inner

    def _states(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the pooled states of each column, each (rows, width)."""
        of_column: dict[str, dict[str, Tensor]] = {name: {} for name in self.columns}
        for key, tensor in inputs.items():
            column, _, name = key.rpartition("/")
            of_column[column][name] = tensor
        readers = self._readers()
        if len(readers) == 1:
            readers *= len(self.columns)
        return [reader.pooled(**of_column[name]) for name, reader in zip(self.columns, readers, strict=True)]

    def _readers(self) -> list[Classifier]:
        return [reader for reader in self.readers if isinstance(reader, Classifier)]


def _head(width: int, *, dropout: float, num_outputs: int, scale: float | None = None) -> Head:
    """Return a head with torch's own initial weights: with small weights a stack of heads hardly starts to learn."""
    head = Head(width, dropout=dropout, num_outputs=num_outputs, scale=scale)
    head.linear.reset_parameters()
    return head
