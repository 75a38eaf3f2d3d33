"""How image encoders of any family are used: their configuration, one pass, pooled states, and layers in order."""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from fold_search.models import timm_models

POOLINGS = ("mean", "cls", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an encoder looks like, found out without its weights."""

    width: int  # of the pooled states
    num_layers: int  # that can be trained without those below; 0 if it has no list of layers
    # Where each module runs, by its name: 0 before the layers, n from the n-th layer on. So modules above the layers
    # have the number of the top one.
    levels: Mapping[str, int]
    unused: frozenset[str]  # the weights that pooled states do not depend on


def seeing_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the part that reads images, for a model that also reads text (CLIP); else its own."""
    inner = getattr(config, "vision_config", None)
    return inner if isinstance(inner, PreTrainedConfig) and type(inner) in MODEL_MAPPING else config


def unfit(config: PreTrainedConfig) -> str | None:
    """Return why a family cannot be an image encoder, as far as its configuration tells; None if nothing is known."""
    if type(config) not in MODEL_MAPPING:
        return f"{config.model_type} is no model that transformers' AutoModel makes"
    if hasattr(config, "num_queries"):
        return f"{config.model_type} looks for objects in an image, and has no states of all of it"
    return None


def make_ready(config: PreTrainedConfig, *, image_size: int | None, dropout: float | None) -> None:
    """Set the image size (None: unchanged), let the encoder see whole images, and set its dropout."""
    built_for = getattr(config, "image_size", None)
    if image_size is not None and built_for is not None:
        is_one = isinstance(built_for, int)
        config.image_size = image_size if is_one else type(built_for)([image_size] * len(built_for))
    # A masked autoencoder hides most of an image, other parts each time.
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0
    if dropout is not None:
        _set_dropout(config, dropout)


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every probability with a name that speaks of dropping (families have many names), also of whole layers."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _set_dropout(value, dropout)
        elif "drop" in name and type(value) in (int, float):
            setattr(config, name, dropout)
        elif "drop" in name and isinstance(value, list | tuple):
            setattr(config, name, type(value)([dropout] * len(value)))


def fix_dropout(encoder: nn.Module, dropout: float) -> None:
    """Set what the configuration cannot say: dropout that is fixed in the encoder's code."""
    for module in encoder.modules():
        if isinstance(module, _DropoutNd):
            module.p = dropout


def look(encoder: PreTrainedModel, *, image_size: int, pooling: str) -> Shape:
    """Let an encoder read two images; raises ValueError, or any error of the encoder, if it cannot."""
    with _order_of_calls(encoder) as calls:
        output = read_images(encoder, torch.zeros(2, 3, image_size, image_size))
    _check_pooling(_states(output), pooling)
    pooled = pool(output, pooling)
    if pooled.shape[:-1] != (2,):
        raise ValueError(f"it makes states of shape {tuple(pooled.shape)} of two images, expected one vector of each")
    torch.autograd.backward(pooled.sum())
    layers = _layers(encoder, calls)
    return Shape(
        width=pooled.shape[1],
        num_layers=len(layers),
        levels=_levels(encoder, layers, calls),
        unused=frozenset(name for name, weight in encoder.named_parameters() if weight.grad is None),
    )


def read_images(encoder: PreTrainedModel, pixel_values: Tensor) -> Any:
    """Return the encoder's output for (rows, 3, size, size)."""
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        built_for = getattr(encoder.config, "image_size", None)
        sizes = (built_for,) if isinstance(built_for, int) else tuple(built_for or ())
        options = {"interpolate_pos_encoding": set(sizes) != {pixel_values.shape[-1]}}
    return encoder(pixel_values=pixel_values, **options)


def pool(output: Any, pooling: str) -> Tensor:
    """Return one vector per image, (rows, width): from its patches, from its maps, or the network's own."""
    hidden = _states(output)
    if hidden.ndim == 4:
        own: Tensor | None = getattr(output, "pooler_output", None)
        if own is not None:
            return own.flatten(1)
        # The images are square: two sides of a map are equal, wherever its channels are.
        is_last = hidden.shape[1] == hidden.shape[2] != hidden.shape[3]
        return hidden.mean(dim=(1, 2) if is_last else (2, 3))
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.amax(dim=1) if pooling == "max" else hidden.mean(dim=1)


def _states(output: Any) -> Tensor:
    """Return the last states, (rows, patches, width), or the last maps; a backbone has another name for them."""
    maps = getattr(output, "feature_maps", None)
    hidden: Tensor | None = getattr(output, "last_hidden_state", maps[-1] if maps else None)
    if hidden is None or hidden.ndim not in (3, 4):
        raise ValueError("it has no states or feature maps of its own at the end")
    return hidden


def _check_pooling(hidden: Tensor, pooling: str) -> None:
    if hidden.ndim == 4 and pooling != "mean":
        raise ValueError(f"pooling is {pooling}, but it makes feature maps, which it averages itself; expected mean")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling}, expected one of {', '.join(POOLINGS)}")
    # If the patches make a full square, there is no token before them that could stand for all.
    if hidden.ndim == 3 and pooling == "cls" and math.isqrt(hidden.shape[1]) ** 2 == hidden.shape[1]:
        raise ValueError("pooling is cls, but there is no first token beside the patches; expected mean or max")


@contextmanager
def _order_of_calls(encoder: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield a list that each module joins whenever it begins."""
    calls: list[nn.Module] = []
    hooks = [module.register_forward_pre_hook(lambda module, _: calls.append(module)) for module in encoder.modules()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _layers(encoder: PreTrainedModel, calls: list[nn.Module]) -> list[nn.Module]:
    """Return the layers, blocks or stages, lowest first; none if the encoder has no list of them.

    Of all lists it is the one with the most modules that run one after the other: a family may also have lists of its
    stages' patches or normalisations.
    """
    if encoder.config.model_type == timm_models.MODEL_TYPE:
        return timm_models.timm_layers(encoder)
    first = {module: place for place, module in reversed(list(enumerate(calls)))}
    lists = [list(layers) for layers in encoder.modules() if isinstance(layers, nn.ModuleList) and len(layers) > 1]
    return max(
        filter(lambda layers: _is_in_order(layers, first), lists), key=lambda layers: _runs(layers, calls), default=[]
    )


def _runs(layers: list[nn.Module], calls: list[nn.Module]) -> int:
    inside = {module for layer in layers for module in layer.modules()}
    return sum(module in inside for module in calls)


def _is_in_order(layers: list[nn.Module], first: Mapping[nn.Module, int]) -> bool:
    """Whether each layer has weights and runs, and begins after the one below."""
    began = [min((first[module] for module in layer.modules() if module in first), default=None) for layer in layers]
    places = [place for place in began if place is not None]
    return (
        len(set(places)) == len(layers)
        and places == sorted(places)
        and all(any(True for _ in one.parameters()) for one in layers)
    )


def _levels(encoder: nn.Module, layers: list[nn.Module], calls: list[nn.Module]) -> dict[str, int]:
    inside = {module: number for number, layer in enumerate(layers, start=1) for module in layer.modules()}
    ran: dict[nn.Module, int] = {}
    level = 0
    for module in calls:
        level = max(level, inside.get(module, 0))
        ran.setdefault(module, level)
    levels: dict[str, int] = {}
    for name, module in encoder.named_modules():
        # A module that is never called itself, such as a list, belongs to the module that it is part of.
        above = levels.get(name.rpartition(".")[0], 0)
        levels[name] = inside.get(module, ran.get(module, above))
    return levels


def drops(encoder: PreTrainedModel, *, image_size: int) -> bool:
    """Whether anything is dropped at random in training. It is tried: some families ignore their configuration."""
    watch = _Watch()  # type: ignore[no-untyped-call]
    with watch:
        read_images(encoder.train(), torch.zeros(2, 3, image_size, image_size))
    return watch.drew


class _Watch(TorchDispatchMode):
    """Notes whether random numbers were drawn."""

    drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drew |= any(word in func.__name__ for word in ("dropout", "bernoulli", "rand", "uniform"))
        return func(*args, **(kwargs or {}))
