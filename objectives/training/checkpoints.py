"""A fold run's state as bytes: tensors as safetensors, with JSON and a checksum. No part of it is ever executed."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from fold_search.objectives.errors import TrialError

METADATA_KEY = "fold_training"
CHECKSUM_KEY = "sha256"
NO_CHECKSUM = "0" * 64  # stands in the checksum's place while that is computed
_BEST = "best/"


def pack(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return one checkpoint of the tensors and JSON metadata."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # All metadata as one entry: the order of several would change from time to time.
    noted = json.dumps(metadata | {CHECKSUM_KEY: NO_CHECKSUM})
    unsigned = safetensors.torch.save(contiguous, {METADATA_KEY: noted})
    return unsigned.replace(NO_CHECKSUM.encode(), hashlib.sha256(unsigned).hexdigest().encode(), 1)


def unpack(checkpoint: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the metadata; raises TrialError if the checkpoint is damaged."""
    try:
        tensors = safetensors.torch.load(checkpoint)
        header_size = int.from_bytes(checkpoint[:8], "little")
        header = json.loads(checkpoint[8 : 8 + header_size])
        metadata = json.loads(header["__metadata__"][METADATA_KEY])
        _check(checkpoint, metadata.pop(CHECKSUM_KEY, None))
        return tensors, metadata
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TrialError(f"the checkpoint is damaged ({len(checkpoint)} bytes: {error})") from error


def read_best(checkpoint: bytes, *, fingerprint: str) -> "Chosen":
    """Return the best epoch so far of a checkpoint; TrialError if it has none, or is another job's."""
    tensors, metadata = unpack(checkpoint)
    if metadata.get("job") != fingerprint:
        raise TrialError("the checkpoint is of another job: other settings, rows or seed")
    if not metadata["scores"]:
        raise TrialError("no epoch is trained to its end")
    best = metadata["scores"][metadata.get("best_epoch", 0) - 1]  # earlier versions did not note it: the last epoch
    return Chosen(
        epoch=best["epoch"],
        score=best["score"],
        weights={name.removeprefix(_BEST): tensor for name, tensor in tensors.items() if name.startswith(_BEST)},
        predictions=tensors["best_predictions"].numpy(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best epoch so far of a fold run that has not ended, and its weights and predictions."""

    epoch: int
    score: float
    weights: dict[str, Tensor]
    predictions: NDArray[np.float32]  # (validation rows, outputs)


def _check(checkpoint: bytes, checksum: str | None) -> None:
    """Raise ValueError if the checkpoint was changed since it was packed; earlier versions wrote no checksum."""
    if checksum is None:
        return
    unsigned = checkpoint.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != checksum:
        raise ValueError("its checksum is another")
