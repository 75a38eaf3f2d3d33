"""Resampling: only training rows, the class counts that the setting promises, and no class emptied unnoticed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.combine import SMOTEENN
from imblearn.over_sampling import SMOTE
from imblearn.under_sampling import EditedNearestNeighbours, NearMiss, TomekLinks
from sklearn.neighbors import NearestNeighbors

from fold_search.objectives.errors import DataError, TrialError
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.sampling import Sample, check_sampler, draw, resample

SAMPLERS = TrainingParams.model_fields["sampler"].annotation.__args__
BLIND = ["none", "random_over", "minority_over", "random_under", "class_balanced_batches"]

labelled_rows = st.lists(st.integers(0, 4), min_size=8, max_size=60).map(np.array)


def run(labels, rows=None, *, seed=0, embeddings=None, **settings) -> Sample:
    if embeddings is None:
        embeddings = np.random.default_rng(0).normal(size=(len(labels), 5)).astype(np.float32)
    rows = np.arange(len(labels)) if rows is None else rows
    return resample(rows, labels, params=TrainingParams(**settings), seed=seed, embeddings=lambda: embeddings)


def counts(labels, sample=None):
    return np.unique(labels if sample is None else labels[sample.rows], return_counts=True)[1].tolist()


def parts(sample):
    return sample.rows.tolist(), sample.partners.tolist(), sample.shares.tolist()


def clouds(*sizes, spread=1.0):
    """Return labels and points of overlapping classes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(1)
    centres = random.normal(size=(len(sizes), 6))
    return labels, (centres[labels] + spread * random.normal(size=(len(labels), 6))).astype(np.float32)


def on_a_line(*positions):
    return np.array(positions, dtype=np.float32)[:, None]


@settings(max_examples=30)
@pytest.mark.parametrize("sampler", SAMPLERS)
@given(labels=labelled_rows, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_only_training_rows_return_and_no_class_is_emptied(sampler, labels, seed, data):
    """A validation row is neither trained on nor mixed in, and every class survives or the trial ends."""
    size = data.draw(st.integers(2, len(labels) - 1))
    rows = np.random.default_rng(seed).permutation(len(labels))[:size]
    settings = {
        "sampler": sampler,
        "sampler_neighbors": data.draw(st.integers(1, 50)),
        "sampler_min_rows": data.draw(st.sampled_from([0, 3, 100])),
        "sampler_ratio": data.draw(st.floats(0.05, 1.0)),
    }
    try:
        sample = run(labels, rows, seed=seed, **settings)
    except TrialError:
        assert sampler in ("tomek_links", "enn", "smote_enn")
        assert settings["sampler_min_rows"] < 100
        return
    assert {*sample.rows.tolist(), *sample.partners.tolist()} <= set(rows.tolist())
    assert set(labels[sample.rows].tolist()) == set(labels[rows].tolist())
    assert (np.diff(sample.rows) >= 0).all()
    assert labels[sample.partners].tolist() == labels[sample.rows].tolist()
    assert ((sample.shares >= 0) & (sample.shares < 1)).all()
    assert not sample.shares[sample.partners == sample.rows].any()
    assert parts(sample) == parts(run(labels, rows, seed=seed, **settings))


@settings(max_examples=30)
@given(labels=labelled_rows, ratio=st.floats(0.05, 1.0), seed=st.integers(0, 1000))
def test_class_counts_are_what_the_setting_promises(labels, ratio, seed):
    """Over: all as large as the largest, or up to a share of it; under: the smallest is that share of what is left."""
    before = np.array(counts(labels))
    grown = np.maximum(before, math.floor(ratio * before.max()))
    cut = np.minimum(before, math.floor(before.min() / ratio))
    promised = {
        "random_over": np.full_like(before, before.max()),
        "minority_over": grown,
        "smote": grown,
        "random_under": cut,
        "near_miss": cut,
        "class_balanced_batches": before,
    }
    for sampler, expected in promised.items():
        sample = run(labels, sampler=sampler, sampler_ratio=ratio, seed=seed)
        assert counts(labels, sample) == expected.tolist()


@settings(max_examples=30)
@given(labels=labelled_rows, ratio=st.floats(0.05, 1.0))
def test_over_sampling_keeps_every_row_and_under_sampling_repeats_none(labels, ratio):
    """Rows are repeated by the one and left out by the other."""
    for sampler in ("minority_over", "smote"):
        over = run(labels, sampler=sampler, sampler_ratio=ratio)
        assert set(over.rows[over.shares == 0].tolist()) == set(range(len(labels)))
    for sampler in ("random_under", "near_miss"):
        under = run(labels, sampler=sampler, sampler_ratio=ratio)
        assert len(set(under.rows.tolist())) == len(under)


@pytest.mark.parametrize("sampler", ["random_over", "minority_over", "random_under", "smote"])
def test_another_seed_chooses_other_rows(sampler):
    """What is repeated, mixed or left out is a matter of the seed."""
    labels = np.repeat([0, 1], [40, 10])
    first, other = (parts(run(labels, sampler=sampler, seed=seed)) for seed in (1, 2))
    assert first != other


@pytest.mark.parametrize("sampler", ["random_under", "near_miss"])
def test_a_class_below_min_rows_does_not_set_the_size_of_the_others(sampler):
    """The one row of a class stays, and the others are cut to the smallest class that counts."""
    labels, points = clouds(30, 8, 1)
    sample = run(labels, embeddings=points, sampler=sampler, sampler_ratio=1.0, sampler_min_rows=2)
    assert counts(labels, sample) == [8, 8, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_by_min_rows_alone_takes_nothing(sampler):
    """Where every class is below sampler_min_rows, no sampler takes a row away."""
    labels, points = clouds(9, 5, 2, spread=5.0)
    sample = run(labels, embeddings=points, sampler=sampler, sampler_min_rows=10)
    if sampler not in ("random_under", "near_miss", "tomek_links", "enn"):
        assert set(sample.rows.tolist()) == set(range(16))
    else:
        assert sample.rows.tolist() == list(range(16))


@pytest.mark.parametrize(
    ("sampler", "reference"),
    [
        ("near_miss", NearMiss(version=1, n_neighbors=3)),
        ("tomek_links", TomekLinks(sampling_strategy="majority")),
        ("enn", EditedNearestNeighbours(n_neighbors=3, kind_sel="mode")),
    ],
)
def test_cleaning_keeps_what_imbalanced_learn_keeps(sampler, reference):
    """On overlapping classes, given in no order and among other rows, the library keeps the same training rows."""
    labels, points = clouds(60, 25, 12)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = np.sort(order[:70])
    reference.fit_resample(points[rows], labels[rows])
    sample = run(labels, rows, embeddings=points, sampler=sampler, sampler_ratio=1.0)
    assert sample.rows.tolist() == sorted(rows[reference.sample_indices_].tolist())
    assert len(sample) < len(rows)


def test_a_tomek_link_costs_the_largest_class_only():
    """Rows 2 and 3 are a link with the largest class, rows 5 and 6 one between two small ones."""
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    sample = run(labels, embeddings=on_a_line(0, 1, 3, 3.5, 9, 20, 20.5, 30), sampler="tomek_links")
    assert sample.rows.tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_enn_removes_rows_among_strangers():
    """A row of the large class in the middle of the small one goes; all others have their like around them."""
    labels = np.repeat([0, 1], [7, 5])
    points = on_a_line(0, 1, 2, 3, 4, 5, 100.5, 99, 100, 101, 102, 103)
    assert run(labels, embeddings=points, sampler="enn").rows.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_a_sampler_that_empties_a_class_ends_the_trial():
    """Two rows among strangers: the error names class, sampler and the way out, and that way leads out."""
    labels = np.array([0] * 6 + [1, 1] + [2])
    points = on_a_line(0, 1, 2, 3, 4, 5, 1.5, 3.5, 50)
    expected = r"training\.sampler enn removes all training rows \(2\) of class 1; .*sampler_min_rows: 3 "
    with pytest.raises(TrialError, match=expected):
        run(labels, embeddings=points, sampler="enn")
    assert {6, 7} <= set(run(labels, embeddings=points, sampler="enn", sampler_min_rows=3).rows.tolist())


@settings(max_examples=25)
@given(sizes=st.tuples(st.integers(12, 30), st.integers(7, 11), st.integers(7, 11)), seed=st.integers(0, 1000))
def test_a_smote_row_is_the_interpolation_that_imbalanced_learn_makes(sizes, seed):
    """The mix of its two rows in the recorded share is the library's synthetic point, one for one."""
    labels, points = clouds(*sizes)
    sample = run(labels, embeddings=points, seed=seed, sampler="smote", sampler_ratio=1.0, sampler_neighbors=4)
    reference = SMOTE(k_neighbors=4, random_state=np.random.RandomState(seed))
    expected, expected_labels = reference.fit_resample(points, labels)
    share = sample.shares[:, None].astype(np.float64)
    mixed = (1 - share) * points[sample.rows] + share * points[sample.partners]
    distances, nearest = NearestNeighbors(n_neighbors=1).fit(mixed).kneighbors(expected)
    assert distances.max() < 1e-5
    assert sorted(nearest[:, 0].tolist()) == list(range(len(sample)))
    assert labels[sample.rows[nearest[:, 0]]].tolist() == expected_labels.tolist()


def test_a_smote_partner_is_one_of_the_nearest_of_its_class():
    """With two neighbours asked for, no row is mixed with the third nearest."""
    labels, points = clouds(40, 10)
    sample = run(labels, embeddings=points, sampler="smote", sampler_ratio=1.0, sampler_neighbors=2)
    mixed = sample.shares > 0
    assert mixed.sum() == 30
    for row, partner in zip(sample.rows[mixed], sample.partners[mixed], strict=True):
        distances = np.linalg.norm(points[40:] - points[row], axis=1)
        assert partner - 40 in np.argsort(distances)[1:3]


def test_smote_repeats_a_single_row_and_mixes_two():
    """A class of one row has nothing to be mixed with; one of two has one neighbour, however many are asked for."""
    labels, points = clouds(9, 2, 1)
    sample = run(labels, embeddings=points, sampler="smote", sampler_ratio=1.0, sampler_neighbors=5)
    assert counts(labels, sample) == [9, 9, 9]
    single = labels[sample.rows] == 2
    assert sample.partners[single].tolist() == [11] * 9
    assert not sample.shares[single].any()
    pair = (labels[sample.rows] == 1) & (sample.shares > 0)
    assert pair.sum() == 7
    assert (sample.rows[pair] + sample.partners[pair]).tolist() == [9 + 10] * 7


def test_smote_enn_keeps_what_imbalanced_learn_keeps():
    """Editing looks at real and synthetic points together, and as many of each class are left as in the library."""
    labels, points = clouds(60, 20, 10, spread=1.5)
    smote = SMOTE(k_neighbors=3, random_state=np.random.RandomState(5))
    enn = EditedNearestNeighbours(n_neighbors=3, kind_sel="mode", sampling_strategy="all")
    # SMOTEENN clones its parts, and with them the random state.
    _, expected = SMOTEENN(smote=smote, enn=enn).fit_resample(points, labels)
    sample = run(labels, embeddings=points, seed=5, sampler="smote_enn", sampler_ratio=1.0)
    assert counts(labels, sample) == counts(expected)
    assert 0 < np.sum(sample.shares > 0) < 90


def test_embeddings_are_computed_only_where_neighbours_are_looked_for():
    """The other samplers do not wait for the frozen encoder."""

    def embeddings():
        raise LookupError

    for sampler in SAMPLERS:
        run_blind = (np.arange(4), np.array([0, 0, 0, 1]))
        params = TrainingParams(sampler=sampler)
        if sampler in BLIND:
            assert len(resample(*run_blind, params=params, seed=0, embeddings=embeddings)) >= 2
        else:
            with pytest.raises(LookupError):
                resample(*run_blind, params=params, seed=0, embeddings=embeddings)


def test_embeddings_may_be_a_memory_map(tmp_path):
    """What lies on the disk gives the same sample as what lies in memory."""
    labels, points = clouds(30, 10)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    first, other = (run(labels, embeddings=each, sampler="smote_enn") for each in (points, mapped))
    assert parts(first) == parts(other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_of_a_single_class_stay_as_they_are(sampler):
    """A fold whose training part has one class only has nothing to balance."""
    assert parts(run(np.array([1, 1, 1, 0]), np.arange(3), sampler=sampler)) == ([0, 1, 2], [0, 1, 2], [0, 0, 0])


@given(labels=labelled_rows, seed=st.integers(0, 2**32 - 1), epoch=st.integers(1, 1000))
def test_a_draw_has_each_class_as_often_and_no_row_twice_before_the_others_once(labels, seed, epoch):
    """As many rows as before; the classes, and within a class its rows, differ by one at most."""
    params = TrainingParams(sampler="class_balanced_batches")
    sample = run(labels, np.arange(1, len(labels)), sampler="class_balanced_batches")
    drawn = draw(sample, labels, params=params, seed=seed, epoch=epoch)
    assert len(drawn) == len(sample)
    assert set(drawn.rows.tolist()) <= set(sample.rows.tolist())
    classes = np.unique(labels[sample.rows])
    assert np.ptp(np.bincount(labels[drawn.rows])[classes]) <= 1
    for label in classes:
        members = sample.rows[labels[sample.rows] == label]
        assert np.ptp([np.sum(drawn.rows == row) for row in members]) <= 1
    assert parts(drawn) == parts(draw(sample, labels, params=params, seed=seed, epoch=epoch))


def test_every_epoch_draws_anew_and_all_rows_get_their_turn():
    """Over a few epochs every row of the large class is drawn; other samplers give every epoch the same sample."""
    labels = np.repeat([0, 1], [30, 3])
    params = TrainingParams(sampler="class_balanced_batches")
    sample = run(labels, sampler="class_balanced_batches")
    epochs = [draw(sample, labels, params=params, seed=0, epoch=epoch).rows.tolist() for epoch in range(1, 13)]
    assert len({tuple(rows) for rows in epochs}) == 12
    assert {row for rows in epochs for row in rows} == set(range(33))
    assert draw(sample, labels, params=TrainingParams(sampler="random_over"), seed=0, epoch=1) is sample


@pytest.mark.parametrize("sampler", ["enn", "smote_enn"])
def test_too_few_rows_for_the_neighbours_are_refused_before_training(sampler):
    """The rarest label of the first fold in question is named, and what the message proposes is accepted."""
    labels, points = clouds(12, 6, 3, 1, spread=0.1)
    folds = np.array([0, 1, 2] * 6 + [0, 1, -1, 2], dtype=np.int16)  # label 3 is all in fold 2, one row of 2 is extra
    names = ("much", "some", "few", "one")
    expected = (
        rf"^training\.sampler {sampler} with 3 neighbours: found 1 training rows in fold 0 of 2 labels, "
        r"the rarest 'one', expected 4 or more; training\.sampler_min_rows: 4 keeps"
    )
    with pytest.raises(DataError, match=expected):
        check_sampler(TrainingParams(sampler=sampler), labels=labels, assignments=folds, label_names=names)
    settled = TrainingParams(sampler=sampler, sampler_min_rows=4)
    check_sampler(settled, labels=labels, assignments=folds, label_names=names)
    for fold in range(3):
        rows = np.flatnonzero(folds != fold)
        sample = run(labels, rows, embeddings=points, sampler=sampler, sampler_min_rows=4)
        assert set(labels[sample.rows].tolist()) == set(labels[rows].tolist())


def test_the_fold_with_too_few_rows_is_named():
    """Five rows are enough where all are trained on, and too few in the fold that holds two of them out."""
    labels = np.repeat([0, 1], [8, 5])
    folds = np.array([0, 1] * 4 + [1, 1, -1, -1, -1], dtype=np.int16)
    with pytest.raises(DataError, match=r"found 3 training rows in fold 1 of label 'b', expected 4"):
        check_sampler(TrainingParams(sampler="enn"), labels=labels, assignments=folds, label_names=["a", "b"])
    check_sampler(
        TrainingParams(sampler="enn", sampler_neighbors=2), labels=labels, assignments=folds, label_names=["a", "b"]
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("enn", "smote_enn")])
def test_other_samplers_take_classes_of_any_size(sampler):
    """One row of a class is enough for all that do not vote among neighbours, in the check and in the sampling."""
    labels, points = clouds(20, 9, 1, spread=0.1)
    folds = np.array([0, 1] * 15, dtype=np.int16)
    check_sampler(TrainingParams(sampler=sampler), labels=labels, assignments=folds, label_names=["a", "b", "c"])
    assert 29 in run(labels, embeddings=points, sampler=sampler).rows


def test_many_classes_of_few_rows():
    """Fifty-two classes, the rarest with one row, as in r52: every sampler keeps them all."""
    labels, points = clouds(300, *np.geomspace(150, 1, 51).astype(int).tolist(), spread=0.2)
    for sampler in SAMPLERS:
        sample = run(labels, embeddings=points, sampler=sampler, sampler_ratio=0.1, sampler_min_rows=20)
        assert len(counts(labels, sample)) == 52
