"""Folds: complete, stratified, duplicates together, the same for the same seed."""

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fold_search.objectives.data.folds import EXTRA, assign_folds, fingerprint_folds, small_classes, split
from fold_search.objectives.errors import DataError


def folds_of(labels, groups=None, *, num_folds=3, seed=0, stratified=True):
    groups = np.arange(len(labels)) if groups is None else groups
    return assign_folds(np.asarray(labels), np.asarray(groups), num_folds=num_folds, seed=seed, stratified=stratified)


@given(
    classes=st.lists(st.integers(0, 3), min_size=12, max_size=60),
    duplicates=st.lists(st.integers(0, 50), max_size=20),
    seed=st.integers(0, 2**32 - 1),
    stratified=st.booleans(),
)
def test_folds_are_complete_and_never_split_a_group(classes, duplicates, seed, stratified):
    """Every row has a fold, every fold rows, every group one fold, and every class is spread as evenly as it can be."""
    labels = np.array(classes)
    groups = np.arange(len(labels))
    for row in duplicates:
        groups[row % len(labels)] = groups[row % 7]
    folds = folds_of(labels, groups, num_folds=2, seed=seed, stratified=stratified)
    assert sorted(set(folds.tolist())) == [0, 1]
    assert all(len(set(folds[groups == group])) == 1 for group in groups)


@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_stratified_folds_hold_each_class_evenly(counts, seed):
    """Of a class, no two folds differ by more than one row: a small class is in as many folds as it has rows."""
    labels = np.repeat(np.arange(len(counts) + 1), [*counts, 8])
    folds = folds_of(labels, num_folds=4, seed=seed)
    table = np.array([np.bincount(folds[labels == label], minlength=4) for label in np.unique(labels)])
    assert (table.max(axis=1) - table.min(axis=1)).max() <= 1


def test_same_seed_same_folds_other_seed_other_folds():
    """The manifest is a function of the data and the seed."""
    labels = np.arange(60) % 3
    first, again, other = (fingerprint_folds(folds_of(labels, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_group_counts_for_its_commonest_class():
    """Three duplicates, two of them of class 0, are one row of class 0."""
    labels, groups = np.array([0, 0, 1, 1, 1, 2]), np.array([7, 7, 7, 3, 4, 5])
    with pytest.raises(DataError, match="the largest class has 2 rows"):
        assign_folds(labels, groups, num_folds=3, seed=0, stratified=True)


def test_small_classes_have_fewer_groups_than_folds():
    """Duplicates do not make a class larger."""
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 3, 3])
    assert small_classes(labels, groups, 3) == [1]
    assert small_classes(labels, groups, 1) == []


def test_a_class_that_is_nowhere_the_commonest_is_not_therefore_small():
    """Three documents have a marked sentence each, and two folds have rows of both classes."""
    labels, groups = np.array([0, 0, 1] * 3), np.repeat([0, 1, 2], 3)
    assert small_classes(labels, groups, 3) == []
    assert small_classes(labels, groups, 4) == [0, 1]


def test_more_folds_than_rows_of_any_class_are_refused():
    """Such a study cannot be stratified."""
    with pytest.raises(DataError, match="4 folds are too many: the largest class has 3 rows that are no duplicates"):
        folds_of([0, 0, 0, 1, 1], num_folds=4)
    with pytest.raises(DataError, match="6 folds are too many: there are 5 rows that are no duplicates"):
        folds_of([0, 0, 0, 1, 1], num_folds=6, stratified=False)


def test_a_hundred_thousand_rows_take_a_moment():
    """The demo's largest set must not make anyone wait: nothing is called for each row."""
    random = np.random.default_rng(0)
    labels, groups = random.zipf(1.5, 100_000).clip(max=50) - 1, random.integers(0, 80_000, 100_000)
    folds_of(labels[:1000], num_folds=5)  # what the libraries load at their first call is not counted
    calls: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    folds = folds_of(labels, groups, num_folds=5)
    sys.setprofile(None)
    assert calls.total() < len(labels) / 10
    assert np.bincount(folds) == pytest.approx(np.full(5, 20_000), rel=0.05)


def test_split_leaves_out_extra_rows_that_repeat_a_validation_text():
    """Row 4 repeats row 0 and row 5 repeats row 1: each is left out of the fold that validates the other."""
    assignments, groups = np.array([0, 1, 1, 0, EXTRA, EXTRA, EXTRA], np.int16), np.array([7, 8, 9, 6, 7, 8, 5])
    training, validation = split(assignments, groups, 0)
    assert (training.tolist(), validation.tolist()) == ([1, 2, 5, 6], [0, 3])
    training, validation = split(assignments, groups, 1)
    assert (training.tolist(), validation.tolist()) == ([0, 3, 4, 6], [1, 2])


@given(
    classes=st.lists(st.integers(0, 2), min_size=12, max_size=40),
    extra=st.lists(st.integers(0, 60), max_size=20),
    seed=st.integers(0, 100),
)
def test_no_text_is_on_both_sides_of_a_split(classes, extra, seed):
    """Every other row is, but for the extra ones that say the same as a validation row."""
    groups = np.array([row % 11 for row in range(len(classes))] + extra)
    folds = folds_of(classes, groups[: len(classes)], num_folds=2, seed=seed, stratified=False)
    assignments = np.concatenate([folds, np.full(len(extra), EXTRA, np.int16)])
    for fold in (0, 1):
        training, validation = split(assignments, groups, fold)
        left_out = set(range(len(groups))) - set(training) - set(validation)
        assert not set(groups[training]) & set(groups[validation])
        assert set(validation) == set(np.flatnonzero(folds == fold))
        assert all(row >= len(classes) and groups[row] in groups[validation] for row in left_out)
