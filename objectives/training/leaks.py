"""The leak proof: which rows went into a fold's training, which came out of its sampler, and that none was held out.

A row counts as held out if a row with the same text was: rows are compared by what keeps them together, not by their
place in the file.

::

    training rows --> sampler --> rows trained on, alone or mixed         must not meet:
    (rows_in)                     (rows_out)                              the validation rows, and rows like them
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.errors import DataError
from fold_search.objectives.training.sampling import Sample

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakProof:
    """What one fold run trained on, and how many of its validation rows that included."""

    rows_in: Rows  # the fold's training rows, distinct and rising
    rows_out: Rows  # rows that are trained on, alone or mixed into others, distinct and rising
    counts_before: NDArray[np.int64]  # (classes,)
    counts_after: NDArray[np.int64]  # (classes,)
    num_synthetic: int
    num_validation_rows_used: int  # directly, or through a row like them; 0 unless something is wrong

    def summary(self) -> dict[str, Any]:
        """Return JSON: the counts, and the sha256 of the rows as little-endian int64."""
        return {
            "num_rows_in": len(self.rows_in),
            "num_rows_out": len(self.rows_out),
            "num_synthetic": self.num_synthetic,
            "num_validation_rows_used": self.num_validation_rows_used,
            "counts_before": self.counts_before.tolist(),
            "counts_after": self.counts_after.tolist(),
            "rows_in": _sha256(self.rows_in),
            "rows_out": _sha256(self.rows_out),
        }

    def to_bytes(self) -> bytes:
        """Return the proof as a compressed npz."""
        file = io.BytesIO()
        np.savez_compressed(file, **asdict(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Return what `to_bytes` wrote; raises DataError if it is damaged."""
        try:
            stored = read_arrays(content)
            arrays: dict[str, Any] = {field.name: stored[field.name] for field in fields(cls)}
            numbers = {name: int(array) for name, array in arrays.items() if array.ndim == 0}
            return cls(**(arrays | numbers))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the leak proof is damaged ({len(content)} bytes: {error})") from error


def prove(
    sample: Sample,
    *,
    training_rows: Rows,
    validation_rows: Rows,
    counts: Callable[[Rows], NDArray[np.int64]],
    together: Rows | None = None,
) -> LeakProof:
    """Return the leak proof of one fold run. A validation row counts as used if it, or a row like it, went in or out.

    `counts` gives the rows of each class, (classes,); a repeated row counts each time, and a mixed row for the class
    of its source. Rows are alike if they have the same number in `together`, (all rows,), such as rows of one text.
    """
    rows_in = np.unique(training_rows)
    rows_out = np.union1d(sample.rows, sample.partners)
    used, held_out = np.union1d(rows_in, rows_out), np.unique(validation_rows)
    if together is not None:
        used, held_out = together[used], together[held_out]
    return LeakProof(
        rows_in=rows_in,
        rows_out=rows_out,
        counts_before=counts(training_rows),
        counts_after=counts(sample.rows),
        num_synthetic=int(np.sum(sample.partners != sample.rows)),
        num_validation_rows_used=int(np.isin(held_out, used).sum()),
    )


def _sha256(rows: Rows) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
