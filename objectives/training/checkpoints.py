"""A fold run's state as bytes: tensors as safetensors, with JSON and a checksum. No part of it is ever executed."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from fold_search.objectives.errors import TrialError

METADATA_KEY = "fold_training"
CHECKSUM_KEY = "sha256"
NO_CHECKSUM = "0" * 64  # stands in the checksum's place while that is computed
_MODEL, _BEST = "model/", "best/"
_SAME_KEY = "best_as_model"


def pack(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return one checkpoint of the tensors and JSON metadata.

    Weights of the best epoch that are those of now, as after every epoch that is the best, are stored once.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    same = [name for name in stored if name.startswith(_BEST) and _is_same(stored[name], stored.get(_now(name)))]
    for name in same:
        del stored[name]
    # All metadata as one entry: the order of several would change from time to time.
    noted = json.dumps(metadata | {_SAME_KEY: same, CHECKSUM_KEY: NO_CHECKSUM})
    # The larger numbers first, so that all of them are aligned.
    ordered = dict(sorted(stored.items(), key=lambda item: (-item[1].itemsize, item[0])))
    unsigned = _header(ordered, {METADATA_KEY: noted})
    # Copied once, where safetensors' own writer and the checksum's place would take three copies of up to gigabytes.
    parts = [_bytes_of(tensor).numpy().data for tensor in ordered.values()]
    digest = hashlib.sha256(unsigned)
    for part in parts:
        digest.update(part)
    return b"".join([unsigned.replace(NO_CHECKSUM.encode(), digest.hexdigest().encode(), 1), *parts])


def unpack(checkpoint: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the metadata; raises TrialError if the checkpoint is damaged."""
    try:
        tensors = safetensors.torch.load(checkpoint)
        header_size = int.from_bytes(checkpoint[:8], "little")
        header = json.loads(checkpoint[8 : 8 + header_size])
        metadata = json.loads(header["__metadata__"][METADATA_KEY])
        _check(checkpoint, metadata.pop(CHECKSUM_KEY) if _SAME_KEY in metadata else metadata.pop(CHECKSUM_KEY, None))
        # Earlier versions stored all of them.
        return tensors | {name: tensors[_now(name)] for name in metadata.pop(_SAME_KEY, [])}, metadata
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


def _now(best: str) -> str:
    """The name of the weight now whose value at the best epoch has this name."""
    return _MODEL + best.removeprefix(_BEST)


def _is_same(tensor: Tensor, other: Tensor | None) -> bool:
    """Whether both are the same to the last bit; NaN and the sign of 0 count too."""
    if other is None or (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(_bytes_of(tensor), _bytes_of(other))


def _bytes_of(tensor: Tensor) -> Tensor:
    """The same memory as bytes, (bytes,)."""
    return tensor.flatten().view(torch.uint8)


def _header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return what stands before the tensors in a safetensors file that has them in this order."""
    described: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        kind = str(tensor.dtype).removeprefix("torch.").replace("uint", "U").replace("int", "I").replace("float", "F")
        described[name] = {"dtype": kind.upper(), "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _check(checkpoint: bytes, checksum: str | None) -> None:
    """Raise ValueError if the checkpoint was changed since it was packed; earlier versions wrote no checksum."""
    if checksum is None:
        return
    unsigned = checkpoint.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != checksum:
        raise ValueError("its checksum is another")
