"""What the out-of-fold predictions say: scores, classes, confusions, suspicious labels, or a numeric label's errors."""

import textwrap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fold_search.objectives.scoring.defined import defined_metrics
from fold_search.objectives.scoring.metrics import METRICS, Metric
from fold_search.search.reporting.diagnosis.evidence import Evidence

MOST_SUSPECTS = 20
NUM_TENTHS = 10
_LONGEST_TEXT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledScore:
    """A metric over all held-out rows at once, beside its mean and sample deviation over the folds."""

    metric: str
    direction: str
    pooled: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """How well one class is told; `rows` are truly of it, `predicted` are said to be."""

    label: str
    rows: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Rows of one class that are predicted as another, and their share of the class's rows."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose own label has a low probability; `row` is its number in the file, from 1."""

    row: int
    label: str
    predicted: str
    probability: float  # of its own label
    predicted_probability: float
    text: str  # shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The findings that only classes have."""

    scores: tuple[ClassScore, ...]  # the classes with rows held out, worst F1 first
    never_predicted: tuple[ClassScore, ...]  # of those, most rows first
    confusions: tuple[Confusion, ...]  # all that happened, most rows first
    label_names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]  # rows of each true class (outer) by predicted class
    suspects: tuple[Suspect, ...]  # lowest probability first


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenth:
    """A tenth of the held-out rows by their true number: how far off they are on average, and in which direction."""

    low: float
    high: float
    rows: int
    mean_truth: float
    mean_predicted: float
    bias: float  # mean of predicted - true
    mae: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FarOff:
    """A row whose number is predicted worst."""

    row: int
    truth: float
    predicted: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """The findings that only a numeric label has."""

    tenths: tuple[Tenth, ...]  # rising
    far_off: tuple[FarOff, ...]  # farthest first


def pooled_scores(evidence: Evidence) -> tuple[PooledScore, ...]:
    """Score by every metric that is defined for the label; those of one class where the study names it."""
    task, num_classes = evidence.config.data.task, len(evidence.dataset.label_names)
    defined = defined_metrics(evidence.goal, task=task, num_classes=num_classes)
    return tuple(_pooled(METRICS[name], evidence) for name in defined)


def judge_classes(evidence: Evidence) -> Classes:
    """Count right, wrong and suspicious rows by class."""
    names, held_out = tuple(evidence.dataset.label_names), evidence.held_out
    truth, predicted = held_out.truth.astype(np.int64), held_out.predictions.argmax(axis=1)
    matrix = confusion_matrix(truth, predicted, labels=range(len(names)))
    scores = _class_scores(truth, predicted, names)
    never = [score for score in scores if not score.predicted]
    return Classes(
        scores=scores,
        never_predicted=tuple(sorted(never, key=lambda score: (-score.rows, score.label))),
        confusions=_confusions(matrix, names),
        label_names=names,
        matrix=tuple(tuple(map(int, row)) for row in matrix),
        suspects=_suspects(evidence, truth, predicted),
    )


def judge_numbers(evidence: Evidence) -> Residuals:
    """Compare predicted with true numbers, tenth by tenth of the true ones."""
    truth = evidence.held_out.truth.astype(np.float64)
    predicted = evidence.held_out.predictions[:, 0].astype(np.float64)
    parts = [part for part in np.array_split(np.argsort(truth, kind="stable"), NUM_TENTHS) if len(part)]
    farthest = np.argsort(-np.abs(predicted - truth), kind="stable")[:MOST_SUSPECTS]
    return Residuals(
        tenths=tuple(_tenth(truth[part], predicted[part]) for part in parts),
        far_off=tuple(
            FarOff(
                row=_row_number(evidence, index),
                truth=float(truth[index]),
                predicted=float(predicted[index]),
                text=_text(evidence, index),
            )
            for index in farthest
        ),
    )


def _pooled(metric: Metric, evidence: Evidence) -> PooledScore:
    held_out, goal = evidence.held_out, evidence.goal
    by_fold = [
        metric(held_out.truth[mine], held_out.predictions[mine], goal)
        for mine in (held_out.folds == fold for fold in np.unique(held_out.folds))
    ]
    return PooledScore(
        metric=metric.name,
        direction=metric.direction,
        pooled=metric(held_out.truth, held_out.predictions, goal),
        mean=float(np.mean(by_fold)),
        std=float(np.std(by_fold, ddof=1)) if len(by_fold) > 1 else 0.0,
    )


def _class_scores(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], names: tuple[str, ...]
) -> tuple[ClassScore, ...]:
    labels = np.arange(len(names))
    precision, recall, f1, rows = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    times = np.bincount(predicted, minlength=len(names))
    scores = [
        ClassScore(
            label=names[label],
            rows=int(rows[label]),
            predicted=int(times[label]),
            precision=float(precision[label]),
            recall=float(recall[label]),
            f1=float(f1[label]),
        )
        for label in labels
        if rows[label]
    ]
    return tuple(sorted(scores, key=lambda score: (score.f1, -score.rows, score.label)))


def _confusions(matrix: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Confusion, ...]:
    rows = matrix.sum(axis=1)
    found = [
        Confusion(label=names[true], predicted=names[said], count=int(count), share=float(count / rows[true]))
        for (true, said), count in np.ndenumerate(matrix)
        if true != said and count
    ]
    return tuple(sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.label, pair.predicted)))


def _suspects(evidence: Evidence, truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[Suspect, ...]:
    names, probabilities = evidence.dataset.label_names, evidence.held_out.predictions
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return tuple(
        Suspect(
            row=_row_number(evidence, index),
            label=names[truth[index]],
            predicted=names[predicted[index]],
            probability=float(own[index]),
            predicted_probability=float(probabilities[index, predicted[index]]),
            text=_text(evidence, index),
        )
        for index in np.argsort(own, kind="stable")[:MOST_SUSPECTS]
        if truth[index] != predicted[index]
    )


def _tenth(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Tenth:
    residuals = predicted - truth
    return Tenth(
        low=float(truth.min()),
        high=float(truth.max()),
        rows=len(truth),
        mean_truth=float(truth.mean()),
        mean_predicted=float(predicted.mean()),
        bias=float(residuals.mean()),
        mae=float(np.abs(residuals).mean()),
    )


def _row_number(evidence: Evidence, index: int) -> int:
    return int(evidence.dataset.rows[evidence.held_out.rows[index]])


def _text(evidence: Evidence, index: int) -> str:
    """The text on one line, shortened, without what would not print."""
    text = evidence.dataset.texts[evidence.held_out.rows[index]]
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 10 * _LONGEST_TEXT])
    return textwrap.shorten(line, _LONGEST_TEXT, placeholder=" ...") or "(empty)"
