"""What the encoders of a family can do. Configurations do not say it, so a tiny model with random weights is tried.

Shapes alone (torch's device `meta`) are not enough: only numbers show whether padding, dropout and the order of tokens
make a difference. There is no list of names that says what a family can do; its code is run.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, PreTrainedConfig, PreTrainedModel

from fold_search.models.adaptation import adapt, check_layers, merge_lora
from fold_search.models.encoders import (
    check_weights,
    finish,
    load_config,
    make_ready,
    model_class,
    quietly,
    text_model,
    without_pooler,
)
from fold_search.models.errors import EncoderError
from fold_search.models.params import EncoderParams
from fold_search.models.reading import encoder_layers, read_states, state_width
from fold_search.models.relations import ExtendedEmbedding, NewTokens
from fold_search.models.shrinking import POSITIONS, VOCABULARY, shrunk

# Texts of six tokens and of fewer. Two of them are the first one with another last and another first token.
IDS = torch.tensor(
    [[7, 10, 11, 12, 13, 8], [7, 14, 15, 8, 0, 0], [7, 16, 17, 18, 8, 0], [7, 19, 8, 0, 0, 0], [7, 20, 21, 8, 0, 0]]
)
OTHER_LAST = torch.tensor([[7, 10, 11, 12, 13, 9]])
OTHER_FIRST = torch.tensor([[6, 10, 11, 12, 13, 8]])
LENGTHS = (1, 2, 3, 6, 13)
MOST_RESERVED = 8  # positions that a family may keep for itself
TOLERANCE = 1e-4  # of the largest state
NOISE = 2e-6  # likewise; seen were 1.5e-7 by rounding and 2.8e-5 by the weakest attention of random weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What a study asks of an encoder. Each number is the largest of all its trials."""

    max_length: int = 1
    trainable_layers: int = 0
    reinit_layers: int = 0
    poolings: frozenset[str] = frozenset()
    encoder_dropout: bool = False
    lora_targets: frozenset[str] = frozenset()  # empty: no low-rank updates
    gradient_checkpointing: bool = False
    new_tokens: bool = False  # the markers of relations


class Unfit(Exception):
    """An encoder of the family cannot be used; the message continues a sentence that begins with the family's name."""


def check_encoder(name: str, uses: Uses | None = None) -> None:
    """Raise EncoderError if the encoder is not there, is not a text encoder, or cannot do what it is used for.

    Reads the configuration only, no weights; a hub model's configuration is downloaded.
    """
    uses = uses or Uses()
    config = load_config(name)
    with _refusals(name, config.model_type):
        check_kind(config)
    check_weights(name)
    with _refusals(name, config.model_type):
        family = try_family(config)
        _check_uses(family, uses)
        longest = longest_text(config, family)
    num_layers = config.num_hidden_layers if family.has_layers else 0
    layers = {"trainable_layers": uses.trainable_layers, "reinit_layers": uses.reinit_layers}
    check_layers(name, layers, family=config.model_type, num_layers=num_layers)
    if longest is not None and uses.max_length > longest:
        raise EncoderError(f"encoder {name!r}: max_length is {uses.max_length}, the encoder takes {longest}")
    for asked in _asked(name, uses):
        with _refusals(name, config.model_type):
            family.try_training(asked)


def check_kind(config: PreTrainedConfig) -> None:
    """Raise Unfit unless a configuration is that of one model that reads only text and returns states."""
    try:
        takes = set(signature(model_class(config).forward).parameters)
    except KeyError:
        takes = set()
    if "input_ids" not in takes or not hasattr(config, "hidden_size") or not hasattr(config, "num_hidden_layers"):
        raise Unfit("is no text encoder")
    if _is_composite(config):
        raise Unfit("is several models in one, or reads more than text; expected a text encoder")
    if getattr(config, "is_encoder_decoder", False) and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise Unfit("is an encoder with a decoder, and no text encoder; expected an encoder alone")


def try_family(config: PreTrainedConfig) -> "Family":
    """Try a configuration's family, and return what was found; raises Unfit if no encoder of it can be used."""
    try:
        return Family(shrunk(config))
    except Unfit:
        raise
    except Exception as error:
        # The small sizes may not fit this configuration. The family's own default can still be tried.
        try:
            return Family(shrunk(type(config)()))
        except Unfit:
            raise
        except Exception:
            raise Unfit(f"cannot be used: {_first_line(error)}") from error


def longest_text(config: PreTrainedConfig, family: "Family") -> int | None:
    """Return how many tokens an encoder takes; None: any number."""
    reserved, positions = family.num_reserved, _num_positions(config)
    return None if positions is None or reserved is None else positions - reserved


class Family:
    """A tiny encoder of the family, and what trying it has shown.

    Raises Unfit if its states do not depend on the text alone, or if it cannot be trained.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config
        self.encoder = self._build()
        states = self._read(IDS)
        if states.shape != (*IDS.shape, state_width(config)):
            raise Unfit(f"makes states of the shape {tuple(states.shape)}, expected {*IDS.shape, state_width(config)}")
        self._whole = states[:1]
        for length in LENGTHS:
            if (reason := self._reason_against(length)) is not None:
                raise Unfit(f"cannot read a text of {length} tokens: {reason}")
        if not self._same(self._read(IDS, seed=2), states):
            raise Unfit("makes other states of the same text every time")
        for row, length in enumerate((IDS > 0).sum(dim=1)):
            if not self._same(self._read(IDS[row : row + 1, :length])[0], states[row, :length]):
                raise Unfit("makes other states of a text when others beside it are longer")
        if self.is_causal and self._same(self._read(OTHER_FIRST)[:, 1:], self._whole[:, 1:]):
            raise Unfit("does not let tokens see each other; it may need compiled code that is not here")
        for length in LENGTHS:
            try:
                self._step(copy.deepcopy(self.encoder), torch.full((1, length), 9))
            except Exception as error:
                raise Unfit(f"cannot be trained on a text of {length} tokens: {_first_line(error)}") from error

    @cached_property
    def is_causal(self) -> bool:
        """Whether the first token's state does not depend on the last token."""
        return self._same(self._read(OTHER_LAST)[:, 0], self._whole[:, 0], tolerance=NOISE)

    @cached_property
    def has_layers(self) -> bool:
        """Whether the encoder has a list of layers, each of which is run once, from the lowest to the top."""
        layers, called = encoder_layers(self.encoder), []
        hooks = [layer.register_forward_pre_hook(lambda module, _: called.append(module)) for layer in layers]
        self._read(IDS)
        for hook in hooks:
            hook.remove()
        return bool(layers) and called == layers

    @cached_property
    def has_dropout(self) -> bool:
        """Whether dropout inside the encoder changes its states of a text."""
        try:
            none, most = (self._read(IDS, self._build(dropout=dropout).train()) for dropout in (0.0, 0.9))
        except Exception:  # a DiffLlama refuses it
            return False
        return not self._same(none, most)

    @cached_property
    def takes_new_tokens(self) -> bool:
        """Whether a new token is read like the known token that its row is copied from."""
        encoder = copy.deepcopy(self.encoder)
        try:
            new = NewTokens(VOCABULARY, ("new",), ((int(OTHER_LAST[0, -1]),),))
            encoder.set_input_embeddings(ExtendedEmbedding(encoder.get_input_embeddings(), new))
            ids = OTHER_LAST.clone()
            ids[0, -1] = new.first
            return self._same(self._read(ids, encoder), self._read(OTHER_LAST))
        except Exception:  # a family may know other embeddings of every token
            return False

    @cached_property
    def num_reserved(self) -> int | None:
        """How many positions texts cannot use; None: a text may have more tokens than there are positions."""
        longer = POSITIONS + MOST_RESERVED
        if (reason := self._reason_against(longer)) is None:
            return None
        if _num_positions(self._config) is None:
            raise Unfit(f"cannot read a text of {longer} tokens: {reason}")
        for number in range(MOST_RESERVED):
            if self._reason_against(POSITIONS - number) is None:
                return number
        raise Unfit(f"does not take texts of {POSITIONS - MOST_RESERVED} tokens where it has {POSITIONS} positions")

    def try_training(self, params: EncoderParams) -> None:
        """Take one step of the training that `params` ask for; raises Unfit, or what `adapt` raises."""
        try:
            encoder = self._build()
            adapt(encoder, params)
            self._step(encoder)
            before = self._read(IDS, encoder)
            merge_lora(encoder)
            if not self._same(before, self._read(IDS, encoder)):
                raise Unfit("makes other states once the low-rank updates are in its weights")
        except (Unfit, EncoderError):
            raise
        except Exception as error:
            asked = ", ".join(sorted(params.model_fields_set - {"encoder"}))
            raise Unfit(f"cannot be trained with {asked}: {_first_line(error)}") from error

    def _build(self, dropout: float | None = None) -> PreTrainedModel:
        config = copy.deepcopy(self._config)
        make_ready(config, dropout=dropout)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), quietly():
            torch.manual_seed(0)
            encoder = text_model(config).from_config(config, dtype=torch.float32, **without_pooler(config))
        finished: PreTrainedModel = finish(encoder, dropout=dropout).eval()
        return finished

    @torch.no_grad()
    def _read(self, ids: Tensor, encoder: PreTrainedModel | None = None, *, seed: int = 1) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return read_states(encoder or self.encoder, input_ids=ids, attention_mask=(ids > 0).long())

    def _reason_against(self, length: int) -> str | None:
        """Return why a text of that many tokens cannot be read; None if it can."""
        try:
            self._read(torch.full((1, length), 9))
        except Exception as error:
            return _first_line(error)
        return None

    def _step(self, encoder: PreTrainedModel, ids: Tensor = IDS) -> None:
        encoder.train()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            states = read_states(encoder, input_ids=ids, attention_mask=(ids > 0).long())
            states[ids > 0].square().mean().backward()
        encoder.eval()

    def _same(self, some: Tensor, others: Tensor, *, tolerance: float = TOLERANCE) -> bool:
        return torch.allclose(some, others, rtol=0, atol=tolerance * self._whole.abs().max().item())


def _check_uses(family: Family, uses: Uses) -> None:
    if "cls" in uses.poolings and family.is_causal:
        raise Unfit("reads from left to right, so that pooling cls sees the first token alone; expected another one")
    if uses.encoder_dropout and not family.has_dropout:
        raise Unfit("has no dropout that encoder_dropout could set; expected null")
    if uses.new_tokens and not family.takes_new_tokens:
        raise Unfit("cannot read new tokens; expected entity_form separated or typed_punctuation")


def _asked(name: str, uses: Uses) -> Iterator[EncoderParams]:
    """Yield, one at a time, the ways of training that not every family can do."""
    if uses.trainable_layers:
        yield EncoderParams(encoder=name, trainable_layers=1)
    if uses.reinit_layers:
        yield EncoderParams(encoder=name, reinit_layers=1)
    for targets in sorted(uses.lora_targets):
        yield EncoderParams.model_validate({"encoder": name, "lora_rank": 2, "lora_targets": targets})
    if uses.gradient_checkpointing:
        yield EncoderParams(encoder=name, gradient_checkpointing=True)


@contextmanager
def _refusals(name: str, family: str) -> Iterator[None]:
    try:
        yield
    except Unfit as unfit:
        raise EncoderError(f"encoder {name!r}: {family} {unfit}") from unfit.__cause__


def _is_composite(config: PreTrainedConfig) -> bool:
    """Whether a configuration holds those of several models."""
    try:
        if config.get_text_config() is not config:
            return True
    except ValueError:  # it has several texts' own
        return True
    parts = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return any(hasattr(part, "hidden_size") and hasattr(part, "num_hidden_layers") for part in parts)


def _num_positions(config: Any) -> int | None:
    """Return the number of positions that a configuration names, if it names one."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length")
    found = (getattr(config, name, None) for name in names)
    return next((number for number in found if isinstance(number, int) and number > 0), None)


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"no {line}" if isinstance(error, KeyError) else line
