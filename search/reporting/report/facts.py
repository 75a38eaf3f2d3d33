"""What a report tells: all that is known of a study at one time, read once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fold_search.search.errors import USER_ERRORS
from fold_search.search.racing.audits import trial_states
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.importance import Importance, importance
from fold_search.search.racing.live import Scores
from fold_search.search.racing.matrix import FloatArray
from fold_search.search.racing.ties import Tie
from fold_search.search.reporting.diagnosis.evidence import read_evidence
from fold_search.search.reporting.diagnosis.findings import Diagnosis, diagnose
from fold_search.search.reporting.provisional import Provisional, find_provisional
from fold_search.search.reporting.report.comparison import Compared, compare
from fold_search.search.reporting.summary import Summary, best_ties, look, ranked, samples_of, summarise
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EpochRecord, EventKind, FoldRun, FoldRunState, StudyRecord, TrialRecord

MOST_SECTIONS = 20  # trials that have a section of their own
MOST_EVENTS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A fold run was paused after so many epochs, and why."""

    trial: int
    fold: int
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A study. `trials` come by rank; those that are not complete by their `expected` score, where that is known.

    `scores` is (trials, folds, epochs) in the order of `trials`: the metric at the best epoch so far, NaN where nothing
    was trained or the score is not finite. `ended` has the seconds from the study's beginning to each trial's end.
    `missing` says why there is no diagnosis.
    """

    record: StudyRecord
    config: StudyConfig
    summary: Summary
    trials: Sequence[TrialRecord]
    states: Mapping[int, str]
    expected: Mapping[int, float]
    runs: Mapping[int, Sequence[FoldRun]]
    scores: FloatArray
    pauses: Sequence[Pause]
    epochs: Mapping[int, Sequence[EpochRecord]]  # of the first trials
    ended: Mapping[int, float]
    seconds: float
    ties: Sequence[Tie]
    compared: Sequence[Compared]
    leaks: Sequence[Mapping[str, object] | None]
    provisional: Provisional | None
    importance: Importance | None
    diagnosis: Diagnosis | None
    missing: str

    @property
    def chosen(self) -> Sequence[TrialRecord]:
        """The trials that have a section of their own."""
        return self.trials[:MOST_SECTIONS]


def gather(study: OpenStudy, *, overrides: Sequence[str] = ()) -> Facts:
    """Read all that a report tells; `overrides` are this machine's paths of data and artifacts.

    Raises ConfigError for an override that changes what is trained, StorageError. That the data is elsewhere or has
    changed is no error: then there is no diagnosis.
    """
    config, ledger = on_this_machine(study.record, overrides), study.ledger
    known = look(ledger)
    summary = summarise(ledger, known)
    matrix = Scores(ledger).matrix()
    recorded = {trial.number: trial.estimate for trial in known.trials if trial.estimate is not None}
    expected = estimates(matrix) | recorded
    trials = _by_rank(known.record, known.trials, expected)
    diagnosis, missing = _diagnose(study, summary, overrides=overrides)
    rows = [matrix.row(trial.number) for trial in trials]
    return Facts(
        record=known.record,
        config=config,
        summary=summary,
        trials=trials,
        states=trial_states(trials, known.runs),
        expected=expected,
        runs=by_trial(known.runs),
        scores=np.where(np.isfinite(matrix.scores[rows]), matrix.sign * matrix.scores[rows], np.nan),
        pauses=_pauses(ledger, known.runs),
        epochs={trial.number: ledger.epochs(trial=trial.number) for trial in trials[:MOST_SECTIONS]},
        ended=_ends(ledger, known.record),
        seconds=max(event.at for event in ledger.last_events(set(EventKind), limit=1)) - known.record.created_at,
        ties=[] if summary.best is None else best_ties(ledger, summary.best.trial),
        compared=compare(summary, trials),
        leaks=[] if summary.best is None else samples_of(ledger, summary.best.trial),
        provisional=None if summary.best else find_provisional(ledger),
        importance=importance(matrix, config),
        diagnosis=diagnosis,
        missing=missing,
    )


def by_trial(runs: Sequence[FoldRun]) -> dict[int, list[FoldRun]]:
    """The fold runs of each trial, by fold."""
    found: defaultdict[int, list[FoldRun]] = defaultdict(list)
    for run in runs:
        found[run.trial].append(run)
    return found


def _by_rank(
    record: StudyRecord, trials: Sequence[TrialRecord], expected: Mapping[int, float]
) -> Sequence[TrialRecord]:
    """As `ranked`, with all trials that are not complete by what is expected of them."""
    sign = 1 if record.direction == "maximize" else -1
    order = ranked(record, trials)
    complete = [trial for trial in order if trial.score is not None and trial.failure is None]
    others = [trial for trial in order if trial.score is None or trial.failure is not None]
    return [*complete, *sorted(others, key=lambda trial: -sign * expected.get(trial.number, -sign * np.inf))]


def _diagnose(study: OpenStudy, summary: Summary, *, overrides: Sequence[str]) -> tuple[Diagnosis | None, str]:
    if summary.best is None:
        return None, "no trial is complete yet"
    try:
        return diagnose(read_evidence(study, trial=summary.best.trial, overrides=overrides)), ""
    except USER_ERRORS as error:
        return None, str(error)


def _ends(ledger: Ledger, record: StudyRecord) -> dict[int, float]:
    ends = ledger.last_events({EventKind.TRIAL_FINISHED}, limit=MOST_EVENTS)
    return {event.trial: event.at - record.created_at for event in ends if event.trial is not None}


def _pauses(ledger: Ledger, runs: Sequence[FoldRun]) -> list[Pause]:
    """All pauses; where a fold run went on later, its next start says after how many epochs it was paused."""
    epochs = {(run.trial, run.fold): run.num_epochs for run in runs}
    found = []
    for event in ledger.last_events({EventKind.FOLD_RELEASED, EventKind.FOLD_STARTED}, limit=MOST_EVENTS):
        where = (event.trial or 0, event.fold or 0)
        if event.kind is EventKind.FOLD_STARTED:
            epochs[where] = event.payload["num_epochs"]
        elif event.payload["state"] == FoldRunState.PAUSED:
            trial, fold = where
            found.append(
                Pause(trial=trial, fold=fold, epoch=epochs.get(where, 0), reason=event.payload["reason"] or "")
            )
    return found[::-1]
