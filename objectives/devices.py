"""What depends on the device: its random state, its precision and how much it takes at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch from (seed, epoch) inside the block; afterwards its random state is what it was before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]))
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random states as bytes, by kind of device: cpu, and cuda if `device` is one."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` returned; states of other kinds of device are ignored."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one core inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether forward passes run in bfloat16; `auto` chooses it where CUDA hardware has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def rows_per_forward(device: torch.device) -> int:
    """Return how many rows to pass forward at once without gradients. On a CPU more than 32 take longer per row."""
    return 128 if device.type == "cuda" else 32
