"""The relation classifier: an encoder with extra tokens that mark the entities, and its states at both of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from fold_search.models.classifiers import Head, TextClassifier
from fold_search.models.errors import EncoderError
from fold_search.models.params import ModelParams
from fold_search.models.reading import state_width

# What a token is in a relation; 0: any other.
ENTITY, SUBJECT_START, OBJECT_START = 1, 2, 3


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens that are new to an encoder. Their ids begin at `first` and have no gaps."""

    first: int
    names: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]  # for each new token: the known tokens of its meaning in words

    def __len__(self) -> int:
        return len(self.names)


def add_tokens(tokenizer: Any, meanings: Mapping[str, str]) -> NewTokens:
    """Add tokens that the tokenizer does not have; `meanings` has the meaning of each in words. EncoderError."""
    pieces = tuple(tuple(tokenizer(words, add_special_tokens=False)["input_ids"]) for words in meanings.values())
    _add(tokenizer, meanings)
    names = tuple(meanings)
    ids = tokenizer.convert_tokens_to_ids(list(names))
    first = min(ids, default=len(tokenizer))
    if ids != list(range(first, first + len(names))):
        raise EncoderError(f"the tokenizer gives the new tokens the ids {ids}, expected one after the other")
    return NewTokens(first, names, pieces)


class ExtendedEmbedding(nn.Module):
    """A pretrained embedding, and a small one beside it for new tokens, so that only these can be trained.

    A new token's row starts as the mean of the rows of its meaning in words, so that it is useful even if nothing of
    the encoder is trained.
    """

    def __init__(self, known: Any, new: NewTokens) -> None:
        super().__init__()
        self.first = new.first
        self.known: nn.Embedding = known
        rows = [known.weight.detach()[list(pieces)].mean(dim=0) for pieces in new.pieces]
        self.new = nn.Embedding.from_pretrained(torch.stack(rows), freeze=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the rows of the ids: (rows, tokens) -> (rows, tokens, width)."""
        is_new = input_ids >= self.first
        known = self.known(input_ids.masked_fill(is_new, 0))
        return torch.where(is_new.unsqueeze(-1), self.new((input_ids - self.first).clamp(min=0)), known)

    def merged(self) -> nn.Embedding:
        """Return one ordinary embedding of all tokens, with which the encoder can be saved."""
        known = self.known.weight.detach()[: self.first]
        # A tokenizer may have ids that the encoder has no rows for.
        unused = known.new_zeros(self.first - len(known), known.shape[1])
        weight = torch.cat([known, unused, self.new.weight.detach()])
        merged: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.known.padding_idx)
        return merged


class RelationClassifier(TextClassifier):
    """Classifies two entities of a text by its pooled states, or by the states where the entities begin.

    The rows of new tokens are trained unless only the head is. If only some top layers are trained, the other rows and
    the layers below stay frozen, but gradients pass through them. Raises EncoderError if the encoder cannot be used as
    asked.
    """

    def __init__(
        self, params: ModelParams, *, new_tokens: NewTokens, num_outputs: int, scale: float | None = None
    ) -> None:
        super().__init__(params, num_outputs=num_outputs, scale=scale)
        self.entity_states = params.entity_states
        self.new_tokens = new_tokens
        if len(new_tokens):
            embedding = ExtendedEmbedding(self.encoder.get_input_embeddings(), new_tokens)
            embedding.new.requires_grad_(params.trainable_layers != 0)
            self.encoder.set_input_embeddings(embedding)
        if self.entity_states == "entities":
            width = 2 * state_width(self.encoder.config)
            self.head = Head(width, dropout=params.dropout, num_outputs=num_outputs, scale=scale)

    def pooled(self, *, input_ids: Tensor, attention_mask: Tensor, marks: Tensor) -> Tensor:  # type: ignore[override]
        """Return the input of the head, (rows, width) or (rows, 2 x width); the arguments are all (rows, tokens)."""
        if self.entity_states == "pooled":
            return super().pooled(input_ids=input_ids, attention_mask=attention_mask)
        hidden = self.hidden(input_ids=input_ids, attention_mask=attention_mask)
        rows = torch.arange(len(hidden), device=hidden.device)
        # An entity of which the tokenizer left nothing is read at the first token.
        starts = [(marks == start).int().argmax(dim=1) for start in (SUBJECT_START, OBJECT_START)]
        return torch.cat([hidden[rows, start] for start in starts], dim=1)

    def merged(self) -> Self:
        """Return a copy with a plain encoder, which has one embedding of all tokens."""
        copied = super().merged()
        embedding = copied.encoder.get_input_embeddings()
        if isinstance(embedding, ExtendedEmbedding):
            plain = embedding.merged()
            copied.encoder.set_input_embeddings(plain)
            copied.encoder.config.vocab_size = plain.num_embeddings
        return copied

    def complete(self, tokenizer: Any) -> None:
        """Add to the pretrained encoder's tokenizer the tokens that only this encoder knows."""
        _add(tokenizer, self.new_tokens.names)


def _add(tokenizer: Any, names: Iterable[str]) -> None:
    tokens = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(tokens, special_tokens=True)
