"""How many rows fit into memory and pass through a network at once. The number is halved whenever memory runs out."""

import ctypes
import json
import math
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow
import torch

from fold_search.objectives.errors import NO_KERNEL, OutOfMemory, is_out_of_memory
from fold_search.objectives.jobs import FoldJob, Rows

T = TypeVar("T")

M_MMAP_THRESHOLD = -3  # of malloc.h

# Params that change neither the activations nor the weights of a pass, or hardly.
WITHOUT_WEIGHT = {"dropout", "encoder_dropout", "column_dropout", "lora_alpha", "reinit_layers", "window_overlap"}


def memory_shape(job: FoldJob) -> str:
    """Return what decides how many of a job's rows fit into a device's memory at once, as text."""
    training = job.params.training
    run = {"precision": training.precision, "passes": 1 if training.rdrop_alpha == 0 else 2}
    model = job.model.model_dump(mode="json", exclude=WITHOUT_WEIGHT)
    return json.dumps({**model, **run}, sort_keys=True)


def describe_device(device: torch.device, limit: int | None = None) -> str:
    """Return the device with its memory in bytes: that of a GPU, or what `limit_memory` allows of the host's."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory} bytes"
    return device.type if limit is None else f"{device.type}, {limit} bytes"


def limit_memory(limit: int) -> None:
    """Let this process hold no more than `limit` bytes of the host's memory; a larger allocation is then an error.

    Memory that is reserved but not used, such as the stacks of threads, does not count. Raises OutOfMemory if the
    process holds more already.
    """
    # Arrow's own pool reserves 1 GiB of address space with the first table, and the kernel would count that.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    held = held_memory()
    if limit <= held:
        raise OutOfMemory(f"found a limit of {limit} bytes, expected more than the {held} that the process begins with")
    resource.setrlimit(resource.RLIMIT_DATA, (_in_bytes("VmData") + limit - held, resource.RLIM_INFINITY))
    # If memory ends while Rust prints a backtrace, it waits for itself for ever.
    os.environ["RUST_BACKTRACE"] = "0"
    # Otherwise glibc keeps freed memory in pieces that are too small for anything else.
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**17)


def held_memory() -> int:
    """Return how many bytes of the host's memory this process holds."""
    return _in_bytes("VmRSS")


def _in_bytes(name: str) -> int:
    """Return one of Linux's figures about this process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@contextmanager
def memory_of(device: torch.device) -> Iterator[None]:
    """Turn the errors of a full memory, on the device or the host, into OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        found = (str(error).strip() or type(error).__name__).splitlines()[0]
        if NO_KERNEL in found:
            # Once memory has ended while oneDNN compiled a kernel, it never compiles one in this thread again.
            torch.backends.mkldnn.set_flags(_enabled=False)
        raise OutOfMemory(f"out of memory on {device}: {found}") from error


@dataclass(slots=True, kw_only=True)
class RowsAtOnce:
    """How many rows are passed through at once; `halved` is told of every smaller number that is tried."""

    rows: int
    device: torch.device
    halved: Callable[[int], None] = lambda rows: None

    def attempt(self, run: Callable[[int], T]) -> T:
        """Return `run(rows)`. If memory runs out, begin again with half as many rows and the same random numbers.

        Raises OutOfMemory if one row is too many.
        """
        on_gpu = self.device.type == "cuda"
        drawn = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if on_gpu else None
        while True:
            try:
                with memory_of(self.device):
                    return run(self.rows)
            except OutOfMemory:
                if self.rows == 1:
                    raise
            # Not inside `except`: the error keeps alive all that the pass had allocated.
            self.rows = math.ceil(self.rows / 2)
            self.halved(self.rows)
            torch.set_rng_state(drawn[0])
            if drawn[1] is not None:
                torch.cuda.empty_cache()
                torch.cuda.set_rng_state(drawn[1], self.device)

    def in_parts(self, rows: Rows, run: Callable[[Rows], T]) -> Iterator[tuple[Rows, T]]:
        """Take the `rows` in parts: yield each part and the result of `run` on it. Parts shrink if memory runs out.

        Raises OutOfMemory if one row is too many.
        """
        while len(rows):
            found = self.attempt(lambda size, rest=rows: run(rest[:size]))  # type: ignore[misc]
            yield rows[: self.rows], found
            rows = rows[self.rows :]
