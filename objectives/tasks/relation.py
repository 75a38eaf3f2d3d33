"""Relations as model inputs: the marked text's tokens, which of them are the entities', and which are cut first."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fold_search.models.classifiers import Classifier, Head, HeadOnly
from fold_search.models.encoders import load_tokenizer
from fold_search.models.masked_language import MaskedLanguageModel, draw_replacements
from fold_search.models.params import ModelParams
from fold_search.models.relations import ENTITY, OBJECT_START, SUBJECT_START, NewTokens, RelationClassifier, add_tokens
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.data.relations import Form, MarkedText, entity_types, mark, new_tokens, read_relations
from fold_search.objectives.devices import rows_per_forward
from fold_search.objectives.errors import DataError
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.augmentation import Augmentation
from fold_search.objectives.tasks.cache import cached, digest, digest_weights, filled
from fold_search.objectives.tasks.continued import continued
from fold_search.objectives.tasks.feeds import Batch
from fold_search.objectives.tasks.morphemes import cut_relations
from fold_search.objectives.tasks.text import TEXTS_PER_CALL, augmentation, stand_in_for_nothing, stand_in_key


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedTokens:
    """The tokens of all rows, end to end; `offsets[row]` to `offsets[row + 1]` are one row's."""

    ids: NDArray[np.int32]  # (tokens,)
    marks: NDArray[np.int8]  # (tokens,): 0, or which part of the entities the token is
    ranks: NDArray[np.int32]  # (tokens,): if m tokens of a row fit, those of rank below m are kept
    offsets: NDArray[np.int64]  # (rows + 1,)
    pad_id: int
    mask_id: int | None
    unknown_id: int
    special_ids: tuple[int, ...]
    new: NewTokens
    key: str  # the same for the same texts, tokenizer and length

    def lengths(self, rows: Rows, *, max_length: int) -> NDArray[np.int64]:
        """Return the number of tokens of each row, at most max_length."""
        return (self.offsets[rows + 1] - self.offsets[rows]).clip(max=max_length)

    def batch(self, rows: Rows, *, max_length: int) -> Batch:
        """Return `input_ids`, `attention_mask` and `marks`, int64 (rows, longest of them), padded on the right.

        A text that is too long loses the tokens that are farthest from both entities.
        """
        lengths = self.lengths(rows, max_length=max_length)
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        marks = np.zeros_like(ids)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            own = slice(self.offsets[row], self.offsets[row + 1])
            kept = self.ranks[own] < max_length
            ids[number, :length] = self.ids[own][kept]
            marks[number, :length] = self.marks[own][kept]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        arrays = {"input_ids": ids, "attention_mask": mask, "marks": marks}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationInputs:
    """What all fold runs of a study share: the tokens of one form, and the frozen encoder's states of them."""

    tokens: MarkedTokens
    encoder: str
    cache: Path
    device: str

    def states(self, model: ModelParams) -> NDArray[np.float32]:
        """Return what the head sees of all rows where the encoder is frozen; computed once per study. EncoderError."""
        seen = model.entity_states if model.entity_states == "entities" else model.pooling
        key = digest([self.tokens.key, *digest_weights(self.encoder), seen, str(model.max_length)])

        def fill(folder: Path) -> None:
            _frozen_states(folder / "states.npy", self.tokens, model, device=self.device)

        return filled(self.cache / f"relations-{key}", fill)["states"]

    def feed(self, job: FoldJob, *, device: str) -> "RelationFeed":
        """Return what the job's trial sees of the rows; raises EncoderError, DataError."""
        model = job.params.model
        # Attention over the tokens is trained with the head, so there is no single state that could be kept.
        kept = model.trainable_layers == 0 and (model.entity_states == "entities" or model.pooling != "attention")
        return RelationFeed(
            tokens=self.tokens,
            model=model,
            labels=job.labels,
            states=self.states(model) if kept else None,
            augment=augmentation(job, self.tokens, device=device, draw=partial(_draw_replacements, self.tokens)),
        )

    def embeddings(self) -> NDArray[np.float32]:
        """Return the mean-pooled frozen states of every marked text, scaled to length 1."""
        longest = int(np.diff(self.tokens.offsets).max())
        states = self.states(ModelParams(encoder=self.encoder, max_length=max(longest, 4), pooling="mean"))
        norms = np.linalg.norm(states, axis=1, keepdims=True)
        scaled: NDArray[np.float32] = states / np.maximum(norms, 1e-12)
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationFeed:
    """What one trial's model sees of the relations: their tokens, or the frozen encoder's states of them."""

    tokens: MarkedTokens
    model: ModelParams
    labels: NDArray[np.int64] | NDArray[np.float64]
    states: NDArray[np.float32] | None
    augment: Augmentation | None

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the classifier, or its head alone; raises EncoderError if the encoder cannot be used as asked."""
        if self.states is None:
            return RelationClassifier(self.model, new_tokens=self.tokens.new, num_outputs=num_outputs, scale=scale)
        width = self.states.shape[1]
        return HeadOnly(Head(width, dropout=self.model.dropout, num_outputs=num_outputs, scale=scale))

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of tokens of each row."""
        return self.tokens.lengths(rows, max_length=self.model.max_length)

    def batch(self, rows: Rows, *, random: np.random.Generator | None = None) -> Batch:
        """Return `input_ids`, `attention_mask` and `marks`, (rows, tokens), or `states`, (rows, width)."""
        if self.states is not None:
            return {"states": torch.from_numpy(self.states[rows])}
        batch = self.tokens.batch(rows, max_length=self.model.max_length)
        if self.augment is None or random is None:
            return batch
        return self.augment(batch, self.labels[rows], random=random)


def prepare_relations(
    content: Content,
    *,
    encoder: str,
    form: Form,
    max_length: int,
    cache: Path,
    device: str = "cpu",
    cut_words: bool = False,
) -> RelationInputs:
    """Mark and tokenise the rows for `encoder`, or find them in `cache`; `max_length` is the largest of the study's.

    With `cut_words` their words are cut into morphemes first.

    The frozen encoder's states are computed on `device` when they are first asked for. An encoder that was saved with
    marker tokens gets only those that it lacks. Raises EncoderError; DataError as read_relations does, and if the
    tokenizer has no separator for the form `separated`.
    """
    relations = read_relations(content, form=form)
    if cut_words:
        relations = cut_relations(relations, cache=cache)
    tokenizer = load_tokenizer(encoder)
    if form == "separated" and tokenizer.sep_token is None:
        raise DataError(
            f"model.entity_form is separated, but the tokenizer of {encoder!r} has no separating token; "
            "expected another form"
        )
    known = tokenizer.get_added_vocab()
    meanings = new_tokens(entity_types(relations), form=form)
    new = add_tokens(tokenizer, {token: words for token, words in meanings.items() if token not in known})
    texts = [mark(relation, form=form, separator=tokenizer.sep_token or "") for relation in relations]
    tokens = tokenise_marked(texts, tokenizer=tokenizer, new=new, max_length=max_length, cache=cache)
    return RelationInputs(tokens=tokens, encoder=encoder, cache=cache, device=device)


def tokenise_marked(
    texts: Sequence[MarkedText], *, tokenizer: Any, new: NewTokens, max_length: int, cache: Path
) -> MarkedTokens:
    """Return the tokens of all texts, at most max_length of each, from `cache`; made first if they are not there."""
    key = digest([tokenizer.backend_tokenizer.to_str(), str(max_length), *stand_in_key(tokenizer), *map(repr, texts)])
    stand_in = stand_in_for_nothing(tokenizer)

    def compute() -> dict[str, NDArray[Any]]:
        rows = []
        with stage("tokenising rows", total=len(texts)) as advance:
            for start in range(0, len(texts), TEXTS_PER_CALL):
                part = texts[start : start + TEXTS_PER_CALL]
                encoded = tokenizer(
                    [text.text for text in part],
                    truncation=False,
                    return_offsets_mapping=True,
                    return_special_tokens_mask=True,
                    verbose=False,
                )
                fields = (encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"])
                for text, ids, *row in zip(part, *fields, strict=True):
                    of_nothing = ([stand_in], [(0, 0)], [1])
                    rows.append(_row(text, *((ids, *row) if ids else of_nothing), max_length=max_length))
                advance(len(part))
        lengths = [0, *(len(ids) for ids, _, _ in rows)]
        ids, marks, ranks = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
        return {"ids": ids, "marks": marks, "ranks": ranks, "offsets": np.cumsum(lengths, dtype=np.int64)}

    return MarkedTokens(
        **cached(cache / f"relation-tokens-{key}", compute),
        pad_id=tokenizer.pad_token_id or 0,
        mask_id=tokenizer.mask_token_id,
        unknown_id=tokenizer.unk_token_id or 0,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        new=new,
        key=key,
    )


def _row(
    text: MarkedText,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[int],
    *,
    max_length: int,
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int32]]:
    """Return the ids, marks and ranks of the tokens of one text that are kept."""
    starts, ends = np.array(offsets, dtype=np.int64).T
    marks = np.zeros(len(ids), dtype=np.int8)
    for start, end in text.spans:
        marks[(starts < end) & (ends > start)] = ENTITY
    for place, start in ((text.subject, SUBJECT_START), (text.object, OBJECT_START)):
        marks[np.flatnonzero((starts <= place) & (ends > place))[:1]] = start
    ranks = _ranks(marks, np.array(special, dtype=bool))
    kept = ranks < max_length
    return np.array(ids, dtype=np.int32)[kept], marks[kept], ranks[kept]


def _ranks(marks: NDArray[np.int8], special: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return each token's place in the order in which tokens are kept.

    First come the tokens at which the entities begin, then the tokenizer's own, then the others by how near an entity
    they are.
    """
    places, entities = np.arange(len(marks)), np.flatnonzero(marks)
    distances = np.abs(places[:, None] - entities).min(axis=1, initial=len(marks))
    urgency = np.where(marks > ENTITY, -2, np.where(special, -1, distances))
    ranks = np.empty(len(marks), dtype=np.int32)
    ranks[np.argsort(urgency, kind="stable")] = places
    return ranks


@torch.inference_mode()
def _frozen_states(file: Path, tokens: MarkedTokens, model: ModelParams, *, device: str) -> None:
    """Write what the head sees of all rows, (rows, width)."""
    with stage("loading the encoder"):
        classifier = RelationClassifier(model, new_tokens=tokens.new, num_outputs=1).eval()
        torch.nn.Module.to(classifier, device)
    rows = np.arange(len(tokens.offsets) - 1)
    order = np.argsort(tokens.lengths(rows, max_length=model.max_length), kind="stable")
    at_once = RowsAtOnce(rows=rows_per_forward(torch.device(device)), device=torch.device(device))

    def pool(chosen: Rows) -> NDArray[np.float32]:
        batch = {name: tensor.to(device) for name, tensor in tokens.batch(chosen, max_length=model.max_length).items()}
        return classifier.pooled(**batch).cpu().numpy()

    width = pool(order[:1]).shape[1]
    with (
        continued(file, shape=(len(rows), width), dtype=np.float32) as array,
        stage("embedding rows", total=len(order)) as advance,
    ):
        advance(done := array.done)
        for chosen, pooled in at_once.in_parts(order[done:], pool):
            for row, states in zip(chosen, pooled, strict=True):
                array.write(row, states)
            array.note(done := done + len(chosen))
            advance(len(chosen))


def _draw_replacements(
    tokens: MarkedTokens,
    model: MaskedLanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    chosen: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """As draw_replacements, for a model that does not know the new tokens."""
    known = input_ids.masked_fill(input_ids >= tokens.new.first, tokens.unknown_id)
    return torch.where(chosen, draw_replacements(model, known, attention_mask, chosen, generator), input_ids)
