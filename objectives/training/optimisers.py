"""Moves the weights of one fold, each at its layer's learning rate, and keeps their average where one is wanted."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import schedulefree
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fold_search.objectives.errors import TrialError
from fold_search.objectives.params import TrainingParams

# What each optimiser keeps of a weight; only `step` is not of the weight's own shape.
KEPT = {
    "adamw": ("step", "exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "schedule_free_adamw": ("z", "exp_avg_sq"),
}
# What schedule-free keeps of a parameter group.
GROUP_NUMBERS = ("k", "weight_sum", "lr_max")


class Optimiser:
    """The optimiser of one fold's weights by name, restorable exactly.

    `depths` says how many layers each weight lies below the head (the head: 0): its learning rate is learning_rate x
    the step's factor x layer_decay ** depth (ULMFiT, Howard and Ruder 2018). Matrices decay, vectors (biases and
    normalisation weights) do not. With ema_decay there is an average of the weights. It starts as the weights after
    the first step and keeps ema_decay of itself at each later step, without a correction for its start: after n steps
    the first weights have a share of ema_decay ** (n - 1). Buffers, such as those of batch normalisation, are not
    averaged. schedule_free_adamw (Defazio et al. 2024) only needs the warm-up.
    """

    def __init__(
        self, trained: Mapping[str, nn.Parameter], *, params: TrainingParams, depths: Mapping[str, int]
    ) -> None:
        self._trained = dict(trained)
        self._params = params
        self._optimiser = _build(_groups(trained, params, depths), params)
        self._average: dict[str, Tensor] = {}

    def step(self, factor: float) -> None:
        """Move the weights along their gradients, at `factor` times their peak learning rates.

        Do not read the gradients afterwards: schedule-free overwrites them.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = self._params.learning_rate * factor * group["layer_factor"]
        self._optimiser.step()
        if self._params.ema_decay is not None:
            self._update_average(self._params.ema_decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the weights the values that are scored and kept: their average, if there is one.

        On leaving, the weights are what they were before, to the last bit.
        """
        schedule_free: Any = self._optimiser if self._params.optimiser == "schedule_free_adamw" else None
        if not self._average and schedule_free is None:
            yield
            return
        before = {name: weight.detach().clone() for name, weight in self._trained.items()}
        if schedule_free is not None:
            schedule_free.eval()
        self._set_weights(self._average)
        try:
            yield
        finally:
            if schedule_free is not None:
                schedule_free.train()
            self._set_weights(before)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to be saved beside the weights and `numbers`, named `KIND/WEIGHT`; they are not copies.

        There is nothing for weights that never had a gradient.
        """
        return {f"average/{name}": tensor for name, tensor in self._average.items()} | {
            f"{kind}/{name}": tensor
            for name, weight in self._trained.items()
            for kind, tensor in self._optimiser.state[weight].items()
            if tensor is not None
        }

    def numbers(self) -> dict[str, float]:
        """Return the numbers to be saved beside `tensors`; `num_tensors` is how many tensors there are."""
        return {"num_tensors": len(self.tensors())} | {
            f"{key}/{index}": group[key]
            for index, group in enumerate(self._optimiser.param_groups)
            for key in GROUP_NUMBERS
            if key in group
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        """Go back to where `tensors` and `numbers` were taken. The caller restores the weights; others are ignored.

        Raises TrialError, and changes nothing, if one of them is missing or of another shape.
        """
        shapes = self._shapes()
        found = {name: tensors[name] for name in shapes if name in tensors}
        for name, tensor in found.items():
            if tensor.shape != shapes[name]:
                raise _misfit(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shapes[name])}")
        for name in self.numbers():
            if name not in numbers:
                raise _misfit(f"{name} is missing")
        if len(found) != numbers["num_tensors"]:
            raise _misfit(f"{len(found)} of its {numbers['num_tensors']:g} tensors are there")
        for name, weight in self._trained.items():
            self._optimiser.state[weight] = {
                kind: found[f"{kind}/{name}"].to(weight.device, copy=True)
                for kind in KEPT[self._params.optimiser]
                if f"{kind}/{name}" in found
            }
        self._average = {
            name: found[f"average/{name}"].to(weight.device, copy=True)
            for name, weight in self._trained.items()
            if f"average/{name}" in found
        }
        for index, group in enumerate(self._optimiser.param_groups):
            group.update({key: numbers[f"{key}/{index}"] for key in GROUP_NUMBERS if key in group})

    def _update_average(self, decay: float) -> None:
        weights = [weight.detach() for weight in self._trained.values()]
        if self._average:
            get_ema_multi_avg_fn(decay)(list(self._average.values()), weights, None)
        else:
            self._average = {name: weight.detach().clone() for name, weight in self._trained.items()}

    @torch.no_grad()
    def _set_weights(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._trained[name].copy_(value)

    def _shapes(self) -> dict[str, torch.Size]:
        """Return the shape of everything that `tensors` may hold."""
        kinds = KEPT[self._params.optimiser] + (() if self._params.ema_decay is None else ("average",))
        return {
            f"{kind}/{name}": torch.Size() if kind == "step" else weight.shape
            for name, weight in self._trained.items()
            for kind in kinds
        }


def _groups(
    trained: Mapping[str, nn.Parameter], params: TrainingParams, depths: Mapping[str, int]
) -> Iterable[dict[str, Any]]:
    """Return the parameter groups: one for each learning rate and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in trained.items():
        kind = params.layer_decay ** depths[name], params.weight_decay if weight.ndim >= 2 else 0.0
        groups.setdefault(kind, []).append(weight)
    return [
        {"params": weights, "layer_factor": layer_factor, "weight_decay": weight_decay}
        for (layer_factor, weight_decay), weights in groups.items()
    ]


def _build(groups: Iterable[dict[str, Any]], params: TrainingParams) -> torch.optim.Optimizer:
    if params.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
    if params.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum)
    optimiser: Any = schedulefree.AdamWScheduleFree(groups, lr=params.learning_rate)
    optimiser.train()
    built: torch.optim.Optimizer = optimiser
    return built


def _misfit(what: str) -> TrialError:
    return TrialError(f"the checkpoint does not fit the optimiser: {what}")
