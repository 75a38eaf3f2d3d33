"""What of a pretrained encoder is trained: all of it, its top layers, re-initialised layers, or low-rank updates."""

import warnings
from collections.abc import Iterator, Mapping
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fold_search.models.errors import EncoderError
from fold_search.models.params import EncoderParams
from fold_search.models.reading import encoder_layers


def adapt(encoder: PreTrainedModel, params: EncoderParams) -> None:
    """Freeze all that `params` do not train, and add what they ask for, with weights from torch's global random state.

    Raises EncoderError if the encoder does not have what they name.
    """
    layers = encoder_layers(encoder)
    asked = {"trainable_layers": params.trainable_layers or 0, "reinit_layers": params.reinit_layers}
    check_layers(params.encoder, asked, family=encoder.config.model_type, num_layers=len(layers))
    for layer in layers[len(layers) - params.reinit_layers :]:
        _reinitialise(encoder, layer)
    if params.lora_rank is not None:
        _add_lora(encoder, params)
    elif params.trainable_layers is not None:
        # No graph is recorded below the first trained weight, so backward ends there.
        encoder.requires_grad_(False)
        for layer in layers[len(layers) - params.trainable_layers :]:
            layer.requires_grad_(True)
    if params.gradient_checkpointing:
        if not encoder.supports_gradient_checkpointing:
            raise EncoderError(
                f"encoder {params.encoder!r}: gradient_checkpointing is true, but {encoder.config.model_type} "
                "cannot compute its activations again; expected false"
            )
        # The public method would also ask for a gradient at the embeddings' output, so that backward went through
        # frozen layers. Only re-entrant checkpoints need that.
        encoder._set_gradient_checkpointing(
            enable=True, gradient_checkpointing_func=partial(checkpoint, use_reentrant=False)
        )


def check_layers(name: str, asked: Mapping[str, int], *, family: str, num_layers: int) -> None:
    """Raise EncoderError if a setting asks for more layers than there are; 0 if the layers cannot be told apart."""
    for field, number in asked.items():
        if number and not num_layers:
            raise EncoderError(
                f"encoder {name!r}: {field} is {number}, but {family} has no list of layers with weights of their own"
            )
        if number > num_layers:
            raise EncoderError(f"encoder {name!r}: {field} is {number}, the encoder has {num_layers}")


def merge_lora(model: nn.Module) -> None:
    """Add the low-rank updates to the weights that they belong to; names are then those of the plain model."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())


def _reinitialise(encoder: PreTrainedModel, layer: nn.Module) -> None:
    """Give a layer fresh weights, as the model gives them before it is pretrained (Zhang et al. 2021)."""
    for weight in layer.parameters():
        # transformers marks weights that come from a file, and does not initialise these.
        weight.__dict__.pop("_is_hf_initialized", None)
    for module in layer.modules():
        encoder._init_weights(module)


def _add_lora(encoder: PreTrainedModel, params: EncoderParams) -> None:
    """Freeze the encoder and train W + alpha / rank x B A in place of the weights W (LoRA, Hu et al. 2022)."""
    # It takes seconds to import.
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(_linear_layers(encoder, attention_only=params.lora_targets == "attention"))
    if not targets:
        attention_only = params.lora_targets == "attention"
        of_which, instead = (" of its attention", "lora_targets all, or ") if attention_only else ("", "")
        raise EncoderError(
            f"encoder {params.encoder!r}: {encoder.config.model_type} has no linear layers{of_which} that LoRA could "
            f"update; expected {instead}lora_rank null"
        )
    config = LoraConfig(r=params.lora_rank, lora_alpha=params.lora_alpha, target_modules=targets)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        # peft finds out by itself which weights of a GPT-2 are transposed, and warns about it.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set")
        inject_adapter_in_model(config, encoder)


def _linear_layers(encoder: PreTrainedModel, *, attention_only: bool) -> Iterator[str]:
    """Yield the names of the linear layers in the transformer layers; those of the attention have it in their name."""
    parts = encoder_layers(encoder) or [encoder]
    inside = {id(module) for part in parts for module in part.modules()}
    for name, module in encoder.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D) and id(module) in inside
        if is_linear and (not attention_only or "att" in name.lower()):
            yield name
