"""Texts as model inputs: tokenised once per study, cached as memory-mapped files, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fold_search.models.classifiers import Classifier, Head, HeadOnly, Pooling, TextClassifier, mean_of_windows
from fold_search.models.encoders import load_encoder, load_tokenizer, num_encoder_layers
from fold_search.models.masked_language import draw_replacements, load_masked_language_model
from fold_search.models.params import ModelParams
from fold_search.models.reading import read_states, state_width
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.devices import rows_per_forward
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.params import TOKEN_CHANGES
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.augmentation import Augmentation
from fold_search.objectives.tasks.cache import cached, digest, digest_weights, filled
from fold_search.objectives.tasks.continued import Continued, continued
from fold_search.objectives.tasks.feeds import Batch
from fold_search.objectives.tasks.prefix import Prefix, frozen_prefix, windows_in_parts

Array = NDArray[Any]
LongText = Literal["head", "tail", "head_tail", "windows"]

TEXTS_PER_CALL = 4096
ROWS_PER_PART = 65_536
BATCHES_PER_POOL = 50
MAX_TOKENS = 8192  # the most that is kept of a text if more than its head is read


class Cut(TypedDict):
    """Which part is read of a text that is too long."""

    max_length: int
    long_text: LongText
    overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedTexts:
    """The token ids of all rows, end to end; `offsets[row]` to `offsets[row + 1]` are one row's."""

    ids: NDArray[np.int32]  # (tokens,)
    offsets: NDArray[np.int64]  # (rows + 1,)
    pad_id: int
    mask_id: int | None
    special_ids: tuple[int, ...]  # the tokenizer's, mask and unknown word among them
    num_opening: int  # special tokens at the beginning of every text
    num_closing: int  # and at its end
    key: str  # the same for the same texts, tokenizer and length

    def lengths(
        self, rows: NDArray[np.int64], *, max_length: int, long_text: LongText = "head", overlap: float = 0.0
    ) -> NDArray[np.int64]:
        """Return the number of tokens of each row: at most max_length, or with windows those of all its windows."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        if long_text != "windows":
            return lengths.clip(max=max_length)
        room = max_length - self.num_opening - self.num_closing
        num_tokens = lengths - self.num_opening - self.num_closing
        return np.where(lengths > max_length, _num_windows(num_tokens, room, overlap) * max_length, lengths)

    def batch(
        self, rows: NDArray[np.int64], *, max_length: int, long_text: LongText = "head", overlap: float = 0.0
    ) -> Batch:
        """Return `input_ids` and `attention_mask`, both int64 (lines, longest of them), padded on the right.

        A line is a row. With windows it is one window of a row, and `row_of_window`, (lines,), says of which. Every
        line has the opening and closing special tokens; what is left out of a long text lies between them.
        """
        windows = [self._lines(row, max_length, long_text, overlap) for row in rows]
        lines = [line for of_row in windows for line in of_row]
        lengths = np.array([len(line) for line in lines])
        ids = np.full((len(lines), int(lengths.max())), self.pad_id, dtype=np.int64)
        for padded, line in zip(ids, lines, strict=True):
            padded[: len(line)] = line
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if long_text == "windows":
            row_of_window = np.repeat(np.arange(len(rows)), [len(of_row) for of_row in windows])
            batch["row_of_window"] = torch.from_numpy(row_of_window)
        return batch

    def _lines(self, row: int, max_length: int, long_text: LongText, overlap: float) -> list[NDArray[np.int32]]:
        own = self.ids[self.offsets[row] : self.offsets[row + 1]]
        if len(own) <= max_length:
            return [own]
        opening, text, closing = np.split(own, [self.num_opening, len(own) - self.num_closing])
        room = max_length - self.num_opening - self.num_closing
        parts = excerpts(len(text), room, long_text=long_text, overlap=overlap)
        return [np.concatenate([opening, text[part], closing]) for part in parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs:
    """What all fold runs of a study share: the tokens for one encoder, and the states of the encoder while frozen."""

    tokens: TokenisedTexts
    encoder: str
    max_length: int  # the largest of the study's trials
    cache: Path
    device: str

    def pooled(
        self,
        *,
        pooling: Literal["mean", "cls", "max"],
        max_length: int,
        long_text: LongText = "head",
        overlap: float = 0.0,
    ) -> NDArray[np.float32]:
        """Return the frozen encoder's pooled states of all rows, (rows, width), computed once. EncoderError."""
        cut = Cut(max_length=max_length, long_text=long_text, overlap=overlap)

        def fill(folder: Path) -> None:
            with stage("loading the encoder"):
                model = load_encoder(self.encoder).eval().to(self.device)
            width = state_width(model.config)
            shape = (len(self.tokens.offsets) - 1, width)
            with continued(folder / "pooled.npy", shape=shape, dtype=np.float32) as array:
                _pool_all(self.tokens, model, pool=Pooling(pooling, width), cut=cut, array=array)

        return filled(self.cache / f"pooled-{self._key(cut, pooling)}", fill)["pooled"]

    def prefix(self, cut: Cut, *, num_layers: int) -> Prefix | None:
        """Return the states below the `num_layers` top layers, computed once per study; None if that is not possible.

        Raises EncoderError.
        """
        return frozen_prefix(
            self.cache / f"prefix-{self._key(cut, str(num_layers))}",
            encoder=self.encoder,
            num_layers=num_layers,
            batch=partial(self.tokens.batch, **cut),
            lengths=self.tokens.lengths(np.arange(len(self.tokens.offsets) - 1), **cut),
            device=self.device,
        )

    def feed(self, job: FoldJob, *, device: str) -> "TextFeed":
        """Return what the job's trial sees of the rows; raises EncoderError, DataError."""
        model = job.params.model
        augment = augmentation(job, self.tokens, device=device)
        states, prefix, num_layers = None, None, model.trainable_layers
        if num_layers == 0 and model.pooling != "attention":
            # If only the head is trained, the encoder runs once per study, not once per epoch.
            states = self.pooled(pooling=model.pooling, **_cut(model))
        elif num_layers is not None and num_layers < num_encoder_layers(self.encoder) and augment is None:
            prefix = self.prefix(_cut(model), num_layers=num_layers)
        return TextFeed(
            tokens=self.tokens, model=model, labels=job.labels, states=states, prefix=prefix, augment=augment
        )

    def embeddings(self) -> NDArray[np.float32]:
        """Return every row's mean-pooled frozen states, scaled to length 1: where neighbours are looked for.

        Of a long text these are its head's.
        """
        states = self.pooled(pooling="mean", max_length=self.max_length)
        norms = np.linalg.norm(states, axis=1, keepdims=True)
        scaled: NDArray[np.float32] = states / np.maximum(norms, 1e-12)
        return scaled

    def _key(self, cut: Cut, what: str) -> str:
        longest = int(np.diff(self.tokens.offsets).max())
        read = f"{min(cut['max_length'], longest)} {cut['long_text']} {cut['overlap']}"
        return digest([self.tokens.key, *digest_weights(self.encoder), what, read])


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFeed:
    """What one trial's model sees of the texts: their tokens, or the frozen layers' states of them."""

    tokens: TokenisedTexts
    model: ModelParams
    labels: NDArray[np.int64] | NDArray[np.float64]
    states: NDArray[np.float32] | None  # (rows, width), of the whole encoder
    prefix: Prefix | None
    augment: Augmentation | None

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the classifier, or its head alone; raises EncoderError if the encoder cannot be used as asked."""
        if self.states is None:
            return TextClassifier(self.model, num_outputs=num_outputs, scale=scale)
        width = self.states.shape[1]
        return HeadOnly(Head(width, dropout=self.model.dropout, num_outputs=num_outputs, scale=scale))

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each row, those of all its windows together."""
        return self.tokens.lengths(rows, **_cut(self.model))

    def batch(self, rows: NDArray[np.int64], *, random: np.random.Generator | None = None) -> Batch:
        """Return what TextClassifier takes of tokens or of states, or `states`, (rows, width), for the head alone."""
        if self.states is not None:
            return {"states": torch.from_numpy(self.states[rows])}
        if self.prefix is not None:
            return self.prefix.batch(rows)
        batch = self.tokens.batch(rows, **_cut(self.model))
        if self.augment is None or random is None:
            return batch
        labels = self.labels[rows]
        if "row_of_window" in batch:
            labels = labels[batch["row_of_window"].numpy()]
        return batch | self.augment(batch, labels, random=random)


def prepare_text(
    content: Content, *, encoder: str, max_length: int, cache: Path, device: str = "cpu", whole: bool = False
) -> TextInputs:
    """Tokenise the rows for `encoder`, or find them in `cache`; `max_length` is the largest of the study's trials.

    With `whole`, up to 8,192 tokens of a text are kept, for trials that read more than its head. The frozen encoder's
    states are computed on `device` when they are first asked for. Raises EncoderError.
    """
    most = max(max_length, MAX_TOKENS) if whole else max_length
    tokens = tokenise(content.texts, encoder=encoder, max_length=most, cache=cache)
    return TextInputs(tokens=tokens, encoder=encoder, max_length=max_length, cache=cache, device=device)


def tokenise(texts: Sequence[str], *, encoder: str, max_length: int, cache: Path) -> TokenisedTexts:
    """Return the token ids of all texts from `cache`; tokenise them first if they are not there. EncoderError."""
    tokenizer = load_tokenizer(encoder)
    key = digest([tokenizer.backend_tokenizer.to_str(), str(max_length), *stand_in_key(tokenizer), *texts])
    stand_in = [stand_in_for_nothing(tokenizer)]

    def compute() -> dict[str, Array]:
        ids, lengths = bytearray(), [0]
        with stage("tokenising rows", total=len(texts)) as advance:
            for start in range(0, len(texts), TEXTS_PER_CALL):
                batch = list(texts[start : start + TEXTS_PER_CALL])
                found = tokenizer(batch, truncation=True, max_length=max_length)["input_ids"]
                rows = [row or stand_in for row in found]
                lengths += map(len, rows)
                ids += np.concatenate(rows, dtype=np.int32).data
                advance(len(batch))
        return {"ids": np.frombuffer(ids, np.int32), "offsets": np.cumsum(lengths, dtype=np.int64)}

    arrays = cached(cache / f"tokens-{key}", compute)
    num_opening, num_closing = _num_special(tokenizer)
    return TokenisedTexts(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        pad_id=tokenizer.pad_token_id or 0,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        num_opening=num_opening,
        num_closing=num_closing,
        key=key,
    )


def excerpts(num_tokens: int, room: int, *, long_text: LongText, overlap: float) -> list[NDArray[np.int64]]:
    """Return which tokens of a text of `num_tokens` each line has; the text is longer than a line.

    The windows of a text are evenly spread. There are as few of them as possible, so that each shares at least
    `overlap`, a share of its tokens, with the one before.
    """
    if long_text == "windows":
        starts = np.linspace(0, num_tokens - room, int(_num_windows(num_tokens, room, overlap))).round().astype(int)
        return list(starts[:, None] + np.arange(room))
    first = {"head": room, "tail": 0, "head_tail": (room + 1) // 2}[long_text]
    return [np.r_[:first, num_tokens - room + first : num_tokens]]


def bucketed_batches(
    lengths: NDArray[np.int64], *, batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return batches of positions in `lengths`, each position once, in random order; lengths in a batch are similar.

    Positions are shuffled, sorted by length within pools of 50 batches, and then the batches are shuffled: there is
    little padding, and the order is still random.
    """
    order = random.permutation(len(lengths))
    pool_size = batch_size * BATCHES_PER_POOL
    pools = [order[start : start + pool_size] for start in range(0, len(order), pool_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def _num_windows(num_tokens: Any, room: int, overlap: float) -> Any:
    """How many windows of `room` tokens a text of `num_tokens` (or each of several texts) needs: two or more."""
    step = max(1, int(room * (1 - overlap)))
    return 1 + -(-(num_tokens - room) // step)


def _cut(model: ModelParams) -> Cut:
    overlap = model.window_overlap if model.long_text == "windows" else 0.0
    return Cut(max_length=model.max_length, long_text=model.long_text, overlap=overlap)


@torch.inference_mode()
def _pool_all(tokens: TokenisedTexts, encoder: PreTrainedModel, *, pool: Pooling, cut: Cut, array: Continued) -> None:
    """Write the pooled states of all rows, (rows, width); rows of similar length are read together."""
    at_once = RowsAtOnce(rows=rows_per_forward(encoder.device), device=encoder.device)
    num_rows, done = len(tokens.offsets) - 1, 0
    with stage("embedding rows", total=num_rows) as advance:
        for chosen in _parts_by_length(tokens.lengths(np.arange(num_rows), **cut), size=at_once.rows):
            done += len(chosen)
            if done > array.done:
                batch = tokens.batch(chosen, **cut)
                pooled = at_once.attempt(partial(_pool_batch, batch, encoder, pool))
                for row, states in zip(chosen, mean_of_windows(pooled, batch.get("row_of_window")), strict=True):
                    array.write(row, states.numpy())
                array.note(done)
            advance(len(chosen))


def _parts_by_length(lengths: NDArray[np.int64], *, size: int) -> Iterator[Rows]:
    """Yield all rows, `size` of similar length at a time."""
    for first in range(0, len(lengths), ROWS_PER_PART):
        order = first + np.argsort(lengths[first : first + ROWS_PER_PART], kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]


def _pool_batch(batch: Batch, encoder: PreTrainedModel, pool: Pooling, size: int) -> Tensor:
    """Return the pooled states, (lines, width), of at most `size` lines at a time."""
    parts = windows_in_parts(batch, size=size, device=str(encoder.device))
    return torch.cat([pool(read_states(encoder, **part), part["attention_mask"]).cpu() for part in parts])


class Tokens(Protocol):
    """What an augmentation has to know about the tokens that it changes."""

    @property
    def pad_id(self) -> int:
        """What is padded with."""

    @property
    def mask_id(self) -> int | None:
        """The tokenizer's mask token, if it has one."""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that are never changed."""


def augmentation(
    job: FoldJob, tokens: Tokens, *, device: str, draw: Callable[..., Tensor] = draw_replacements
) -> Augmentation | None:
    """Return the trial's augmentation of training tokens, None if it has none; `draw` works as draw_replacements does.

    Raises EncoderError, DataError.
    """
    training = job.params.training
    if not any(getattr(training, name) for name in TOKEN_CHANGES):
        return None
    replace = None
    if training.token_replacement > 0:
        replace = partial(draw, load_masked_language_model(job.params.model.encoder).to(device))
    return Augmentation(
        training,
        counts=job.counts(job.training_rows) if job.task == "classification" else None,
        special=tokens.special_ids,
        pad_id=tokens.pad_id,
        mask_id=tokens.mask_id,
        replace=replace,
    )


def stand_in_for_nothing(tokenizer: Any) -> int:
    """Return the token that is read if the tokenizer leaves nothing of a text, such as an empty one.

    It is the token that begins or ends a text, or the one for unknown words. The encoder then always makes the same
    state; from no token at all it would make none.
    """
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "pad_token_id")
    found = (getattr(tokenizer, name) for name in names)
    return next((token for token in found if token is not None), 0)


def stand_in_key(tokenizer: Any) -> list[str]:
    """Return a part of the cache's key: an earlier version cached no token at all for such a text."""
    return [] if any(_num_special(tokenizer)) else [f"nothing is {stand_in_for_nothing(tokenizer)}"]


def _num_special(tokenizer: Any) -> tuple[int, int]:
    """Count the special tokens that begin a text, such as [CLS], and those that end it, such as [SEP]."""
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return special.index(0), special[::-1].index(0)
