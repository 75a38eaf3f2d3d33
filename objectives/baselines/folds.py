"""Baselines on the folds of a study: each row is predicted by what was fitted to the other folds."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.baselines.texts import TextCounts, TextModel, baseline_texts, count_terms
from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.data.relations import Form
from fold_search.objectives.jobs import Rows
from fold_search.objectives.scoring.metrics import METRICS, Goal, Task

MAJORITY, TFIDF, STATES = "majority", "tf-idf", "frozen-encoder"  # names of baselines
MAX_CHARACTERS = 30_000_000  # of all texts together: a minute or two of one core, and about a gigabyte


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRows:
    """The rows of a study as it splits them, and what they are scored by."""

    dataset: Dataset
    splits: Sequence[tuple[Rows, Rows]]  # the training and the validation rows of each fold
    goal: Goal
    seed: int
    form: Form = "typed_markers"  # in which relations are shown

    @property
    def num_outputs(self) -> int:
        """One for each class, or one number."""
        return len(self.dataset.label_names) or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a baseline reaches: scores as a trial has them."""

    fold_scores: tuple[float, ...]
    pooled: float

    @property
    def score(self) -> float:
        """The mean of the folds."""
        return statistics.fmean(self.fold_scores)

    @property
    def std(self) -> float:
        """Their sample standard deviation."""
        return statistics.stdev(self.fold_scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRows:
    """The texts of a study, their terms counted once for all folds."""

    rows: FoldRows
    texts: Sequence[str]
    counts: TextCounts
    kept: NDArray[np.bool_]  # (rows,): False for those that are left out, as there are too many

    def fit(self, training: Rows) -> TextModel:
        """Fit TF-IDF and a linear model to some rows."""
        chosen, rows = training[self.kept[training]], self.rows
        labels = rows.dataset.labels[chosen]
        return self.counts.fit(chosen, labels, num_outputs=rows.num_outputs, seed=rows.seed)

    def fold_models(self) -> Iterator[tuple[TextModel, Rows, NDArray[np.float32]]]:
        """Yield the model of each fold, its validation rows and what it predicts of them."""
        for training, validation in self.rows.splits:
            model, chosen = self.fit(training), validation[self.kept[validation]]
            yield model, chosen, model.predict([self.texts[row] for row in chosen])

    @property
    def note(self) -> str | None:
        """What was left out, if anything."""
        used, there = int(self.kept.sum()), len(self.kept)
        return None if used == there else f"on {used:,} of {there:,} rows, drawn at random"


def count_rows(rows: FoldRows) -> CountedRows:
    """Count the terms of the texts; raises DataError if there is none, or if relations cannot be read."""
    texts = baseline_texts(rows.dataset, form=rows.form)
    kept = np.ones(len(texts), np.bool_)
    total = sum(map(len, texts))
    if total > MAX_CHARACTERS:
        kept = np.random.default_rng(rows.seed).random(len(texts)) < MAX_CHARACTERS / total
    counted = texts if kept.all() else [text if keep else "" for text, keep in zip(texts, kept.tolist(), strict=True)]
    return CountedRows(rows=rows, texts=texts, counts=count_terms(counted), kept=kept)


def label_of(name: str, task: Task) -> str:
    """What people call a baseline."""
    if name == TFIDF:
        return "TF-IDF + linear model"
    if name == STATES:
        return "frozen encoder + linear model"
    return "majority class" if task == "classification" else "mean of the numbers"


def score_majority(rows: FoldRows) -> Scored:
    """Score what knows no text: how common each class is in the training rows, or the mean of the numbers."""
    labels, num_outputs = rows.dataset.labels, rows.num_outputs
    folds = []
    for training, validation in rows.splits:
        known = labels[training]
        shares = [known.mean()] if num_outputs == 1 else np.bincount(known, minlength=num_outputs) / len(known)
        folds.append((validation, np.tile(np.asarray(shares, np.float32), (len(validation), 1))))
    return score_folds(rows, folds)


def score_folds(rows: FoldRows, folds: Sequence[tuple[Rows, NDArray[np.float32]]]) -> Scored:
    """Score each fold's validation rows and what was predicted of them, and all of them together."""
    metric, labels = METRICS[rows.goal.metric], rows.dataset.labels
    pooled = np.concatenate([chosen for chosen, _ in folds])
    return Scored(
        fold_scores=tuple(metric(labels[chosen], predicted, rows.goal) for chosen, predicted in folds),
        pooled=metric(labels[pooled], np.concatenate([predicted for _, predicted in folds]), rows.goal),
    )
