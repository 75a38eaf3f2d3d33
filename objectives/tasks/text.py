"""Texts as model inputs: tokenised once a study, cached as memory-mapped files, batched by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifiers import Classifier, Head, HeadOnly, Pooling, TextClassifier
from models.encoders import load_encoder, load_tokenizer
from models.masked_language import draw_replacements, load_masked_language_model
from models.params import ModelParams
from objectives.augmentation import Augmentation
from objectives.data import Content
from objectives.devices import rows_per_forward
from objectives.jobs import FoldJob
from objectives.params import TOKEN_CHANGES
from objectives.tasks.cache import cached, digest, digest_weights
from objectives.tasks.feeds import Batch

Array = NDArray[Any]

TEXTS_PER_CALL = 4096
BATCHES_PER_POOL = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedTexts:
    """The token ids of all rows, end to end; `offsets[row]` to `offsets[row + 1]` are one row's."""

    ids: NDArray[np.int32]  # (tokens,)
    offsets: NDArray[np.int64]  # (rows + 1,)
    pad_id: int
    mask_id: int | None
    special_ids: tuple[int, ...]  # the tokenizer's, mask and unknown word among them
    num_closing: int  # special tokens at the end of every text
    key: str  # the same for the same texts, tokenizer and length

    def lengths(self, rows: NDArray[np.int64], *, max_length: int) -> NDArray[np.int64]:
        """Return the number of tokens of each row, at most max_length."""
        return (self.offsets[rows + 1] - self.offsets[rows]).clip(max=max_length)

    def batch(self, rows: NDArray[np.int64], *, max_length: int) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask`, both int64 (rows, longest of them), padded on the right.

        A text that is too long loses the tokens before its closing special ones.
        """
        lengths = self.lengths(rows, max_length=max_length)
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        for line, row, length in zip(ids, rows, lengths, strict=True):
            start, end = self.offsets[row], self.offsets[row + 1]
            line[:length] = self.ids[start : start + length]
            line[length - self.num_closing : length] = self.ids[end - self.num_closing : end]
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs:
    """What all fold runs of a study share: the tokens for one encoder, and what it makes of them while it is frozen."""

    tokens: TokenisedTexts
    encoder: str
    cache: Path
    device: str

    def pooled(self, *, pooling: Literal["mean", "cls", "max"], max_length: int) -> NDArray[np.float32]:
        """Return the frozen encoder's pooled states of all rows, (rows, width); computed once a study. EncoderError."""
        key = digest([self.tokens.key, *digest_weights(self.encoder), pooling, str(max_length)])

        def compute() -> dict[str, Array]:
            states = _pool_all(self.tokens, self.encoder, pooling=pooling, max_length=max_length, device=self.device)
            return {"pooled": states}

        return cached(self.cache / f"pooled-{key}", compute)["pooled"]

    def feed(self, job: FoldJob, *, device: str) -> "TextFeed":
        """Return what the job's trial sees of the rows; raises EncoderError, DataError."""
        model = job.params.model
        states = None
        if model.trainable_layers == 0 and model.pooling != "attention":
            # With nothing but the head to train, the encoder runs once a study, not once an epoch.
            states = self.pooled(pooling=model.pooling, max_length=model.max_length)
        return TextFeed(
            tokens=self.tokens,
            model=model,
            labels=job.labels,
            states=states,
            augment=_augmentation(job, self, device),
        )

    def embeddings(self) -> NDArray[np.float32]:
        """Return every row's mean-pooled frozen states, scaled to length 1: where neighbours are looked for."""
        states = self.pooled(pooling="mean", max_length=int(np.diff(self.tokens.offsets).max()))
        norms = np.linalg.norm(states, axis=1, keepdims=True)
        scaled: NDArray[np.float32] = states / np.maximum(norms, 1e-12)
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFeed:
    """What one trial's model sees of the texts: their tokens, or the frozen encoder's states of them."""

    tokens: TokenisedTexts
    model: ModelParams
    labels: NDArray[np.int64] | NDArray[np.float64]
    states: NDArray[np.float32] | None
    augment: Augmentation | None

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the classifier, or its head alone; raises EncoderError if the encoder cannot be used as asked."""
        if self.states is None:
            return TextClassifier(self.model, num_outputs=num_outputs, scale=scale)
        width = self.states.shape[1]
        return HeadOnly(Head(width, dropout=self.model.dropout, num_outputs=num_outputs, scale=scale))

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each row."""
        return self.tokens.lengths(rows, max_length=self.model.max_length)

    def batch(self, rows: NDArray[np.int64], *, random: np.random.Generator | None = None) -> Batch:
        """Return `input_ids` and `attention_mask`, (rows, tokens), or `states`, (rows, width)."""
        if self.states is not None:
            return {"states": torch.from_numpy(self.states[rows])}
        batch = self.tokens.batch(rows, max_length=self.model.max_length)
        if self.augment is None or random is None:
            return batch
        return self.augment(batch, self.labels[rows], random=random)


def prepare_text(content: Content, *, encoder: str, max_length: int, cache: Path, device: str = "cpu") -> TextInputs:
    """Tokenise the rows for `encoder`, or find them in `cache`; `max_length` is the largest of the study's trials.

    What the frozen encoder makes of them is computed on `device` when it is first asked for. Raises EncoderError.
    """
    tokens = tokenise(content.texts, encoder=encoder, max_length=max_length, cache=cache)
    return TextInputs(tokens=tokens, encoder=encoder, cache=cache, device=device)


def tokenise(texts: Sequence[str], *, encoder: str, max_length: int, cache: Path) -> TokenisedTexts:
    """Return the token ids of all texts from `cache`, where they are put first if need be; raises EncoderError."""
    tokenizer = load_tokenizer(encoder)
    key = digest([tokenizer.backend_tokenizer.to_str(), str(max_length), *texts])

    def compute() -> dict[str, Array]:
        ids, lengths = [], [0]
        for start in range(0, len(texts), TEXTS_PER_CALL):
            batch = list(texts[start : start + TEXTS_PER_CALL])
            rows = tokenizer(batch, truncation=True, max_length=max_length)["input_ids"]
            lengths += map(len, rows)
            ids.append(np.concatenate(rows, dtype=np.int32))
        return {"ids": np.concatenate(ids), "offsets": np.cumsum(lengths, dtype=np.int64)}

    arrays = cached(cache / f"tokens-{key}", compute)
    return TokenisedTexts(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        pad_id=tokenizer.pad_token_id or 0,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        num_closing=_num_closing(tokenizer),
        key=key,
    )


def bucketed_batches(
    lengths: NDArray[np.int64], *, batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return batches of positions in `lengths`, each once, in random order; a batch's lengths are close to each other.

    Shuffled, sorted by length within pools of 50 batches, and the batches shuffled: little padding, and still random.
    """
    order = random.permutation(len(lengths))
    pool_size = batch_size * BATCHES_PER_POOL
    pools = [order[start : start + pool_size] for start in range(0, len(order), pool_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


@torch.inference_mode()
def _pool_all(
    tokens: TokenisedTexts, encoder: str, *, pooling: Literal["mean", "cls", "max"], max_length: int, device: str
) -> NDArray[np.float32]:
    size = rows_per_forward(torch.device(device))
    model = load_encoder(encoder).eval()
    width: int = model.config.hidden_size
    torch.nn.Module.to(model, device)
    pool = Pooling(pooling, width)
    rows = np.arange(len(tokens.offsets) - 1)
    order = np.argsort(tokens.lengths(rows, max_length=max_length), kind="stable")
    states = np.empty((len(rows), width), dtype=np.float32)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = {name: tensor.to(device) for name, tensor in tokens.batch(chosen, max_length=max_length).items()}
        hidden = model(**batch).last_hidden_state
        states[chosen] = pool(hidden, batch["attention_mask"]).cpu().numpy()
    return states


def _augmentation(job: FoldJob, inputs: TextInputs, device: str) -> Augmentation | None:
    training, tokens = job.params.training, inputs.tokens
    if not any(getattr(training, name) for name in TOKEN_CHANGES):
        return None
    replace = None
    if training.token_replacement > 0:
        replace = partial(draw_replacements, load_masked_language_model(inputs.encoder).to(device))
    return Augmentation(
        training,
        counts=job.counts(job.training_rows) if job.label_names else None,
        special=tokens.special_ids,
        pad_id=tokens.pad_id,
        mask_id=tokens.mask_id,
        replace=replace,
    )


def _num_closing(tokenizer: Any) -> int:
    """Count the special tokens that end a text, such as [SEP]."""
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return next(count for count, is_special in enumerate(reversed(special)) if not is_special)
