"""The metrics: plain functions of the true labels and the predictions.

scikit-learn is loaded when a metric needs it: whoever reads a study file wants their names alone.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.scoring.calibration import NUM_BINS, reliability

Task = Literal["classification", "regression"]
Truth = NDArray[Any]  # (rows,): int64 classes, or float64 numbers
Predictions = NDArray[np.floating[Any]]  # (rows, classes): probabilities; (rows, 1): numbers
TOP_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What an epoch is scored by."""

    metric: str  # a key of METRICS
    epoch_metric: str  # what chooses the best epoch, a key of METRICS
    top_k: int = TOP_K
    negative: int | None = None  # the class that micro_f1_without_negative leaves out
    positive: int | None = None  # the class of class_precision, class_recall and class_f1


_Score = Callable[[Truth, Predictions, Goal], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score of predictions against the truth. For finite predictions it is always finite, without a warning."""

    name: str
    direction: Literal["maximize", "minimize"] = "maximize"
    task: Task = "classification"
    worst: float | None = 0.0  # the worst score there can be; None if it has no bound
    meaning: str
    source: str = ""
    needs: Literal["", "negative", "positive"] = ""  # which class the goal must name; "": none
    function: _Score

    def __call__(self, truth: Truth, predictions: Predictions, goal: Goal) -> float:
        """Score predictions, (rows, classes), or (rows, 1) of a numeric label, against the truth, (rows,)."""
        return self.function(truth, predictions, goal)

    def improves(self, score: float, best: float) -> bool:
        """Whether `score` is better than `best`. Equal is not better, NaN never is, and a number is better than NaN."""
        if math.isnan(best):
            return math.isfinite(score)
        return score > best if self.direction == "maximize" else score < best


def score_all(names: Iterable[str], truth: Truth, predictions: Predictions, goal: Goal) -> dict[str, float]:
    """Return the score of each of the metrics."""
    return {name: METRICS[name](truth, predictions, goal) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Numbers of rows of each class, each (classes,): predicted rightly, true, predicted."""

    right: NDArray[np.int64]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def occurs(self) -> NDArray[np.bool_]:
        return self.true + self.predicted > 0


_PerClass = Callable[[_Counts], NDArray[np.float64]]


def _count(truth: Truth, predictions: Predictions) -> _Counts:
    predicted, num_classes = predictions.argmax(axis=1), predictions.shape[1]
    return _Counts(
        right=np.bincount(truth[truth == predicted], minlength=num_classes),
        true=np.bincount(truth, minlength=num_classes),
        predicted=np.bincount(predicted, minlength=num_classes),
    )


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part divided by whole, and 0 where the whole is 0."""
    return part / np.maximum(whole, 1)


def _precision(counts: _Counts) -> NDArray[np.float64]:
    return _share(counts.right, counts.predicted)


def _recall(counts: _Counts) -> NDArray[np.float64]:
    return _share(counts.right, counts.true)


def _f1(counts: _Counts) -> NDArray[np.float64]:
    return _share(2 * counts.right, counts.true + counts.predicted)


def _macro(per_class: _PerClass) -> _Score:
    def score(truth: Truth, predictions: Predictions, goal: Goal) -> float:
        counts = _count(truth, predictions)
        return float(per_class(counts)[counts.occurs].mean())

    return score


def _weighted(per_class: _PerClass) -> _Score:
    def score(truth: Truth, predictions: Predictions, goal: Goal) -> float:
        counts = _count(truth, predictions)
        return float(np.average(per_class(counts), weights=counts.true))

    return score


def _of_positive(per_class: _PerClass) -> _Score:
    def score(truth: Truth, predictions: Predictions, goal: Goal) -> float:
        if goal.positive is None:
            raise ValueError("the goal names no positive class")
        return float(per_class(_count(truth, predictions))[goal.positive])

    return score


def _accuracy(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    return float((predictions.argmax(axis=1) == truth).mean())


def _balanced_accuracy(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    counts = _count(truth, predictions)
    return float(_recall(counts)[counts.true > 0].mean())


def _micro_f1_without_negative(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    if goal.negative is None:
        raise ValueError("the goal names no negative class")
    counts = _count(truth, predictions)
    right, true, predicted = (np.delete(n, goal.negative).sum() for n in (counts.right, counts.true, counts.predicted))
    return float(2 * right / max(true + predicted, 1))


def _mcc(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    counts, rows = _count(truth, predictions), float(len(truth))
    true, predicted = counts.true / rows, counts.predicted / rows
    spread = math.sqrt(1 - true @ true) * math.sqrt(1 - predicted @ predicted)
    return float((counts.right.sum() / rows - true @ predicted) / spread) if spread > 0 else 0.0


def _roc_auc(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    is_class = truth[:, None] == np.arange(predictions.shape[1])
    ranked = is_class.any(axis=0) & ~is_class.all(axis=0)
    if not ranked.any():
        return 0.5
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_class[:, ranked], predictions[:, ranked], average="macro"))


def _pr_auc(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    is_class = truth[:, None] == np.arange(predictions.shape[1])
    from sklearn.metrics import average_precision_score

    areas = [average_precision_score(is_class[:, label], predictions[:, label]) for label in np.unique(truth)]
    return float(np.mean(areas))


def _log_loss(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    of_truth = np.take_along_axis(predictions, truth[:, None], axis=1).astype(np.float64)
    return float(-np.log(np.clip(of_truth, np.finfo(np.float32).eps, 1.0)).mean())


def _expected_calibration_error(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    return reliability(predictions, truth).error


def _over_ranks(gain: Callable[[NDArray[np.int64], int], NDArray[Any]]) -> _Score:
    """Mean gain over the rows. A row's gain follows from its true label's rank, from 1; of equal ones it comes last."""

    def score(truth: Truth, predictions: Predictions, goal: Goal) -> float:
        of_truth = np.take_along_axis(predictions, truth[:, None], axis=1)
        return float(gain((predictions >= of_truth).sum(axis=1), goal.top_k).mean())

    return score


def _mae(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(truth, predictions[:, 0].astype(np.float64)))


def _mse(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(truth, predictions[:, 0].astype(np.float64)))


def _r2(truth: Truth, predictions: Predictions, goal: Goal) -> float:
    predicted = predictions[:, 0].astype(np.float64)
    if np.ptp(truth) == 0:
        return float(np.array_equal(truth, predicted))
    from sklearn.metrics import r2_score

    return float(r2_score(truth, predicted))


_AVERAGES = (
    ("macro", _macro, "unweighted mean over the classes that occur in the true or predicted labels"),
    ("weighted", _weighted, "mean over the classes, weighted by their true number of rows"),
    ("class", _of_positive, "only of the class study.positive_label"),
)
_SCORES = (
    ("precision", _precision, "Share of the rows predicted as a class that truly belong to it"),
    ("recall", _recall, "Share of the rows of a class that are predicted as that class"),
    ("f1", _f1, "Harmonic mean of a class's precision and recall"),
)
_ABSENT = "0 without such rows"


def _averages() -> Iterable[Metric]:
    for score, per_class, meaning in _SCORES:
        for average, averaged, how in _AVERAGES:
            yield Metric(
                name=f"{average}_{score}",
                meaning=f"{meaning}, {_ABSENT}: {how}.",
                needs="positive" if average == "class" else "",
                function=averaged(per_class),
            )
        yield Metric(
            name=f"micro_{score}",
            meaning=f"{meaning}, counted over all classes together. With one label per row it equals accuracy.",
            function=_accuracy,
        )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", meaning="Share of the rows that are predicted correctly.", function=_accuracy),
        Metric(
            name="balanced_accuracy",
            meaning="Unweighted mean recall of the classes that occur in the true labels.",
            source="Brodersen et al. 2010",
            function=_balanced_accuracy,
        ),
        *_averages(),
        Metric(
            name="micro_f1_without_negative",
            meaning="F1 counted over all classes together, without the class study.negative_label (such as no "
            "relation); 0 if none of them is true or predicted.",
            source="Zhang et al. 2017",
            needs="negative",
            function=_micro_f1_without_negative,
        ),
        Metric(
            name="roc_auc",
            meaning="Area under the ROC curve of each class against the rest: unweighted mean over the classes that "
            "occur; 0.5 if all rows are of one class.",
            source="Fawcett 2006",
            function=_roc_auc,
        ),
        Metric(
            name="pr_auc",
            meaning="Average precision of each class against the rest: unweighted mean over the classes that occur.",
            source="Saito and Rehmsmeier 2015",
            function=_pr_auc,
        ),
        Metric(
            name="mcc",
            worst=-1.0,
            meaning="Matthews correlation coefficient, -1 to 1; 0 if all true or all predicted classes are the same.",
            source="Gorodkin 2004",
            function=_mcc,
        ),
        Metric(
            name="log_loss",
            direction="minimize",
            worst=float(-np.log(np.finfo(np.float32).eps)),
            meaning="Mean negative log of the true class's probability. Probabilities below 1.2e-7 count as 1.2e-7.",
            function=_log_loss,
        ),
        Metric(
            name="expected_calibration_error",
            direction="minimize",
            worst=1.0,
            meaning="Mean gap between the probability of the predicted class and the share of correct rows, over "
            f"{NUM_BINS} bins of equal width.",
            source="Guo et al. 2017",
            function=_expected_calibration_error,
        ),
        Metric(
            name="top_k_accuracy",
            meaning="Share of the rows whose true class is among the study.top_k most probable classes. Ties count as "
            "misses.",
            function=_over_ranks(lambda ranks, k: ranks <= k),
        ),
        Metric(
            name="mrr",
            meaning="Mean of 1 / rank of the true class; the most probable class has rank 1. Ties count as the worse "
            "rank.",
            source="Voorhees 1999",
            function=_over_ranks(lambda ranks, k: 1 / ranks),
        ),
        Metric(
            name="ndcg_at_k",
            meaning="Mean of 1 / log2(1 + rank of the true class), 0 for ranks above study.top_k. Ties count as the "
            "worse rank.",
            source="Järvelin and Kekäläinen 2002",
            function=_over_ranks(lambda ranks, k: (ranks <= k) / np.log2(1 + ranks)),
        ),
        Metric(
            name="map_at_k",
            meaning="Mean average precision: 1 / rank of the true class, 0 for ranks above study.top_k. Ties count as "
            "the worse rank.",
            function=_over_ranks(lambda ranks, k: (ranks <= k) / ranks),
        ),
        Metric(
            name="mae",
            direction="minimize",
            task="regression",
            worst=None,
            meaning="Mean absolute error, in the label's unit.",
            function=_mae,
        ),
        Metric(
            name="mse",
            direction="minimize",
            task="regression",
            worst=None,
            meaning="Mean squared error, in the square of the label's unit.",
            function=_mse,
        ),
        Metric(
            name="r2",
            task="regression",
            worst=None,
            meaning="Share of the label's variance that is explained. If all labels are equal: 1 if all rows are "
            "right, else 0.",
            function=_r2,
        ),
    )
}

EPOCH_METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "balanced_accuracy", "weighted_f1", "mcc", "log_loss"),
    "regression": ("mae", "mse", "r2"),
}
