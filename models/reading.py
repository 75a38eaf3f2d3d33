"""How an encoder reads token ids: as a whole, or first its lower and then its upper layers."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

# Families whose states of a text depend on the padding beside it, although the attention mask leaves it out.
MIXES_PADDING = frozenset({"convbert", "cpmant", "fnet", "nystromformer"})


def state_width(config: PreTrainedConfig) -> int:
    """Return the width of an encoder's last states. Those of a small OPT are narrower than the ones between layers."""
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def encoder_layers(encoder: PreTrainedModel) -> list[nn.Module]:
    """Return the transformer layers, lowest first; none if the encoder has no list of layers with their own weights.

    They are the module list with the most weights among those as long as the configuration says.
    """
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    lists = [layers for layers in lists if len(layers) == getattr(encoder.config, "num_hidden_layers", None)]
    layers = max(lists, key=_num_weights, default=nn.ModuleList())
    elsewhere = sum(_num_weights(other) for other in lists if not set(other.modules()) <= set(layers.modules()))
    # An XLM has separate lists of attention and feed-forward parts; the layers of a Zamba share weights.
    if elsewhere > 0.1 * _num_weights(layers) or sum(map(_num_weights, layers)) > _num_weights(layers):
        return []
    return list(layers)


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def read_states(encoder: PreTrainedModel, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the encoder's last states, (rows, tokens, width), of token ids padded on the right, and their mask.

    If a family mixes padding into its states, rows of each length are read separately.
    """
    if encoder.config.model_type not in MIXES_PADDING:
        return _forward(encoder, input_ids, attention_mask)
    lengths = attention_mask.sum(dim=1)
    groups = [(lengths == length).nonzero().squeeze(1) for length in lengths.unique()]
    parts = []
    for rows in groups:
        length = int(lengths[rows[0]])
        part = _forward(encoder, input_ids[rows, :length], attention_mask[rows, :length])
        parts.append(functional.pad(part, (0, 0, 0, input_ids.shape[1] - length)))
    # Back to the original order of the rows.
    return torch.cat(parts)[torch.cat(groups).argsort()]


def _forward(encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    inputs = {"input_ids": input_ids}
    # A family without a mask reads from left to right, so padding on the right never counts; or it is in MIXES_PADDING.
    if "attention_mask" in inspect.signature(encoder.forward).parameters:
        inputs["attention_mask"] = attention_mask
    states: Tensor = encoder(**inputs).last_hidden_state
    return states


def lower_states(encoder: PreTrainedModel, *, num_layers: int, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the states that go into the `num_layers` top layers, (rows, tokens, width); with 0, the last states."""
    given: list[Tensor] = []

    def keep(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        given.append(hidden_states)
        return hidden_states

    layers = encoder_layers(encoder)
    with _answering(layers[len(layers) - num_layers :], keep):
        last = read_states(encoder, input_ids=input_ids, attention_mask=attention_mask)
    return given[0] if num_layers else last


def upper_states(encoder: PreTrainedModel, *, num_layers: int, states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the last states, (rows, tokens, width), from the states that go into the `num_layers` top layers.

    The encoder's own forward pass is used, but its lower layers return `states` at once. So the family's masks and
    position biases are the right ones.
    """
    if num_layers == 0:
        return states
    layers = encoder_layers(encoder)
    with _answering(layers[: len(layers) - num_layers], lambda *_, **__: states):
        ids = torch.zeros_like(attention_mask)
        return read_states(encoder, input_ids=ids, attention_mask=attention_mask)


@contextmanager
def _answering(layers: list[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
