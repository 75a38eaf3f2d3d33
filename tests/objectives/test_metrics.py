"""Every metric against scikit-learn or a count over all rows, and on data that no formula likes."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fold_search.objectives.errors import DataError
from fold_search.objectives.scoring.defined import check_metric
from fold_search.objectives.scoring.metrics import EPOCH_METRICS, METRICS, Goal, score_all

GOAL = Goal(metric="macro_f1", epoch_metric="macro_f1", top_k=3, negative=0, positive=1)
CLASSIFICATION = [name for name, metric in METRICS.items() if metric.task == "classification"]
REGRESSION = [name for name, metric in METRICS.items() if metric.task == "regression"]


def sampled(shares, rows, *, signal, seed=0):
    """Draw classes by their shares, and float32 probabilities that know something of them."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), size=rows, p=np.array(shares) / np.sum(shares))
    logits = random.normal(scale=2, size=(rows, len(shares))) + signal * np.eye(len(shares))[truth]
    return truth, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


DATA = {
    "even": sampled([1] * 6, 200, signal=2),
    "long-tailed, classes absent": sampled(0.7 ** np.arange(25), 60, signal=2),
    "useless": sampled([5, 1, 1, 1], 50, signal=0),
    "binary": sampled([1, 1], 100, signal=1),
    "binary, rare positive": sampled([30, 1], 120, signal=1, seed=3),
}


def area_under_roc(truth, probabilities):
    """Count the pairs of a row of the class and one of the rest that are in order."""
    areas = []
    for label in np.unique(truth):
        inside, outside = probabilities[truth == label, label], probabilities[truth != label, label]
        difference = inside[:, None] - outside[None, :]
        areas.append(((difference > 0) + (difference == 0) / 2).mean())
    return np.mean(areas)


def area_under_pr(truth, probabilities):
    """Average, over the rows of a class, the precision among the rows that are at least as probable."""
    areas = []
    for label in np.unique(truth):
        scores, inside = probabilities[:, label], truth == label
        areas.append(np.mean([inside[scores >= score].mean() for score in scores[inside]]))
    return np.mean(areas)


def calibration_error(truth, probabilities):
    """Go through the bins (0, 1/15], (1/15, 2/15], ... one by one."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = [(confidence > m / 15) & (confidence <= (m + 1) / 15) for m in range(15)]
    return sum(rows.mean() * abs(confidence[rows].mean() - right[rows].mean()) for rows in bins if rows.any())


def ranks(truth, probabilities):
    return [list(np.argsort(-row)).index(label) + 1 for row, label in zip(probabilities, truth, strict=True)]


def averaged(score, **how):
    return lambda truth, p: score(truth, p.argmax(axis=1), zero_division=0, **how)


def one_hot(truth, p):
    return np.eye(p.shape[1])[truth]


EXPECTED = {
    f"{average}_{name}": averaged(score, **how)
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score))
    for average, how in (
        ("macro", {"average": "macro"}),
        ("micro", {"average": "micro"}),
        ("weighted", {"average": "weighted"}),
        ("class", {"average": "macro", "labels": [1]}),
    )
} | {
    "accuracy": lambda truth, p: sk.accuracy_score(truth, p.argmax(axis=1)),
    "balanced_accuracy": lambda truth, p: averaged(sk.recall_score, average="macro", labels=np.unique(truth))(truth, p),
    "micro_f1_without_negative": lambda truth, p: averaged(sk.f1_score, average="micro", labels=range(1, p.shape[1]))(
        truth, p
    ),
    "mcc": lambda truth, p: sk.matthews_corrcoef(truth, p.argmax(axis=1)),
    "roc_auc": area_under_roc,
    "pr_auc": area_under_pr,
    "log_loss": lambda truth, p: sk.log_loss(truth, p, labels=range(p.shape[1])),
    "expected_calibration_error": calibration_error,
    "top_k_accuracy": lambda truth, p: np.mean([rank <= 3 for rank in ranks(truth, p)]),
    "mrr": lambda truth, p: sk.label_ranking_average_precision_score(one_hot(truth, p), p),
    "ndcg_at_k": lambda truth, p: sk.ndcg_score(one_hot(truth, p), p, k=3),
    "map_at_k": lambda truth, p: np.mean([1 / rank if rank <= 3 else 0 for rank in ranks(truth, p)]),
}


def test_all_metrics_are_compared():
    """A metric that is added has to be added here."""
    assert set(CLASSIFICATION) == set(EXPECTED)
    assert all(METRICS[name].task == task for task, names in EPOCH_METRICS.items() for name in names)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("data", DATA)
def test_classification_metric_is_the_reference(name, data):
    """Scikit-learn's value, or a slow count's."""
    truth, probabilities = DATA[data]
    assert METRICS[name](truth, probabilities, GOAL) == pytest.approx(EXPECTED[name](truth, probabilities), rel=1e-5)


def test_areas_are_scikit_learns():
    """Binary: that of the positive class; of many classes: the macro average of one against the rest."""
    truth, probabilities = DATA["binary"]
    assert METRICS["roc_auc"](truth, probabilities, GOAL) == pytest.approx(sk.roc_auc_score(truth, probabilities[:, 1]))
    truth, probabilities = DATA["even"]
    expected = sk.roc_auc_score(truth, probabilities, multi_class="ovr")
    assert METRICS["roc_auc"](truth, probabilities, GOAL) == pytest.approx(expected)
    assert METRICS["top_k_accuracy"](truth, probabilities, GOAL) == sk.top_k_accuracy_score(truth, probabilities, k=3)


def test_macro_f1_counts_the_classes_that_occur():
    """2/3, 4/5 and, of a class that is never predicted, 0; a fourth that occurs nowhere does not count."""
    predicted = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 1, 0]]
    score = METRICS["macro_f1"](np.array([0, 0, 0, 1, 1, 2]), predicted, GOAL)
    assert score == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_the_negative_class_counts_only_where_it_is_mistaken():
    """Relations 1 and 2 among six rows: 2 right of 3 predicted and of 4 true, however many rows have no relation."""
    truth, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 0, 2, 0])
    score = METRICS["micro_f1_without_negative"](truth, np.eye(3, dtype=np.float32)[predicted], GOAL)
    assert score == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_ties_count_against_the_row():
    """A model that prefers nothing ranks every label last."""
    uniform = np.full((3, 4), 0.25, np.float32)
    names = ("mrr", "top_k_accuracy", "ndcg_at_k", "map_at_k", "roc_auc")
    scores = score_all(names, np.array([0, 1, 3]), uniform, GOAL)
    assert scores == {"mrr": 1 / 4, "top_k_accuracy": 0, "ndcg_at_k": 0, "map_at_k": 0, "roc_auc": 0.5}


def test_rows_of_one_class_only_have_scores():
    """Without another class nothing is ranked, retrieved or correlated: the values that the docs name."""
    probabilities = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    scores = score_all(("roc_auc", "pr_auc", "mcc"), np.array([1, 1]), probabilities, GOAL)
    assert scores == {"roc_auc": 0.5, "pr_auc": 1.0, "mcc": 0.0}


@st.composite
def classified(draw, smallest=0.0):
    """Draw rows and probabilities with ties, zeros and ones, single rows and absent classes."""
    rows, classes = draw(st.integers(1, 8)), draw(st.integers(2, 5))
    truth = draw(st_numpy.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    weights = draw(st_numpy.arrays(np.float64, (rows, classes), elements=st.sampled_from([smallest, 0.2, 0.5, 1, 1e8])))
    weights[np.arange(rows), draw(st.integers(0, classes - 1))] += 0.1
    return truth, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@given(classified())
def test_scores_are_finite_and_in_range(data):
    """Whatever the rows, without a warning."""
    scores = score_all(CLASSIFICATION, *data, GOAL)
    assert -1 <= scores.pop("mcc") <= 1 + 1e-12
    assert 0 <= scores.pop("log_loss") < 16
    assert [name for name, score in scores.items() if not 0 <= score <= 1 + 1e-12] == []


@given(classified(smallest=0.01))
def test_a_class_that_occurs_nowhere_changes_nothing(data):
    """A fold is not scored by classes that it has no rows of and that nobody predicts."""
    truth, probabilities = data
    wider = np.pad(probabilities, ((0, 0), (0, 1)))
    expected = score_all(CLASSIFICATION, truth, probabilities, GOAL)
    assert score_all(CLASSIFICATION, truth, wider, GOAL) == pytest.approx(expected)


@given(
    st_numpy.arrays(np.float64, st.shared(st.integers(1, 6), key="rows"), elements=st.floats(-6e4, 6e4, width=16)),
    st_numpy.arrays(np.float32, st.shared(st.integers(1, 6), key="rows"), elements=st.floats(-6e4, 6e4, width=16)),
)
@example(np.full(3, 0.1), np.ones(3, np.float32))  # the mean of 0.1, 0.1, 0.1 is not 0.1
def test_regression_metrics_are_their_formulas(truth, predicted):
    """R2 is 1 less the residuals' share of the variance; without variance, 1 for exact rows and 0 for others."""
    error = truth - predicted
    spread = ((truth - truth.mean()) ** 2).sum()
    r2 = 1 - (error**2).sum() / spread if np.ptp(truth) > 0 else float(not error.any())
    expected = {"mae": np.abs(error).mean(), "mse": (error**2).mean(), "r2": r2}
    assert score_all(REGRESSION, truth, predicted[:, None], GOAL) == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_is_known(name):
    """Right and certain has the best score there is, and is better than wrong and certain."""
    truth = np.array([0, 1, 2, 3, 1])
    perfect, wrong = np.eye(4, dtype=np.float32)[truth], np.eye(4, dtype=np.float32)[(truth + 1) % 4]
    if name in REGRESSION:
        perfect, wrong = truth[:, None].astype(np.float32), -truth[:, None].astype(np.float32)
    metric = METRICS[name]
    assert metric(truth, perfect, GOAL) == pytest.approx(1 if metric.direction == "maximize" else 0)
    assert metric.improves(metric(truth, perfect, GOAL), metric(truth, wrong, GOAL))
    assert not metric.improves(metric(truth, wrong, GOAL), metric(truth, perfect, GOAL))


@pytest.mark.parametrize("name", ["accuracy", "log_loss"])
def test_nan_is_no_improvement(name):
    """Of equals the first stays the best; anything is better than NaN, and NaN than nothing."""
    metric = METRICS[name]
    assert not metric.improves(0.5, 0.5)
    assert not metric.improves(math.nan, 0.5)
    assert not metric.improves(math.nan, math.nan)
    assert metric.improves(0.5, math.nan)


def refusal(name, **data) -> str | None:
    """What is said against a metric, if anything is."""
    try:
        check_metric(name, **data)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("macro-f1", {}, "study.metric: there is no metric 'macro-f1'; did you mean 'macro_f1'?"),
        ("quality", {"task": "regression"}, "there is no metric 'quality'; expected one of mae, mse, r2"),
        ("mae", {}, "mae is undefined for classes; expected one of accuracy,"),
        ("roc_auc", {"task": "regression"}, "roc_auc is undefined for a numeric label; expected one of mae, mse, r2"),
        ("class_f1", {}, "class_f1 needs a class; study.positive_label must name it"),
        ("micro_f1_without_negative", {"has_positive": True}, "study.negative_label must name it"),
        ("top_k_accuracy", {}, "always 1 with study.top_k 5 and 4 classes; expected study.top_k below 4"),
        ("top_k_accuracy", {"top_k": 4}, "always 1 with study.top_k 4 and 4 classes"),
        ("mae", {"key": "study.epoch_metric"}, "study.epoch_metric: mae is undefined"),
    ],
)
def test_a_metric_that_says_nothing_is_refused(name, settings, message):
    """One line: the key, what was found, what is expected."""
    data = {"task": "classification", "num_classes": 4, "has_negative": False, "has_positive": False} | settings
    assert message in refusal(name, **data)


def test_metrics_that_fit_are_accepted():
    """With the classes named and fewer labels looked at than there are, all of them."""
    classes = {"task": "classification", "num_classes": 4, "has_negative": True, "has_positive": True, "top_k": 3}
    assert [refusal(name, **classes) for name in CLASSIFICATION] == [None] * len(CLASSIFICATION)
    numbers = {"task": "regression", "num_classes": 1, "has_negative": False, "has_positive": False}
    assert [refusal(name, **numbers) for name in REGRESSION] == [None] * len(REGRESSION)
