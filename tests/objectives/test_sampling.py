"""Resampling: only training rows, the class counts that the setting promises, and no class emptied."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.params import TrainingParams
from objectives.sampling import resample

SAMPLERS = ["none", "random_over", "minority_over", "random_under", "enn"]

labelled_rows = st.lists(st.integers(0, 4), min_size=8, max_size=60).map(np.array)


def run(labels, rows, *, seed=0, embeddings=None, **settings):
    if embeddings is None:
        embeddings = np.random.default_rng(0).normal(size=(len(labels), 5)).astype(np.float32)
    params = TrainingParams(**settings)
    return resample(rows, labels, params=params, seed=seed, embeddings=lambda: embeddings)


@given(labels=labelled_rows, sampler=st.sampled_from(SAMPLERS), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_only_training_rows_return_and_no_class_is_emptied(labels, sampler, seed, data):
    """A validation row never gets into training, and every class that was there still is."""
    size = data.draw(st.integers(2, len(labels) - 1))
    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:size])
    settings = {"sampler": sampler, "seed": seed, "enn_neighbors": data.draw(st.integers(1, 50))}
    chosen = run(labels, rows, **settings)
    assert set(chosen.tolist()) <= set(rows.tolist())
    assert set(labels[chosen].tolist()) == set(labels[rows].tolist())
    assert chosen.tolist() == run(labels, rows, **settings).tolist()


@given(labels=labelled_rows, ratio=st.floats(0.05, 1.0), seed=st.integers(0, 1000))
def test_class_counts_are_what_the_setting_promises(labels, ratio, seed):
    """Over: all as large as the largest, or up to a share of it; under: the smallest is that share of what is left."""
    rows = np.arange(len(labels))
    _, counts = np.unique(labels, return_counts=True)
    promised = {
        "random_over": np.full_like(counts, counts.max()),
        "minority_over": np.maximum(counts, math.floor(ratio * counts.max())),
        "random_under": np.minimum(counts, math.floor(counts.min() / ratio)),
    }
    for sampler, expected in promised.items():
        chosen = run(labels, rows, sampler=sampler, sampler_ratio=ratio, seed=seed)
        assert np.unique(labels[chosen], return_counts=True)[1].tolist() == expected.tolist()


@given(labels=labelled_rows, ratio=st.floats(0.05, 1.0))
def test_over_sampling_keeps_every_row_and_under_sampling_repeats_none(labels, ratio):
    """Rows are repeated by the one and left out by the other."""
    rows = np.arange(len(labels))
    over = run(labels, rows, sampler="minority_over", sampler_ratio=ratio)
    under = run(labels, rows, sampler="random_under", sampler_ratio=ratio)
    assert set(over.tolist()) == set(rows.tolist())
    assert len(set(under.tolist())) == len(under)


@pytest.mark.parametrize("sampler", ["random_over", "minority_over", "random_under"])
def test_another_seed_chooses_other_rows(sampler):
    """What is repeated or left out is a matter of the seed."""
    labels = np.repeat([0, 1], [40, 10])
    first, again, other = (run(labels, np.arange(50), sampler=sampler, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_enn_removes_rows_among_strangers():
    """A row of the large class in the middle of the small one goes; all others have their like around them."""
    labels = np.repeat([0, 1], [7, 5])
    positions = np.array([[x, 0.0] for x in (0, 1, 2, 3, 4, 5, 100.5, 99, 100, 101, 102, 103)], dtype=np.float32)
    chosen = run(labels, np.arange(12), sampler="enn", enn_neighbors=3, embeddings=positions)
    assert chosen.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_enn_keeps_all_rows_of_a_class_that_it_would_empty():
    """Two rows of a class with nothing but strangers around them stay, both."""
    labels = np.array([0] * 6 + [1, 1] + [2])
    positions = np.array([[x] for x in (0, 1, 2, 3, 4, 5, 1.5, 3.5, 50)], dtype=np.float32)
    chosen = run(labels, np.arange(9), sampler="enn", enn_neighbors=3, embeddings=positions)
    assert {6, 7} <= set(chosen.tolist())


def test_embeddings_are_computed_for_enn_only():
    """The other samplers do not wait for the frozen encoder."""

    def embeddings():
        raise AssertionError("not needed")

    for sampler in SAMPLERS[:-1]:
        params = TrainingParams(sampler=sampler)
        assert len(resample(np.arange(4), np.array([0, 0, 0, 1]), params=params, seed=0, embeddings=embeddings)) >= 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_of_a_single_class_stay_as_they_are(sampler):
    """A fold whose training part has one class only has nothing to balance."""
    assert run(np.array([1, 1, 1, 0]), np.arange(3), sampler=sampler).tolist() == [0, 1, 2]
