"""Tokens: cached once, cut and padded right, batched by length; and frozen embeddings."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fold_search.models.classifiers import TextClassifier, mean_pool
from fold_search.models.encoders import load_encoder, load_tokenizer
from fold_search.models.params import ModelParams
from fold_search.objectives.tasks.text import TokenisedTexts, bucketed_batches, excerpts, prepare_text, tokenise
from tests.tiny_encoder import TEXTS, build_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(build_tiny_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def tokens(encoder, tmp_path) -> TokenisedTexts:
    return tokenise(["the fox", "", *TEXTS], encoder=encoder, max_length=12, cache=tmp_path)


def test_batch_is_what_the_tokenizer_gives(encoder, tokens):
    """Ids and mask are those of the tokenizer with padding and truncation to the same length."""
    rows = np.array([5, 0, 1])
    texts = [["the fox", "", *TEXTS][row] for row in rows]
    expected = load_tokenizer(encoder)(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    batch = tokens.batch(rows, max_length=12)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_shorter_trial_cuts_before_the_closing_token(encoder, tokens):
    """Tokens cached for 12 and cut to 6 are those that the tokenizer gives for 6."""
    expected = load_tokenizer(encoder)(list(TEXTS), truncation=True, max_length=6)["input_ids"]
    batch = tokens.batch(np.arange(2, 6), max_length=6)
    assert batch["input_ids"].tolist() == expected
    assert tokens.lengths(np.arange(6), max_length=6).tolist() == [4, 2, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("long_text", "kept"),
    [("head", [0, 1, 2, 3, 4]), ("tail", [7, 8, 9, 10, 11]), ("head_tail", [0, 1, 2, 10, 11])],
)
def test_what_of_a_long_text_is_kept(encoder, tmp_path, long_text, kept):
    """Its beginning, its end or half of each, between the special tokens; a short text is read whole."""
    texts = ["the quick brown fox jumps over the lazy dog the fox dog", "the fox"]
    whole = load_tokenizer(encoder)(texts)["input_ids"]
    tokens = tokenise(texts, encoder=encoder, max_length=64, cache=tmp_path)
    batch = tokens.batch(np.arange(2), max_length=7, long_text=long_text)
    text = whole[0][1:-1]
    assert batch["input_ids"].tolist() == [[2, *(text[place] for place in kept), 3], [*whole[1], 0, 0, 0]]
    assert tokens.lengths(np.arange(2), max_length=7, long_text=long_text).tolist() == [7, 4]


@given(num_tokens=st.integers(2, 300), room=st.integers(1, 40), overlap=st.floats(0.0, 0.9))
def test_windows_cover_a_text_and_overlap(num_tokens, room, overlap):
    """Every token is in a window, all windows are full, and neighbours share what they should, or more."""
    if num_tokens <= room:
        return
    windows = excerpts(num_tokens, room, long_text="windows", overlap=overlap)
    assert set(np.concatenate(windows)) == set(range(num_tokens))
    assert {len(window) for window in windows} == {room}
    shared = [len(set(one) & set(other)) for one, other in pairwise(windows)]
    assert min(shared) >= min(int(overlap * room), room - 1)
    starts = np.diff([window[0] for window in windows])
    assert starts.min() >= 1
    assert starts.max() - starts.min() <= 1


def test_windows_are_lines_of_their_own(encoder, tmp_path):
    """Each has the special tokens, and a row's length is that of all its windows."""
    texts = ["the fox", "the quick brown fox jumps over the lazy dog the fox dog", "dog"]
    text = load_tokenizer(encoder)(texts[1])["input_ids"][1:-1]
    tokens = tokenise(texts, encoder=encoder, max_length=64, cache=tmp_path)
    rows = np.array([2, 1])
    batch = tokens.batch(rows, max_length=8, long_text="windows", overlap=0.5)
    assert batch["row_of_window"].tolist() == [0, 1, 1, 1]
    assert batch["input_ids"][1:].tolist() == [[2, *text[start : start + 6], 3] for start in (0, 3, 6)]
    lengths = tokens.lengths(rows, max_length=8, long_text="windows", overlap=0.5)
    assert lengths.tolist() == [3, 24] == [batch["attention_mask"][batch["row_of_window"] == r].sum() for r in (0, 1)]


def test_states_of_windows_are_what_the_whole_model_pools(dataset, inputs, tmp_path):
    """The frozen encoder's pooled states of long texts are averaged over their windows, as in training."""
    whole = prepare_text(dataset, encoder=inputs.encoder, max_length=6, cache=tmp_path, whole=True)
    rows = np.array([9, 19, 3])
    model = ModelParams(encoder=inputs.encoder, max_length=6, long_text="windows")
    batch = whole.tokens.batch(rows, max_length=6, long_text="windows", overlap=0.25)
    assert len(batch["input_ids"]) > len(rows)
    with torch.no_grad():
        expected = TextClassifier(model, num_outputs=3).eval().pooled(**batch)
    found = whole.pooled(pooling="mean", max_length=6, long_text="windows", overlap=0.25)[rows]
    torch.testing.assert_close(torch.tensor(found), expected)
    assert not np.allclose(found, whole.pooled(pooling="mean", max_length=6)[rows], atol=1e-3)


def test_tokens_are_mapped_from_the_cache(encoder, tokens, tmp_path):
    """The second call computes nothing, and no process holds a copy of its own."""
    (cached,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    again = tokenise(["the fox", "", *TEXTS], encoder=encoder, max_length=12, cache=tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == before
    assert isinstance(again.ids, np.memmap)
    assert again.ids.tolist() == tokens.ids.tolist()


def test_other_texts_length_or_vocabulary_are_cached_apart(encoder, tokens, tmp_path):
    """What decides the tokens decides the name."""
    other = str(build_tiny_encoder(tmp_path / "other", ["entirely other words"]))
    tokenise(["the fox"], encoder=encoder, max_length=12, cache=tmp_path / "cache")
    tokenise(["the fox"], encoder=encoder, max_length=11, cache=tmp_path / "cache")
    tokenise(["thefox"], encoder=encoder, max_length=12, cache=tmp_path / "cache")
    tokenise(["the fox"], encoder=other, max_length=12, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_tokens_of_another_process_that_was_first_are_used(encoder, tmp_path, monkeypatch):
    """Of two processes at once one publishes, both get all tokens, and nothing else is left behind."""
    monkeypatch.setattr("fold_search.objectives.tasks.cache.HANGS_SECONDS", 0.5)

    class Overtaken(list):
        def __getitem__(self, index):
            tokenise(list(self), encoder=encoder, max_length=12, cache=tmp_path)
            return super().__getitem__(index)

    tokens = tokenise(Overtaken(TEXTS), encoder=encoder, max_length=12, cache=tmp_path)
    assert len(tokens.offsets) == len(TEXTS) + 1
    assert [path.name for path in tmp_path.iterdir()] == [f"tokens-{tokens.key}"]


def test_interrupted_computation_publishes_nothing(encoder, tmp_path):
    """A cache entry is complete or not there."""

    class Interrupted(list):
        def __getitem__(self, index):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(Interrupted(TEXTS), encoder=encoder, max_length=12, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(encoder):
    """Also for root: the kernel's own folders take none."""
    with pytest.raises(FileNotFoundError) as found:
        tokenise(TEXTS, encoder=encoder, max_length=12, cache=Path("/proc/cache"))
    assert str(found.value.filename).startswith("/proc/cache/tokens-")


def test_embeddings_are_the_frozen_encoders_mean_states(dataset, inputs):
    """Each row's is the mean of its token states, scaled to length 1, whatever it was batched with."""
    embeddings = inputs.embeddings()
    batch = inputs.tokens.batch(np.array([7]), max_length=24)
    with torch.no_grad():
        states = load_encoder(inputs.encoder).eval()(**batch).last_hidden_state
    expected = torch.nn.functional.normalize(mean_pool(states, batch["attention_mask"]), dim=1)
    torch.testing.assert_close(torch.tensor(embeddings[7:8]), expected)
    assert embeddings.shape == (len(dataset.texts), 32)
    assert isinstance(inputs.pooled(pooling="mean", max_length=24), np.memmap)


def test_states_that_are_computed_in_parts_are_the_same(inputs, tmp_path, monkeypatch):
    """However many rows are in memory at once."""
    monkeypatch.setattr("fold_search.objectives.tasks.text.ROWS_PER_PART", 7)
    in_parts = replace(inputs, cache=tmp_path).pooled(pooling="max", max_length=24)
    np.testing.assert_allclose(in_parts, inputs.pooled(pooling="max", max_length=24), atol=1e-6)


def test_new_weights_give_new_embeddings(dataset, tmp_path):
    """A folder whose model was replaced is not answered from the cache."""
    folder = build_tiny_encoder(tmp_path / "encoder")
    before = prepare_text(dataset, encoder=str(folder), max_length=8, cache=tmp_path / "cache").embeddings()
    model = load_encoder(str(folder))
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)
    after = prepare_text(dataset, encoder=str(folder), max_length=8, cache=tmp_path / "cache").embeddings()
    assert not np.allclose(before, after)


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=300).map(np.array),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_batches_hold_every_row_once(lengths, batch_size, seed):
    """All batches but one are full."""
    batches = bucketed_batches(lengths, batch_size=batch_size, random=np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) == (len(lengths) % batch_size > 0)
    assert max(map(len, batches)) <= batch_size


def test_batches_waste_little_padding_and_come_in_random_order():
    """Rows of a batch have similar lengths, and neighbouring batches do not."""
    lengths = np.random.default_rng(0).integers(1, 100, 2000)
    batches = bucketed_batches(lengths, batch_size=16, random=np.random.default_rng(1))
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
