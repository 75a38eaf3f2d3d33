"""`search export --baseline`: the TF-IDF baseline of a study as a model folder like any other."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fold_search.objectives.baselines.folds import TFIDF, CountedRows, count_rows, label_of, score_folds
from fold_search.objectives.baselines.texts import TextModel
from fold_search.objectives.data.relations import shown_types
from fold_search.objectives.jobs import Rows
from fold_search.objectives.predicting.baseline import BaselineDescription, write_baseline
from fold_search.objectives.predicting.exported import Form, Member
from fold_search.objectives.scoring.defined import defined_metrics
from fold_search.objectives.scoring.metrics import METRICS, score_all
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.folders import check_free, model_folder, temperature, write_words
from fold_search.search.exporting.model_card import model_card
from fold_search.search.running.baselines import fold_rows
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.search.study.rows import HeldOut, StudyRows

PACKAGES = ("fold-search", "scikit-learn", "scipy", "safetensors", "numpy")


def export_baseline(
    study: OpenStudy, out: Path, *, form: Form = "ensemble", overrides: Sequence[str] = (), force: bool = False
) -> BaselineDescription:
    """Fit the baseline as it was fitted for its score, and write it into the folder `out`, whole or not at all.

    It needs no trial. Raises ConfigError if the rows are images, `out` is taken or the data changed; DataError.
    """
    check_free(out, force=force)
    config = on_this_machine(study.record, overrides)
    if config.data.kind == "image":
        raise ConfigError("--baseline: found a study of images, expected one of texts or relations")
    rows = StudyRows(ledger=study.ledger, config=config)
    fitted = _fit(count_rows(fold_rows(rows)))
    with model_folder(out) as folder:
        description = _describe(study, rows, fitted, form=form, members=tuple(fitted.members(form, folder)))
        write_words(description, config, folder, card=model_card(description))
    return description


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """The models of all folds, and what they predict of the rows that they were not fitted to."""

    counted: CountedRows
    models: tuple[TextModel, ...]
    held_out: HeldOut
    fold_scores: tuple[float, ...]

    def members(self, form: Form, folder: Path) -> Iterator[Member]:
        """Write the models of this form below the folder."""
        splits = self.counted.rows.splits
        if form == "refit":
            everything = np.arange(len(self.counted.texts))
            yield self._member(self.counted.fit(everything), everything, folder, fold=None)
            return
        sign = 1 if METRICS[self.counted.rows.goal.metric].direction == "maximize" else -1
        best = max(range(len(splits)), key=lambda fold: sign * self.fold_scores[fold])
        for fold in [best] if form == "fold" else range(len(splits)):
            yield self._member(self.models[fold], splits[fold][0], folder, fold=fold)

    def _member(self, model: TextModel, training: Rows, folder: Path, *, fold: int | None) -> Member:
        rows, name = self.counted.rows, "refit" if fold is None else f"fold-{fold}"
        labels = rows.dataset.labels[training[self.counted.kept[training]]]
        num_classes = len(rows.dataset.label_names)
        counts = np.bincount(labels.astype(np.int64), minlength=num_classes).tolist() if num_classes else ()
        return Member(
            folder=name,
            fold=fold,
            epochs=0,
            score=None if fold is None else self.fold_scores[fold],
            class_counts=tuple(counts),
            checksums=write_baseline(model, folder / name),
        )


def _fit(counted: CountedRows) -> _Fitted:
    models, rows, predictions = zip(*counted.fold_models(), strict=True)
    folds = [np.full(len(chosen), fold, np.int16) for fold, chosen in enumerate(rows)]
    chosen = np.concatenate(rows)
    held_out = HeldOut(
        rows=chosen,
        folds=np.concatenate(folds),
        truth=counted.rows.dataset.labels[chosen],
        predictions=np.concatenate(predictions),
    )
    scored = score_folds(counted.rows, list(zip(rows, predictions, strict=True)))
    return _Fitted(counted=counted, models=models, held_out=held_out, fold_scores=scored.fold_scores)


def _describe(
    study: OpenStudy, rows: StudyRows, fitted: _Fitted, *, form: Form, members: tuple[Member, ...]
) -> BaselineDescription:
    dataset, data, held_out = rows.dataset, rows.config.data, fitted.held_out
    names = defined_metrics(rows.goal, task=data.task, num_classes=len(dataset.label_names))
    shown = rows.config.model.entity_form
    return BaselineDescription(
        form=form,
        study=study.record.name,
        baseline=TFIDF,
        label=label_of(TFIDF, data.task),
        task=data.task,
        label_names=tuple(dataset.label_names),
        data=data,
        goal=rows.goal,
        analyzer=fitted.counted.counts.analyzer,
        entity_form=shown,
        entity_types=shown_types(dataset, form=shown) if data.relation else (),
        note=fitted.counted.note,
        fold_scores=fitted.fold_scores,
        pooled=score_all(names, held_out.truth, held_out.predictions, rows.goal),
        temperature=temperature(held_out) if data.task == "classification" else 1.0,
        members=members,
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        fingerprints=study.record.fingerprints,
    )
