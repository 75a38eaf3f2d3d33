"""What others do, as policies: published rules, Optuna's pruners as users apply them, intensification, a fixed cut."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import TrialState

from benchmarks.replay.policies import Policy
from fold_search.search.racing.matrix import Matrix, RunState, last_scores
from fold_search.search.racing.policy import next_fold_run
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.study.sections import RaceConfig

CONTINUE = Verdict(decision=Decision.CONTINUE)
STOP = Verdict(decision=Decision.STOP)
PAUSE = Verdict(decision=Decision.PAUSE)

NO_RACE = RaceConfig(rule="none")
STUDY = "replay"  # Hyperband deals brackets by the study's name and the trial's number
RUNGS = (1, 2, 4, 8)

Reports = Literal["fold", "epoch"]


@dataclass(slots=True, kw_only=True)
class TrialByTrial:
    """Trains a trial's folds one after the other, then the next trial."""

    every_epoch: bool = False

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """Choose as the service does without a race."""
        return next_fold_run(matrix, settings=NO_RACE, trials_left=trials_left)


@dataclass(slots=True, kw_only=True)
class Bergman(TrialByTrial):
    """Stop after a fold if the mean so far is no better than the incumbent's (Bergman et al. 2024, arXiv 2405.03389).

    aggressive: than its mean over all folds; forgiving: than its worst fold. Not paired, as published.
    """

    rule: Literal["aggressive", "forgiving"]

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Compare with the best complete trial."""
        incumbent = _incumbent(matrix, other_than=trial)
        if incumbent is None:
            return CONTINUE
        scores = last_scores(matrix.scores[[trial, incumbent]])
        bar = scores[1].mean() if self.rule == "aggressive" else scores[1].min()
        return STOP if scores[0, matrix.done[trial]].mean() <= bar else CONTINUE


@dataclass(slots=True, kw_only=True)
class Intensification(TrialByTrial):
    """Reject a trial that is behind the incumbent on the same 1, 2, 4, ... folds, without a test (SMAC3)."""

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Compare with the best complete trial on the folds that are done."""
        done = matrix.done[trial]
        incumbent = _incumbent(matrix, other_than=trial)
        if incumbent is None or done.sum() not in RUNGS:
            return CONTINUE
        own, theirs = last_scores(matrix.scores[[trial, incumbent]])[:, done]
        return STOP if own.mean() < theirs.mean() else CONTINUE


@dataclass(slots=True, kw_only=True)
class EpochCut:
    """Train every trial for `epochs` epochs on all folds, then the `finish` best of them to their end.

    After i-Epoch (Egele et al. 2024, arXiv 2404.04111), over folds.
    """

    epochs: int = 2
    finish: int = 3
    every_epoch: bool = True
    _finalists: list[int] | None = None

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Pause at the cut."""
        if self._finalists is None and matrix.num_epochs[trial, fold] >= self.epochs:
            return PAUSE
        return CONTINUE

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """Give every fold of every trial its epochs first."""
        if self._finalists is None:
            waiting = np.argwhere(matrix.states == RunState.WAITING)
            if len(waiting):
                return Choice(action=Action.RUN, trial=int(waiting[0, 0]), fold=int(waiting[0, 1]))
            if trials_left:
                return Choice(action=Action.START)
            if (matrix.states == RunState.RUNNING).any():
                return Choice(action=Action.WAIT)
            means = last_scores(matrix.scores).mean(axis=1)
            self._finalists = np.argsort(-means, kind="stable")[: self.finish].tolist()
        for trial in self._finalists:
            paused = np.flatnonzero(matrix.states[trial] == RunState.PAUSED)
            if len(paused):
                return Choice(action=Action.RUN, trial=trial, fold=int(paused[0]))
        return Choice(action=Action.END)


@dataclass(slots=True, kw_only=True)
class OptunaPruner(TrialByTrial):
    """One of Optuna's pruners in a study in memory, as users apply it.

    per fold: the mean of the folds so far is reported after each, at step 1, 2, ...; for Wilcoxon the fold's own score,
    at the fold's number. per epoch: the standing after each epoch of the first fold, which alone is ever reported.
    """

    pruner: BasePruner
    reports: Reports
    _study: optuna.Study = field(init=False)
    _ids: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.every_epoch = self.reports == "epoch"
        self._study = optuna.create_study(study_name=STUDY, direction="maximize", pruner=self.pruner)

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Report what there is to report, and ask."""
        storage = self._study._storage
        while len(self._ids) < len(matrix.numbers):
            self._ids.append(storage.create_new_trial(self._study._study_id))
        number, done = self._ids[trial], matrix.done[trial]
        report = self._report(matrix, trial, fold)
        if report is not None:
            storage.set_trial_intermediate_value(number, *report)
        if done.all():
            mean = float(last_scores(matrix.scores[trial]).mean())
            storage.set_trial_state_values(number, TrialState.COMPLETE, [mean])
        elif report is not None and self.pruner.prune(self._study, storage.get_trial(number)):
            storage.set_trial_state_values(number, TrialState.PRUNED)
            return STOP
        return CONTINUE

    def _report(self, matrix: Matrix, trial: int, fold: int) -> tuple[int, float] | None:
        scores, done = matrix.scores[trial], matrix.done[trial]
        if self.reports == "epoch":
            return (int(matrix.num_epochs[trial, 0]), float(last_scores(scores[0]))) if fold == 0 else None
        if not done[fold]:
            return None
        if isinstance(self.pruner, WilcoxonPruner):
            return fold, float(last_scores(scores[fold]))
        return int(done.sum()), float(last_scores(scores[done]).mean())


def _incumbent(matrix: Matrix, *, other_than: int) -> int | None:
    """The row of the complete trial with the best mean."""
    complete = np.flatnonzero(matrix.complete)
    complete = complete[complete != other_than]
    if not complete.size:
        return None
    return int(complete[last_scores(matrix.scores[complete]).mean(axis=1).argmax()])


def _wilcoxon(p_threshold: float = 0.1, n_startup_steps: int = 2) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WilcoxonPruner(p_threshold=p_threshold, n_startup_steps=n_startup_steps)


def _percentile(percentile: float = 25.0, n_startup_trials: int = 5) -> BasePruner:
    return PercentilePruner(percentile, n_startup_trials=n_startup_trials)


def _pruning(make: Callable[..., BasePruner], reports: Reports) -> Callable[..., Policy]:
    def policy(**settings: float) -> Policy:
        return OptunaPruner(pruner=make(**settings), reports=reports)

    return policy


def _bergman(rule: Literal["aggressive", "forgiving"]) -> Callable[..., Policy]:
    def policy() -> Policy:
        return Bergman(rule=rule)

    return policy


BASELINES: dict[str, Callable[..., Policy]] = {
    "bergman-aggressive": _bergman("aggressive"),
    "bergman-forgiving": _bergman("forgiving"),
    "median": _pruning(MedianPruner, "fold"),
    "median-epochs": _pruning(MedianPruner, "epoch"),
    "percentile": _pruning(_percentile, "fold"),
    "percentile-epochs": _pruning(_percentile, "epoch"),
    "wilcoxon": _pruning(_wilcoxon, "fold"),
    "halving": _pruning(SuccessiveHalvingPruner, "fold"),
    "halving-epochs": _pruning(SuccessiveHalvingPruner, "epoch"),
    "hyperband": _pruning(HyperbandPruner, "fold"),
    "hyperband-epochs": _pruning(HyperbandPruner, "epoch"),
    "intensification": Intensification,
    "epoch-cut": EpochCut,
}
