"""The leak proof: it counts what was trained on, finds a planted validation row, and survives being stored."""

import hashlib
import json

import numpy as np
import pytest

from fold_search.objectives.data.same_text import group_texts
from fold_search.objectives.errors import DataError
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.leaks import LeakProof, prove
from fold_search.objectives.training.sampling import Sample, resample

LABELS = np.repeat([0, 1, 3], [12, 6, 2])
VALIDATION = np.array([0, 5, 12, 17])
TRAINING = np.setdiff1d(np.arange(20), VALIDATION)


def sampled(**settings) -> Sample:
    points = np.random.default_rng(3).normal(size=(20, 4)).astype(np.float32)
    params = TrainingParams(**settings)
    return resample(TRAINING, LABELS, params=params, seed=0, embeddings=lambda: points)


def proof_of(sample, *, training_rows=TRAINING, together=None) -> LeakProof:
    return prove(
        sample,
        training_rows=training_rows,
        validation_rows=VALIDATION,
        counts=lambda rows: np.bincount(LABELS[rows], minlength=4),
        together=together,
    )


def test_counts_before_and_after():
    """SMOTE up to the largest class: ten rows of each class that there is, the absent one stays absent."""
    proof = proof_of(sampled(sampler="smote", sampler_ratio=1.0))
    assert proof.rows_in.tolist() == TRAINING.tolist()
    assert proof.rows_out.tolist() == TRAINING.tolist()
    assert proof.counts_before.tolist() == [10, 4, 0, 2]
    assert proof.counts_after.tolist() == [10, 10, 0, 10]
    assert proof.num_synthetic == 6 + 8
    assert proof.num_validation_rows_used == 0


def test_rows_that_are_left_out_are_not_among_those_that_come_out():
    """Under-sampling to the smallest class leaves two rows of each."""
    sample = sampled(sampler="random_under", sampler_ratio=1.0)
    proof = proof_of(sample)
    assert proof.rows_out.tolist() == sample.rows.tolist()
    assert proof.counts_after.tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("part", ["rows", "partners"])
def test_a_planted_validation_row_is_counted(part):
    """Whether it is trained on itself or mixed into another row."""
    sample = sampled(sampler="smote", sampler_ratio=1.0)
    planted = {name: getattr(sample, name).copy() for name in ("rows", "partners", "shares")}
    planted[part][-2:] = VALIDATION[-2:]
    proof = proof_of(Sample(**planted))
    assert proof.num_validation_rows_used == 2
    assert set(VALIDATION[-2:].tolist()) <= set(proof.rows_out.tolist())


def test_a_validation_row_that_only_went_in_is_counted():
    """A sampler that saw a held-out row has used it, even if it chose others."""
    proof = proof_of(sampled(sampler="none"), training_rows=np.append(TRAINING, VALIDATION[0]))
    assert proof.num_validation_rows_used == 1


@pytest.mark.parametrize("settings", [{"sampler": "none"}, {"sampler": "smote", "sampler_ratio": 1.0}])
def test_a_validation_text_that_another_row_has_is_counted(settings):
    """No row is in both parts, and folds that take one text for two leak all the same."""
    texts = [f"text {row}" for row in range(20)]
    assert proof_of(sampled(**settings), together=group_texts(texts)).num_validation_rows_used == 0
    texts[VALIDATION[0]], texts[TRAINING[0]] = "M\u00fcll", "MU\u0308\u00adLL"
    texts[VALIDATION[1]], texts[VALIDATION[2]] = "both", "BOTH\u200b"
    assert proof_of(sampled(**settings), together=group_texts(texts)).num_validation_rows_used == 1
    texts[TRAINING[-1]] = "\uff42\uff4f\uff54\uff48"
    assert proof_of(sampled(**settings), together=group_texts(texts)).num_validation_rows_used == 3


def test_the_proof_comes_back_from_its_bytes():
    """All fields, with their types, and the same bytes again."""
    proof = proof_of(sampled(sampler="smote"))
    again = LeakProof.from_bytes(proof.to_bytes())
    assert again.summary() == proof.summary()
    assert again.rows_out.tolist() == proof.rows_out.tolist()
    assert again.rows_in.dtype == np.int64
    assert again.to_bytes() == proof.to_bytes()


def test_the_summary_is_json_with_the_rows_as_sha256():
    """Anyone can recompute the sums from the rows."""
    summary = json.loads(json.dumps(proof_of(sampled(sampler="none")).summary()))
    assert (
        summary["rows_in"] == hashlib.sha256(b"".join(int(row).to_bytes(8, "little") for row in TRAINING)).hexdigest()
    )
    assert (summary["num_rows_in"], summary["num_validation_rows_used"]) == (16, 0)


@pytest.mark.parametrize("cut", [0, 3, 200])
def test_a_damaged_proof_is_refused(cut):
    """One line says so."""
    with pytest.raises(DataError, match=rf"^the leak proof is damaged \({cut} bytes: .*\)$"):
        LeakProof.from_bytes(proof_of(sampled(sampler="none")).to_bytes()[:cut])
