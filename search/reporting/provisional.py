"""The best of a study before any trial is complete: a trial of which some folds, or some epochs, are trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.live import Scores
from fold_search.storage.records import OPEN_STATES, FoldRun, FoldRunState, TrialRecord, TrialState
from fold_search.storage.view import LedgerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisional:
    """A trial that is not complete, and the fold runs of it that there is a model of.

    These are the folds that are done; where none is, the one fold run that has come furthest and has a checkpoint.
    `scores` are theirs, in the same order: by now, where the fold run is not done.
    """

    trial: TrialRecord
    runs: tuple[FoldRun, ...]
    scores: tuple[float, ...]
    num_folds: int

    @property
    def reason(self) -> str:
        """What is missing, in words."""
        if self.runs[0].state is FoldRunState.DONE:
            return f"{len(self.runs)} of {self.num_folds} folds are trained"
        [run] = self.runs
        return f"no fold is trained to its end; fold {run.fold} has {run.num_epochs} epochs"

    def as_json(self) -> dict[str, Any]:
        """Return it with plain types."""
        return {
            "provisional": True,
            "reason": self.reason,
            "trial": self.trial.number,
            "score": fmean(self.scores),
            "fold_scores": {run.fold: score for run, score in zip(self.runs, self.scores, strict=True)},
            "params": dict(self.trial.params),
        }


def find_provisional(ledger: LedgerView, trial: int | None = None) -> Provisional | None:
    """Return the trial that is expected to end best among those with a fold that is done, or this `trial`.

    Without any such fold, the fold run with the best score by now. None if no checkpoint is there either. Trials that a
    failure ended do not count.
    """
    study = ledger.study()
    trials = {
        record.number: record
        for record in ledger.trials()
        if record.state is not TrialState.COMPLETE and record.failure is None and trial in (None, record.number)
    }
    runs = [run for run in ledger.fold_runs() if run.trial in trials and run.num_epochs]
    sign = 1 if study.direction == "maximize" else -1
    done: dict[int, list[FoldRun]] = {}
    for run in runs:
        if run.state is FoldRunState.DONE and run.score is not None:
            done.setdefault(run.trial, []).append(run)
    if done:
        number = _most_promising(done, estimates(Scores(ledger).matrix()), sign=sign)
        chosen = done[number]
        scores = tuple(run.score or 0.0 for run in chosen)
    else:
        standing = {(epoch.trial, epoch.fold): epoch.standing for epoch in ledger.epochs()}
        open_runs = [run for run in runs if run.state in OPEN_STATES and run.checkpoint is not None]
        begun = [run for run in open_runs if (run.trial, run.fold) in standing]
        if not begun:
            return None
        chosen = [max(begun, key=lambda run: sign * standing[run.trial, run.fold])]
        number, scores = chosen[0].trial, (standing[chosen[0].trial, chosen[0].fold],)
    return Provisional(trial=trials[number], runs=tuple(chosen), scores=scores, num_folds=study.num_folds)


def _most_promising(done: Mapping[int, Sequence[FoldRun]], expected: Mapping[int, float], *, sign: int) -> int:
    def promise(number: int) -> tuple[float, int]:
        mean = fmean(run.score or 0.0 for run in done[number])
        return sign * expected.get(number, mean), -number

    return max(done, key=promise)
