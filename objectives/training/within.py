"""An epoch that was left in its middle: what a checkpoint keeps of it, and how it goes on exactly there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from fold_search.objectives.devices import random_state, set_random_state

_TENSOR = "random/"
_KEY = "within_epoch"


def never() -> bool:
    """Never stop."""
    return False


class Leave(Exception):
    """The current epoch is left in its middle, because somebody asked for it."""


@dataclass(slots=True, kw_only=True)
class WithinEpoch:
    """The steps that are done, the sums over them, and torch's random state where the epoch was left.

    Batches and augmentation follow from seed, epoch and step. Only dropout draws from torch's random state.
    """

    step: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    seconds: float = 0.0
    random: dict[str, Tensor] = field(default_factory=dict)
    _since: float = 0.0

    def go_on(self, device: torch.device) -> None:
        """Set the random state, so that dropout draws what it would have drawn without the break."""
        if self.random:
            set_random_state(self.random, device)
        self._since = time.perf_counter() - self.seconds

    def add(self, *, loss: float, norm: float, rows: int) -> None:
        """Count one more step, of so many rows."""
        self.step += 1
        self.loss_sum += loss * rows
        self.norm_sum += norm

    def leave(self, device: torch.device) -> None:
        """Note the random state and the time at which the epoch is left."""
        self.random = random_state(device)
        self.seconds = time.perf_counter() - self._since

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be saved as tensors."""
        return {f"{_TENSOR}{kind}": state for kind, state in self.random.items()}

    def metadata(self) -> dict[str, Any]:
        """Return what is to be saved as JSON."""
        sums = {"loss_sum": self.loss_sum, "norm_sum": self.norm_sum, "seconds": self.seconds}
        return {_KEY: {"step": self.step, **sums}}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self | None:
        """Return what was saved; None if that was between two epochs."""
        if _KEY not in metadata:
            return None
        random = {name.removeprefix(_TENSOR): state for name, state in tensors.items() if name.startswith(_TENSOR)}
        return cls(**metadata[_KEY], random=random)
