"""`search export`: from a study's trial to a model folder that predicts without the study."""

import importlib.metadata
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from fold_search.models.classifiers import Classifier
from fold_search.objectives.data.relations import shown_types
from fold_search.objectives.errors import TrialError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.predicting.exported import (
    Description,
    Form,
    Member,
    has_frozen_weights,
    write_classifier,
    write_difference,
)
from fold_search.objectives.scoring.defined import defined_metrics
from fold_search.objectives.scoring.metrics import score_all
from fold_search.objectives.tasks import morphemes
from fold_search.objectives.training.checkpoints import Chosen, read_best
from fold_search.objectives.training.fold import read_weights
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.folders import check_free, model_folder, temperature, write_words
from fold_search.search.exporting.mlflow_model import write_mlflow_files
from fold_search.search.exporting.model_card import model_card
from fold_search.search.reporting.provisional import find_provisional
from fold_search.search.reporting.summary import find_best
from fold_search.search.running.objective import Objective, choose_device, fold_seed
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.search.study.rows import HeldOut, StudyRows
from fold_search.search.study.space import resolve
from fold_search.search.study.stored import weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError
from fold_search.storage.records import FoldRun, FoldRunState, TrialRecord, TrialState

PACKAGES = ("fold-search", "torch", "transformers", "tokenizers", "safetensors", "numpy")
MOST_LOOKS = 5

Say = Callable[[str], None]


def export(
    study: OpenStudy,
    out: Path,
    *,
    form: Form = "ensemble",
    trial: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    mlflow: bool = False,
    say: Say,
    step: Say = lambda name: None,
) -> Description:
    """Write the model of `trial`, the best one if None, into the folder `out`, whole or not at all.

    Of a study without a complete trial it is provisional: made of the folds, or else the epochs, that are trained. With
    `mlflow` the folder is an MLflow model as well. `step` is told what is done. Raises ConfigError if nothing of such a
    trial is trained, `out` is taken or the data changed; DataError, StorageError, EncoderError.
    """
    check_free(out, force=force)
    config = on_this_machine(study.record, overrides)
    picked = _pick(study, trial, artifacts=Artifacts(config.storage.artifacts))
    rows = StudyRows(ledger=study.ledger, config=config)
    objective = Objective(rows, device=choose_device(0))
    runs, chosen = picked.runs, picked.chosen(objective)
    if chosen is not None:
        runs = (replace(runs[0], score=chosen.score, best_epoch=chosen.epoch),)
    source = _Source(
        study=study,
        config=config,
        trial=picked.trial,
        runs=runs,
        provisional=picked.provisional,
        chosen=chosen,
        rows=rows,
        objective=objective,
        say=say,
        step=step,
    )
    with model_folder(out) as folder:
        step("reading the study's rows")
        held_out = source.held_out()
        description = _describe(source, held_out, form=form, members=source.members(form, folder))
        write_words(description, config, folder, card=model_card(description))
        if mlflow:
            write_mlflow_files(folder, description)
    return description


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A trial and what its models are made from."""

    study: OpenStudy
    config: StudyConfig
    trial: TrialRecord
    runs: Sequence[FoldRun]
    provisional: str | None
    chosen: Chosen | None  # of the one fold run, where that is not done
    rows: StudyRows
    objective: Objective
    say: Say
    step: Say

    def members(self, form: Form, folder: Path) -> tuple[Member, ...]:
        """Write the models of this form below the folder."""
        try:
            if form == "refit":
                return (self._refit(folder),)
            runs = [self._best_run()] if form == "fold" else self.runs
            return tuple(self._of_folds(runs, folder))
        except TrialError as error:
            raise ConfigError(f"trial {self.trial.number} cannot be trained again: {error}") from None

    def held_out(self) -> HeldOut:
        """The predictions of the rows that the models were not trained on."""
        if self.chosen is None:
            return self.rows.held_out(self.runs)
        [run] = self.runs
        rows = np.flatnonzero(self.rows.assignments == run.fold)
        folds, truth = np.full(len(rows), run.fold, np.int16), self.rows.dataset.labels[rows]
        return HeldOut(rows=rows, folds=folds, truth=truth, predictions=self.chosen.predictions)

    def _best_run(self) -> FoldRun:
        sign = 1 if self.study.record.direction == "maximize" else -1
        return max(self.runs, key=lambda run: (sign * (run.score or 0.0), -run.fold))

    def _of_folds(self, runs: Sequence[FoldRun], folder: Path) -> Iterator[Member]:
        """Write each fold's model. Frozen weights that they share are only in the first model's folder."""
        base: tuple[str, Classifier] | None = None
        for run in runs:
            member, classifier, job = self._of_fold(run)
            if base is not None:
                checksums = write_difference(classifier, folder / member.folder, base=base[1])
                yield member.model_copy(update={"base": base[0], "checksums": checksums})
                continue
            yield _write(member, classifier, job, folder)
            if has_frozen_weights(job.params.model):
                base = member.folder, classifier

    def _of_fold(self, run: FoldRun) -> tuple[Member, Classifier, FoldJob]:
        self.step(f"the model of fold {run.fold}")
        job = self.objective.job(self.trial.params, run.fold)
        weights = self.chosen.weights if self.chosen else self._kept(run, job) or self._train_again(run, job)
        counts = (run.sample or {}).get("counts_after") or job.counts(job.training_rows).tolist()
        member = _member(job, fold=run.fold, epochs=run.best_epoch or 0, score=run.score, class_counts=tuple(counts))
        return member, self.objective.classifier(job, weights), job

    def _kept(self, run: FoldRun, job: FoldJob) -> Mapping[str, Tensor] | None:
        """The weights that were stored when the fold was done; None if they have been deleted."""
        name = weights_name(run.predictions or "")
        artifacts = Artifacts(self.config.storage.artifacts)
        if run.predictions is None or not artifacts.exists(name):
            self.say(f"trial {run.trial} fold {run.fold}: its weights were not kept, so it is trained again")
            return None
        try:
            return read_weights(artifacts.get(name), job=job)
        except (StorageError, TrialError) as error:
            self.say(f"trial {run.trial} fold {run.fold}: {error}; so it is trained again")
            return None

    def _train_again(self, run: FoldRun, job: FoldJob) -> Mapping[str, Tensor]:
        """Train the fold as before, up to its best epoch."""
        self.step(f"training fold {run.fold} again")
        training = self.objective.training(job)
        for score in training.epochs():
            self.say(f"trial {run.trial} fold {run.fold}: epoch {score.epoch} of {run.best_epoch}")
            if score.epoch == run.best_epoch:
                break
        if run.score is not None and abs(training.best.score - run.score) > 1e-6:
            self.say(
                f"note: trial {run.trial} fold {run.fold} scored {training.best.score:.6f} now, {run.score:.6f} then; "
                "another machine or package version gives other results"
            )
        return read_weights(training.best_weights, job=job)

    def _refit(self, folder: Path) -> Member:
        """Train on all rows, for the median of the folds' best epochs."""
        epochs = round_half_up(statistics.median(run.best_epoch or 1 for run in self.runs))
        first = self.objective.job(self.trial.params, 0)
        training_params = first.params.training.model_copy(update={"epochs": epochs})
        job = replace(
            first,
            params=first.params.model_copy(update={"training": training_params}),
            training_rows=np.arange(len(first.labels)),
            validation_rows=np.empty(0, np.int64),
            seed=fold_seed(self.config.study.seed, -1),
        )
        self.step(f"training on all {len(first.labels):,} rows, {epochs} epochs")
        training = self.objective.training(job)
        for epoch in training.refit():
            self.say(f"trial {self.trial.number} on all {len(first.labels)} rows: epoch {epoch} of {epochs}")
        counts = tuple(training.sample.counts_after.tolist())
        member = _member(job, fold=None, epochs=epochs, score=None, class_counts=counts)
        classifier = self.objective.classifier(job, read_weights(training.best_weights, job=job))
        return _write(member, classifier, job, folder)


def _write(member: Member, classifier: Classifier, job: FoldJob, folder: Path) -> Member:
    checksums = write_classifier(classifier, folder / member.folder, encoder=job.params.model.encoder)
    return member.model_copy(update={"checksums": checksums})


def _member(
    job: FoldJob, *, fold: int | None, epochs: int, score: float | None, class_counts: tuple[int, ...]
) -> Member:
    mean, deviation = job.label_scale
    return Member(
        folder="refit" if fold is None else f"fold-{fold}",
        fold=fold,
        epochs=epochs,
        score=score,
        class_counts=class_counts,
        mean=mean,
        deviation=deviation,
        checksums={},
    )


def _describe(source: _Source, held_out: HeldOut, *, form: Form, members: tuple[Member, ...]) -> Description:
    rows, dataset, truth = source.rows, source.rows.dataset, held_out.truth
    names = defined_metrics(rows.goal, task=source.config.data.task, num_classes=len(dataset.label_names))
    params = resolve(source.config, source.trial.params)
    packages = PACKAGES if params.model.morphemes == "none" else PACKAGES + morphemes.PACKAGES
    return Description(
        form=form,
        study=source.study.record.name,
        trial=source.trial.number,
        task=source.config.data.task,
        label_names=tuple(dataset.label_names),
        data=source.config.data,
        params=params,
        max_length=source.objective.longest,
        goal=rows.goal,
        fold_scores=tuple(run.score or 0.0 for run in source.runs),
        provisional=source.provisional,
        pooled=score_all(names, truth, held_out.predictions, rows.goal),
        temperature=temperature(held_out) if dataset.spec.task == "classification" else 1.0,
        entity_types=shown_types(dataset, form=params.model.entity_form) if dataset.spec.relation else (),
        members=members,
        packages={name: importlib.metadata.version(name) for name in packages},
        fingerprints=source.study.record.fingerprints,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picked:
    """The trial to be exported, and its fold runs that there is a model of; `provisional` is what is missing of it."""

    trial: TrialRecord
    runs: Sequence[FoldRun]
    provisional: str | None = None
    checkpoint: bytes | None = None  # of the one fold run, where that is not done

    def chosen(self, objective: Objective) -> Chosen | None:
        """The best epoch so far of the one fold run that is not done."""
        if self.checkpoint is None:
            return None
        [run] = self.runs
        try:
            job = objective.job(self.trial.params, run.fold)
            return read_best(self.checkpoint, fingerprint=job.fingerprint())
        except TrialError as error:
            raise ConfigError(f"trial {run.trial} fold {run.fold}: {error}") from None


def _pick(study: OpenStudy, number: int | None, *, artifacts: Artifacts) -> _Picked:
    trials = study.ledger.trials()
    complete = {trial.number: trial for trial in trials if trial.state is TrialState.COMPLETE}
    best = find_best(study.record, trials)
    if number is None and best is not None:
        number = best.trial
    if number in complete:
        runs = [run for run in study.ledger.fold_runs() if run.trial == number]
        return _Picked(trial=complete[number], runs=runs)
    if (picked := _pick_provisional(study, number, artifacts=artifacts)) is not None:
        return picked
    if number is None:
        is_of_images = study.record.config["data"].get("image") is not None
        hint = "" if is_of_images else "; --baseline exports the TF-IDF baseline"
        raise ConfigError(f"study {study.record.name!r} has no trained epoch yet, so there is nothing to export{hint}")
    known = ", ".join(map(str, complete)) or "none"
    raise ConfigError(
        f"--trial: found {number}, expected a trial of study {study.record.name!r} of which something is trained; "
        f"complete trials: {known}"
    )


def _pick_provisional(study: OpenStudy, number: int | None, *, artifacts: Artifacts) -> _Picked | None:
    """Pick what is trained so far; None if that is nothing.

    A worker that trains meanwhile removes a checkpoint when it has two later ones: then the later one is looked for.
    """
    for attempt in range(1, MOST_LOOKS + 1):
        found = find_provisional(study.ledger, number)
        if found is None:
            return None
        if found.runs[0].state is FoldRunState.DONE:
            return _Picked(trial=found.trial, runs=found.runs, provisional=found.reason)
        try:
            checkpoint = artifacts.get(found.runs[0].checkpoint or "")
        except StorageError:
            if attempt == MOST_LOOKS:
                raise
            continue
        return _Picked(trial=found.trial, runs=found.runs, provisional=found.reason, checkpoint=checkpoint)
    return None


def round_half_up(number: float) -> int:
    """Round to the nearest whole number, a half up."""
    return int(number + 0.5)
