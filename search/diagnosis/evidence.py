"""What a diagnosis looks at: one trial's ledger rows, its stored out-of-fold predictions, and the data."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.data import Dataset, read_dataset
from objectives.metrics import Goal
from objectives.params import Params
from search.config import StudyConfig
from search.errors import ConfigError
from search.goal import make_goal
from search.report import find_best
from search.space import resolve
from search.study import OpenStudy, on_this_machine
from storage.artifacts import Artifacts
from storage.records import EpochRecord, FoldRun, FoldRunState, StudyRecord, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Every row whose fold is done, predicted by the best epoch of the fold that did not train on it."""

    rows: NDArray[np.int64]  # (n,) indices into the data, rising within a fold
    folds: NDArray[np.int16]  # (n,)
    truth: NDArray[np.int64] | NDArray[np.float64]  # (n,) classes, or a numeric label
    predictions: NDArray[np.float32]  # (n, classes) probabilities, or (n, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A trial and the study around it."""

    study: StudyRecord
    config: StudyConfig
    trials: Sequence[TrialRecord]
    runs: Sequence[FoldRun]  # of the whole study, by trial and fold
    epochs: Sequence[EpochRecord]  # of the whole study, by trial, fold and epoch
    trial: TrialRecord
    params: Params
    goal: Goal
    dataset: Dataset
    assignments: NDArray[np.int16]
    held_out: HeldOut

    @property
    def is_classification(self) -> bool:
        """Whether the label is a class."""
        return len(self.dataset.label_names) > 0

    @property
    def done(self) -> list[FoldRun]:
        """The trial's fold runs that are done."""
        return _done(self.runs, self.trial.number)


def read_evidence(study: OpenStudy, *, trial: int | None = None, overrides: Sequence[str] = ()) -> Evidence:
    """Read all there is about `trial`, the best complete one if None; `overrides` are this machine's paths.

    Raises ConfigError if there is no such trial, none of its folds is done, or the data changed; DataError,
    StorageError.
    """
    config = on_this_machine(study.record, overrides)
    trials, runs = study.ledger.trials(), study.ledger.fold_runs()
    chosen = _choose(study.record, trials, runs, number=trial)
    assignments = study.ledger.assignments()
    dataset = _read_data(config, study.record)
    done = _done(runs, chosen.number)
    return Evidence(
        study=study.record,
        config=config,
        trials=trials,
        runs=runs,
        epochs=study.ledger.epochs(),
        trial=chosen,
        params=resolve(config, chosen.params),
        goal=make_goal(config, dataset.label_names),
        dataset=dataset,
        assignments=assignments,
        held_out=_read_predictions(Artifacts(config.storage.artifacts), done, dataset, assignments),
    )


def _done(runs: Sequence[FoldRun], trial: int) -> list[FoldRun]:
    return [run for run in runs if run.trial == trial and run.state is FoldRunState.DONE]


def _choose(
    record: StudyRecord, trials: Sequence[TrialRecord], runs: Sequence[FoldRun], *, number: int | None
) -> TrialRecord:
    usable = [trial.number for trial in trials if _done(runs, trial.number)]
    others = f"trials with one: {_listed(usable)}" if usable else "no trial of the study has one yet"
    if number is None:
        best = find_best(record, trials)
        if best is None:
            raise ConfigError(f"study {record.name!r} has no complete trial; --trial N needs a finished fold; {others}")
        number = best.trial
    by_number = {trial.number: trial for trial in trials}
    if number not in by_number:
        known = f"trials 0 to {max(by_number)}" if by_number else "no trials yet"
        raise ConfigError(f"--trial: found {number}, but study {record.name!r} has {known}")
    if number not in usable:
        raise ConfigError(f"--trial: trial {number} of study {record.name!r} has no finished fold; {others}")
    return by_number[number]


def _listed(numbers: Sequence[int], most: int = 8) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more


def _read_data(config: StudyConfig, record: StudyRecord) -> Dataset:
    dataset = read_dataset(config.data)
    expected = record.fingerprints.get("data", "")
    if dataset.fingerprint != expected:
        raise ConfigError(
            f"{config.data.path}: the data has changed since the study began "
            f"(fingerprint {dataset.fingerprint[:12]}, expected {expected[:12]})"
        )
    return dataset


def _read_predictions(
    artifacts: Artifacts, done: Sequence[FoldRun], dataset: Dataset, assignments: NDArray[np.int16]
) -> HeldOut:
    num_outputs = len(dataset.label_names) or 1
    rows = [np.flatnonzero(assignments == run.fold) for run in done]
    predictions = [
        _read_array(artifacts, run, shape=(len(mine), num_outputs)) for run, mine in zip(done, rows, strict=True)
    ]
    pooled = np.concatenate(rows)
    return HeldOut(
        rows=pooled,
        folds=assignments[pooled],
        truth=dataset.labels[pooled],
        predictions=np.concatenate(predictions),
    )


def _read_array(artifacts: Artifacts, run: FoldRun, *, shape: tuple[int, int]) -> NDArray[np.float32]:
    where = f"trial {run.trial}, fold {run.fold}: the predictions {run.predictions!r}"
    if run.predictions is None:
        raise ConfigError(f"trial {run.trial}, fold {run.fold}: there are no stored predictions")
    content = artifacts.get(run.predictions)
    try:
        stored = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        raise ConfigError(f"{where} are damaged, expected a .npy file") from None
    if stored.shape != shape:
        raise ConfigError(f"{where} have shape {stored.shape}, expected {shape}")
    return np.asarray(stored, np.float32)
