"""Baselines: the same as plain scikit-learn on the same folds."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from fold_search.objectives.baselines import folds
from fold_search.objectives.baselines.folds import FoldRows, count_rows, score_folds, score_majority
from fold_search.objectives.baselines.linear import SHARPNESS, fit_linear
from fold_search.objectives.baselines.texts import choose_analyzer, count_terms
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.folds import assign_folds, split
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError
from fold_search.objectives.scoring.metrics import METRICS, Goal

WORDS = {"animal": "fox dog horse", "prize": "cash ticket phone", "weapon": "worm exploit virus"}
NUM_FOLDS = 3


def study_rows(folder: Path, *, task: str = "classification", labels: tuple[str, ...] = tuple(WORDS)) -> FoldRows:
    """Sixty short texts, in which every seventh has no word of its class."""
    with (folder / "data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["title", "body", "label"])
        for row in range(60):
            label = labels[row * 7 % 11 % len(labels) if row % 5 else 0]
            noun = WORDS[label].split()[row % 3] if row % 7 else "thing"
            rows.writerow([f"a {noun}", f"number {row} of {row % 4}", len(noun) if task == "regression" else label])
    spec = DataSpec(path=folder / "data.csv", label="label", text=("title", "body"), task=task)
    dataset = read_dataset(spec)
    folds = assign_folds(dataset.strata, dataset.groups, num_folds=NUM_FOLDS, seed=0, stratified=True)
    metric = "mae" if task == "regression" else "macro_f1"
    return FoldRows(
        dataset=dataset,
        splits=[split(folds, dataset.groups, fold) for fold in range(NUM_FOLDS)],
        goal=Goal(metric=metric, epoch_metric=metric),
        seed=7,
    )


def vectorizer() -> TfidfVectorizer:
    return TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, min_df=2, max_features=100_000
    )


@pytest.mark.parametrize("labels", [tuple(WORDS), ("animal", "prize")], ids=["three classes", "two classes"])
def test_it_predicts_what_a_pipeline_of_scikit_learn_predicts(tmp_path: Path, labels: tuple[str, ...]):
    """Probabilities are the softmax of its margins; the fold scores and the pooled score are the metric's."""
    rows = study_rows(tmp_path, labels=labels)
    found, expected = [], []
    for (training, validation), (_, chosen, predicted) in zip(rows.splits, count_rows(rows).fold_models(), strict=True):
        texts = np.array(rows.dataset.texts, dtype=object)
        pipeline = make_pipeline(vectorizer(), LinearSVC(C=1.0, tol=1e-2, class_weight="balanced", random_state=7))
        pipeline.fit(texts[training], rows.dataset.labels[training])
        margins = pipeline.decision_function(texts[validation])
        margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
        assert_allclose(predicted, softmax(SHARPNESS * margins, axis=1), atol=1e-6)
        assert chosen.tolist() == validation.tolist()
        assert predicted.argmax(axis=1).tolist() == pipeline.predict(texts[validation]).tolist()
        found.append((chosen, predicted))
        expected.append(METRICS["macro_f1"](rows.dataset.labels[validation], predicted, rows.goal))
    scored = score_folds(rows, found)
    assert scored.fold_scores == tuple(expected)
    assert scored.score == pytest.approx(np.mean(expected))
    assert scored.std == pytest.approx(np.std(expected, ddof=1))
    everything = np.concatenate([chosen for chosen, _ in found])
    pooled = METRICS["macro_f1"](
        rows.dataset.labels[everything], np.concatenate([predicted for _, predicted in found]), rows.goal
    )
    assert scored.pooled == pooled > score_majority(rows).pooled


def test_numbers_are_predicted_by_ridge_regression(tmp_path: Path):
    """And their majority is the mean of the training rows."""
    rows = study_rows(tmp_path, task="regression")
    texts = np.array(rows.dataset.texts, dtype=object)
    means = []
    for (training, validation), (_, _, predicted) in zip(rows.splits, count_rows(rows).fold_models(), strict=True):
        pipeline = make_pipeline(vectorizer(), Ridge(alpha=1.0, random_state=7))
        pipeline.fit(texts[training], rows.dataset.labels[training])
        assert_allclose(predicted[:, 0], pipeline.predict(texts[validation]), atol=1e-4)
        known = rows.dataset.labels[training]
        means.append(np.abs(rows.dataset.labels[validation] - np.float32(known.mean())).mean())
    assert_allclose(score_majority(rows).fold_scores, means, rtol=1e-6)


def test_the_majority_class_is_that_of_scikit_learn(tmp_path: Path):
    """Probabilities are the classes' shares of the training rows."""
    rows = study_rows(tmp_path)
    labels, expected = rows.dataset.labels, []
    for training, validation in rows.splits:
        dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(training), 1)), labels[training])
        predicted = dummy.predict_proba(np.zeros((len(validation), 1)))
        expected.append(METRICS["macro_f1"](labels[validation], predicted, rows.goal))
    assert score_majority(rows).fold_scores == tuple(expected)


def test_a_class_that_a_fold_does_not_train_on_is_never_predicted():
    """Its probability is 0; with one class left it is 1."""
    features = np.eye(4)
    model = fit_linear(features, np.array([0, 0, 2, 2]), num_outputs=3, seed=0)
    predicted = model.predict(features)
    assert predicted[:, 1].tolist() == [0.0] * 4
    assert predicted.argmax(axis=1).tolist() == [0, 0, 2, 2]
    assert fit_linear(features, np.full(4, 1), num_outputs=3, seed=0).predict(features).tolist() == [[0, 1, 0]] * 4


@pytest.mark.parametrize(
    ("texts", "analyzer"),
    [
        (["The quick brown fox", "2024"], "word"),
        (["Быстрая лиса"], "word"),
        (["빠른 갈색 여우가 뛴다 (NASA)"], "char_wb"),
        (["素早い茶色の狐"], "char_wb"),
        (["1234 !?"], "word"),
    ],
)
def test_parts_of_words_are_counted_where_letters_have_no_capitals(texts: list[str], analyzer: str):
    """A measured rule: half of the letters."""
    assert choose_analyzer(texts) == analyzer


def test_korean_is_learnt_by_parts_of_words():
    """Two words that differ in their endings share terms."""
    texts = ["고양이가 잔다", "고양이는 논다", "자동차가 간다", "자동차는 선다"]
    model = count_terms(texts).fit(np.arange(4), np.array([0, 0, 1, 1]), num_outputs=2, seed=0)
    assert model.predict(["고양이도 왔다", "자동차를 샀다"]).argmax(axis=1).tolist() == [0, 1]


def test_texts_without_a_word_are_an_error():
    """Not a traceback of scikit-learn's."""
    with pytest.raises(DataError, match="no text has a word in it"):
        count_terms(["", "!!"])


def test_texts_that_share_no_word_are_predicted_without_any(tmp_path: Path):
    """Nothing is left to count, which is no failure."""
    model = count_terms(["one", "two", "three", "four"]).fit(
        np.arange(4), np.array([0, 0, 0, 1]), num_outputs=2, seed=0
    )
    assert model.predict(["one", "five"]).shape == (2, 2)
    assert model.predict([]).shape == (0, 2)


def test_too_many_characters_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same rows each time; they say how many, and no other row is trained on or scored."""
    rows = study_rows(tmp_path)
    monkeypatch.setattr(folds, "MAX_CHARACTERS", sum(map(len, rows.dataset.texts)) // 2)
    first, second = count_rows(rows), count_rows(rows)
    assert first.note == second.note == f"on {int(first.kept.sum())} of 60 rows, drawn at random"
    scored = np.concatenate([chosen for _, chosen, _ in first.fold_models()])
    assert sorted(scored.tolist()) == np.flatnonzero(first.kept).tolist()
    assert 15 < len(scored) < 45
    assert count_rows(replace(rows, seed=8)).kept.tolist() != first.kept.tolist()
