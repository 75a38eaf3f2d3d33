"""Augmentation: as often as it says, never on special tokens, and the same for the same random state."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from fold_search.models.masked_language import draw_replacements, load_masked_language_model
from fold_search.objectives.errors import DataError
from fold_search.objectives.params import AugmentationParams
from fold_search.objectives.tasks.augmentation import Augmentation, strengths

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL = (PAD, 1, CLS, SEP, MASK)


def batch_of(lengths) -> dict[str, torch.Tensor]:
    """Return rows of so many ordinary tokens between [CLS] and [SEP]; no two of a row are the same."""
    width = max(lengths) + 2
    ids = np.full((len(lengths), width), PAD)
    for line, length in zip(ids, lengths, strict=True):
        line[: length + 2] = [CLS, *range(5, 5 + length), SEP]
    ids = torch.from_numpy(ids)
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None] + 2).long()}


def augmentation(*, counts=(1,), mask_id=MASK, replace=None, **params) -> Augmentation:
    return Augmentation(
        AugmentationParams(**params),
        counts=None if counts is None else np.array(counts),
        special=SPECIAL,
        pad_id=PAD,
        mask_id=mask_id,
        replace=replace,
    )


def augment(batch, labels=None, seed=0, **settings) -> dict[str, torch.Tensor]:
    labels = np.zeros(len(batch["input_ids"]), np.int64) if labels is None else labels
    return augmentation(**settings)(batch, labels, random=np.random.default_rng(seed))


def rows_of(batch) -> list[list[int]]:
    """Return the tokens of each row without its padding, which must be on the right."""
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert torch.equal(batch["attention_mask"], (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long())
    assert (batch["input_ids"][batch["attention_mask"] == 0] == PAD).all()
    return [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]


def share_of(changed, total, probability) -> None:
    """Fail if `changed` of `total` is further from the probability than five standard deviations."""
    assert abs(changed / total - probability) < 5 * np.sqrt(probability * (1 - probability) / total)


def mark(ids, mask, chosen, generator):
    """Replace by a token that no batch has."""
    return ids.masked_fill(chosen, 999)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    probabilities=st.tuples(*[st.sampled_from([0.0, 0.1, 0.9])] * 4),
    seed=st.integers(0, 1000),
)
def test_special_tokens_stay_and_a_row_keeps_a_token(lengths, probabilities, seed):
    """Rows begin and end as before, closed up and padded right; what is left is theirs, a mask, or a replacement."""
    names = ("token_deletion", "token_swap", "token_masking", "token_replacement")
    batch = batch_of(lengths)
    before = batch["input_ids"].clone()
    changed = augment(batch, seed=seed, replace=mark, **dict(zip(names, probabilities, strict=True)))
    for row, length in zip(rows_of(changed), lengths, strict=True):
        inner = row[1:-1]
        kept = [token for token in inner if token not in (MASK, 999)]
        assert (row[0], row[-1]) == (CLS, SEP)
        assert min(length, 1) <= len(inner) <= length
        assert set(kept) <= set(range(5, 5 + length))
        assert len(kept) == len(set(kept))
    assert torch.equal(batch["input_ids"], before)


def test_without_any_probability_nothing_changes():
    """Neither tokens nor mask nor random state."""
    batch, random = batch_of([4, 0, 7]), np.random.default_rng(3)
    changed = augmentation(minority_augmentation=4.0)(batch, np.zeros(3, np.int64), random=random)
    assert all(torch.equal(changed[name], batch[name]) for name in batch)
    assert random.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("probability", [0.05, 0.4, 0.9])
def test_deletion_is_as_frequent_as_said_and_closes_up(probability):
    """The tokens that stay keep their order, and the batch is as wide as its longest row."""
    rows = rows_of(augment(batch_of([60] * 1000), token_deletion=probability))
    share_of(60_000 - sum(len(row) - 2 for row in rows), 60_000, probability)
    assert all(row[1:-1] == sorted(row[1:-1]) for row in rows)


def test_the_only_token_that_stays_is_any_of_them():
    """A row whose tokens were all to go keeps one, the first as often as the last."""
    rows = rows_of(augment(batch_of([2] * 20_000), token_deletion=0.9))
    assert {len(row) for row in rows} == {3, 4}
    share_of(sum(len(row) == 4 for row in rows), 20_000, 0.1**2)
    alone = [row[1] for row in rows if len(row) == 3]
    share_of(alone.count(5), len(alone), 0.5)


@pytest.mark.parametrize("length", [2, 7, 40])
@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_each_token_changes_places_as_often_as_said(length, probability):
    """Every place alike, also in rows of an odd number; no token is lost."""
    num_rows = 120_000 // length
    changed = augment(batch_of([length] * num_rows), token_swap=probability)
    inner = changed["input_ids"][:, 1:-1]
    assert (inner.sort(dim=1).values == torch.arange(5, 5 + length)).all()
    moved = (inner != torch.arange(5, 5 + length)).numpy()
    for share in moved.mean(axis=0):
        assert abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / num_rows)


def test_swapped_tokens_go_to_any_other_place():
    """The partner of the first of five tokens is each of the others as often."""
    places = augment(batch_of([5] * 30_000), token_swap=0.5)["input_ids"][:, 1].numpy()
    moved = places[places != 5]
    for token in (6, 7, 8, 9):
        share_of((moved == token).sum(), len(moved), 0.25)


def test_masking_and_replacement_are_as_frequent_as_said():
    """Replacement takes its share of the tokens that are not masked."""
    tokens = augment(batch_of([100] * 1000), token_masking=0.15, token_replacement=0.3, replace=mark)["input_ids"]
    num_masked = int((tokens == MASK).sum())
    share_of(num_masked, 100_000, 0.15)
    share_of(int((tokens == 999).sum()), 100_000 - num_masked, 0.3)


def test_same_random_state_gives_the_same_tokens():
    """Every draw comes from the generator given, that of the replacements, too."""
    settings = {"token_deletion": 0.2, "token_swap": 0.2, "token_masking": 0.2, "token_replacement": 0.2}

    def redraw(ids, mask, chosen, generator):
        return torch.where(chosen, torch.randint(1000, 2000, ids.shape, generator=generator), ids)

    batch = batch_of([30] * 20)
    first, again, other = (augment(batch, seed=seed, replace=redraw, **settings) for seed in (1, 1, 2))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert rows_of(first) != rows_of(other)


def test_strengths_are_linear_in_the_logarithm_of_the_rows():
    """A class of 10 rows lies half way between those of 1 and 100; one without rows counts as the smallest."""
    np.testing.assert_allclose(strengths(np.array([100, 10, 1, 0]), 4.0), [1.0, 2.5, 4.0, 4.0])
    np.testing.assert_allclose(strengths(np.array([1000, 10, 0]), 3.0), [1.0, 3.0, 3.0])


def test_strengths_of_equal_classes_are_1():
    """None of them is the minority, and absent classes do no harm."""
    assert strengths(np.array([7, 7]), 4.0).tolist() == [1.0, 1.0]
    assert np.isfinite(strengths(np.array([7, 0]), 4.0)).all()


def test_minority_rows_are_changed_more_often_up_to_nine_tenths():
    """Factor 1 for 100 rows, 2.5 for 10, and 4 for 1, where 0.4 would become 1.6."""
    labels = np.repeat([0, 1, 2], 500)
    settings = {"counts": (100, 10, 1), "minority_augmentation": 4.0}
    for probability, expected in ((0.1, (0.1, 0.25, 0.4)), (0.4, (0.4, 0.9, 0.9))):
        tokens = augment(batch_of([100] * 1500), labels, token_masking=probability, **settings)["input_ids"]
        for label, share in enumerate(expected):
            share_of(int((tokens[labels == label] == MASK).sum()), 50_000, share)


def test_numeric_labels_have_no_minority():
    """Every row has the probability as it is."""
    tokens = augment(
        batch_of([100] * 500), np.linspace(-1, 1, 500), counts=None, token_masking=0.1, minority_augmentation=4.0
    )["input_ids"]
    share_of(int((tokens == MASK).sum()), 50_000, 0.1)


def test_masking_without_a_mask_token_is_refused():
    """The message names the setting."""
    with pytest.raises(DataError, match=r"training\.token_masking is 0\.1, but the encoder's tokenizer has no mask"):
        augmentation(token_masking=0.1, mask_id=None)
    augmentation(token_masking=0.0, mask_id=None)


def test_an_encoders_own_head_replaces_tokens(dataset, inputs, tmp_path):
    """With a real head on real tokens, only ordinary ones change, into ordinary ones."""
    folder = shutil.copytree(inputs.encoder, tmp_path / "encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    model = load_masked_language_model(str(folder))
    tokens = inputs.tokens
    augmentation = Augmentation(
        AugmentationParams(token_replacement=0.3),
        counts=np.bincount(dataset.labels),
        special=tokens.special_ids,
        pad_id=tokens.pad_id,
        mask_id=tokens.mask_id,
        replace=partial(draw_replacements, model),
    )
    rows = np.arange(len(dataset.texts))
    batch = tokens.batch(rows, max_length=24)
    changed = augmentation(batch, dataset.labels, random=np.random.default_rng(0))
    again = augmentation(batch, dataset.labels, random=np.random.default_rng(0))
    differs = changed["input_ids"] != batch["input_ids"]
    special = torch.isin(batch["input_ids"], torch.tensor(tokens.special_ids))
    assert torch.equal(changed["input_ids"], again["input_ids"])
    assert torch.equal(changed["attention_mask"], batch["attention_mask"])
    assert not differs[special].any()
    assert not torch.isin(changed["input_ids"][differs], torch.tensor(tokens.special_ids)).any()
    assert 0.2 < differs[~special].float().mean() < 0.4
