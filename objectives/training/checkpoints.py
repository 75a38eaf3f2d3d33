"""A fold run's state as bytes: safetensors with JSON and a checksum beside the tensors; nothing of it is executed."""

import hashlib
import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fold_search.objectives.errors import TrialError

METADATA_KEY = "fold_training"
CHECKSUM_KEY = "sha256"
NO_CHECKSUM = "0" * 64  # stands in the checksum's place while that is computed


def pack(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return one checkpoint of the tensors and JSON metadata."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # In one piece with the metadata: the order of several would be another each time.
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


def _check(checkpoint: bytes, checksum: str | None) -> None:
    """Raise ValueError if this is not what was packed; earlier versions wrote no checksum."""
    if checksum is None:
        return
    unsigned = checkpoint.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != checksum:
        raise ValueError("its checksum is another")
