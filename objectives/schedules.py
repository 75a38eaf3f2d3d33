"""What the optimiser is told: which weights decay, and the learning rate of each step."""

import math
from collections.abc import Collection
from typing import Any, Literal

from torch import nn


def learning_rate_factor(
    step: int, *, num_steps: int, warmup_ratio: float, schedule: Literal["linear", "cosine"]
) -> float:
    """Return the factor for optimiser step `step` (from 0 to num_steps - 1), in (0, 1].

    It rises evenly to 1 in the warm-up steps, then falls evenly or along half a cosine, to 0 after the last step; no
    step is taken with a factor of 0.
    """
    num_warmup = min(round(num_steps * warmup_ratio), num_steps - 1)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    progress = (step - num_warmup) / (num_steps - num_warmup)
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def decay_groups(trained: Collection[nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: matrices decay, vectors (biases and normalisation weights) do not."""
    return [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
