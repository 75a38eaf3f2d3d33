"""What a diagnosis looks at: one trial's ledger rows, its stored out-of-fold predictions, and the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.params import Params
from fold_search.objectives.scoring.metrics import Goal
from fold_search.search.errors import ConfigError
from fold_search.search.reporting.summary import find_best
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.search.study.rows import HeldOut, StudyRows
from fold_search.search.study.space import resolve
from fold_search.storage.records import BaselineRecord, EpochRecord, FoldRun, FoldRunState, StudyRecord, TrialRecord


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
    baselines: Sequence[BaselineRecord]

    @property
    def is_classification(self) -> bool:
        """Whether the label is a class."""
        return self.config.data.task == "classification"

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
    rows = StudyRows(ledger=study.ledger, config=config)
    return Evidence(
        study=study.record,
        config=config,
        trials=trials,
        runs=runs,
        epochs=study.ledger.epochs(),
        trial=chosen,
        params=resolve(config, chosen.params),
        goal=rows.goal,
        dataset=rows.dataset,
        assignments=rows.assignments,
        held_out=rows.held_out(_done(runs, chosen.number)),
        baselines=study.ledger.baselines(),
    )


def _done(runs: Sequence[FoldRun], trial: int) -> list[FoldRun]:
    return [run for run in runs if run.trial == trial and run.state is FoldRunState.DONE]


def _choose(
    record: StudyRecord, trials: Sequence[TrialRecord], runs: Sequence[FoldRun], *, number: int | None
) -> TrialRecord:
    begun = {run.trial for run in runs if run.state is FoldRunState.DONE}
    usable = [trial.number for trial in trials if trial.number in begun]
    others = (
        f"trials with a finished fold: {_listed(usable)}" if usable else "no trial of the study has a finished fold yet"
    )
    if number is None:
        best = find_best(record, trials)
        if best is None:
            raise ConfigError(
                f"study {record.name!r} has no complete trial yet; --trial N can name one with a finished fold; "
                f"{others}"
            )
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
