"""An encoder's own masked-language-model head, and the tokens it draws in place of others."""

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from fold_search.models.encoders import load_config, load_pretrained, load_tokenizer, weights_missing
from fold_search.models.errors import EncoderError

MAX_LOGITS = 2**26  # of one forward pass: 256 MiB in float32


class MaskedLanguageModel(nn.Module):
    """A pretrained encoder with its head, in evaluation mode, and the tokens that are never drawn."""

    never_drawn: Tensor  # (vocabulary,): special tokens, and numbers that the tokenizer does not have

    def __init__(self, model: PreTrainedModel, *, mask_id: int, never_drawn: Tensor) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.mask_id = mask_id
        self.register_buffer("never_drawn", never_drawn)


def load_masked_language_model(name: str) -> MaskedLanguageModel:
    """Return the encoder `name` with its masked-language-model head, in float32.

    Raises EncoderError if the encoder cannot be had, its file has no such head, or its tokenizer no mask token.
    """
    config = load_config(name)
    if type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        raise EncoderError(f"encoder {name!r}: {config.model_type} has no masked-language-model head")
    tokenizer = load_tokenizer(name)
    if tokenizer.mask_token_id is None:
        raise EncoderError(f"encoder {name!r}: its tokenizer has no mask token")
    model, missing = load_pretrained(name, AutoModelForMaskedLM, config)
    # A head with invented weights would draw random tokens.
    head = [key for key in missing if not key.startswith(f"{model.base_model_prefix}.")]
    if head:
        raise EncoderError(f"encoder {name!r}: its file has no masked-language-model head ({head[0]} is missing)")
    if missing:
        raise weights_missing(name, missing)
    never_drawn = torch.arange(model.config.vocab_size) >= len(tokenizer)
    never_drawn[tokenizer.all_special_ids] = True
    return MaskedLanguageModel(model, mask_id=tokenizer.mask_token_id, never_drawn=never_drawn)


@torch.no_grad()
def draw_replacements(
    model: MaskedLanguageModel, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor, generator: torch.Generator
) -> Tensor:
    """Return `input_ids` with the `chosen` tokens masked and replaced by draws from the head's distribution.

    All tensors are (rows, tokens), `chosen` is bool; `generator` is on the CPU. A row's chosen tokens are masked
    together and drawn independently of each other; the same token may be drawn again (Wu et al. 2019).
    """
    replaced = input_ids.clone()
    rows = chosen.any(dim=1).nonzero().squeeze(1)
    rows_per_forward = max(1, MAX_LOGITS // (len(model.never_drawn) * input_ids.shape[1]))
    for part in rows.split(rows_per_forward) if len(rows) else ():
        masked = input_ids[part].masked_fill(chosen[part], model.mask_id)
        replaced[part] = replaced[part].masked_scatter(
            chosen[part], _draw(model, masked, attention_mask[part], chosen[part], generator)
        )
    return replaced


def _draw(
    model: MaskedLanguageModel, masked: Tensor, attention_mask: Tensor, chosen: Tensor, generator: torch.Generator
) -> Tensor:
    """Return one token for each chosen place, (places,), by the inverse of the cumulative distribution."""
    device = model.never_drawn.device
    logits = model.model(input_ids=masked.to(device), attention_mask=attention_mask.to(device)).logits
    logits = logits[chosen.to(device)].float().masked_fill(model.never_drawn, float("-inf"))
    # A float32 number below 1 times a float64 sum stays below the sum, so no token of probability 0 is drawn.
    cumulative = logits.softmax(dim=1).double().cumsum(dim=1)
    uniform = torch.rand(len(logits), 1, generator=generator).to(device)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1).to(masked.device)
