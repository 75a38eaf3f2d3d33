"""A fold run's state as bytes: safetensors with JSON beside the tensors, so that nothing from disk is ever executed."""

import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from objectives.errors import TrialError

METADATA_KEY = "fold_training"


def pack(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return one checkpoint of the tensors and JSON metadata."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, {METADATA_KEY: json.dumps(metadata)})


def unpack(checkpoint: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the metadata; raises TrialError if the checkpoint is damaged."""
    try:
        tensors = safetensors.torch.load(checkpoint)
        header_size = int.from_bytes(checkpoint[:8], "little")
        header = json.loads(checkpoint[8 : 8 + header_size])
        return tensors, json.loads(header["__metadata__"][METADATA_KEY])
    except (SafetensorError, ValueError, KeyError) as error:
        raise TrialError(f"the checkpoint is damaged ({len(checkpoint)} bytes: {error})") from error
