"""The coordinator: the one process at a time that talks to Optuna. It asks ahead, tells, and frees expired leases."""

import hashlib
import math
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState as OptunaState

from models.params import Scalar
from search.config import StudyConfig
from search.presence import WORKER_ROLE
from search.racing.estimates import estimate
from search.racing.matrix import Matrix
from search.scores import read_matrix
from search.space import grid, most_trials, suggest
from storage.ledger import Ledger
from storage.records import OPEN_STATES, FoldRun, FoldRunState, StudyState, TrialRecord, TrialState
from storage.studies import close_study, open_study, optuna_errors

ROLE = "coordinator"
ROLE_SECONDS = 20.0
RENEWAL_SECONDS = 1.0
MAX_ATTEMPTS = 5
TOLD_AS = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """Keeps a study going while it holds the role; `url` is the database with its password."""

    ledger: Ledger
    config: StudyConfig
    url: str
    owner: str
    pooled_score: Callable[[int], float | None]
    # Called when trials have ended: what was stored of those that are not kept may go.
    prune: Callable[[], None] = lambda: None
    # Without new trials the study only finishes what it has begun.
    asking: bool = True
    leading: bool = False
    _last_renewal: float = -math.inf
    _seen: tuple[int, int] | None = None
    _study: optuna.Study | None = None
    _reported: set[tuple[int, int]] = field(default_factory=set)

    def step(self) -> bool:
        """Do what is due; False once the study is finished. Without the role only the latter is looked at."""
        if self.ledger.study().state is StudyState.FINISHED:
            return False
        if not self._lead():
            return True
        seen = (self.ledger.last_sequence(), len(self.ledger.live_roles(WORKER_ROLE)))
        if seen == self._seen:
            return True  # nothing has happened since the last step
        with optuna_errors(self.url):
            self._settle()
            working = self._ask_ahead(num_workers=seen[1])
        self._seen = seen
        return working

    def _lead(self) -> bool:
        """Take or keep the role, and free expired leases; every second, so that the database is not kept busy."""
        if time.monotonic() - self._last_renewal >= RENEWAL_SECONDS:
            self._last_renewal = time.monotonic()
            self.leading = self.ledger.acquire_role(ROLE, self.owner, lease_seconds=ROLE_SECONDS)
            if self.leading:
                self.ledger.expire_leases(max_attempts=MAX_ATTEMPTS)
            else:
                self._seen = None
                self._close()
        return self.leading

    def _close(self) -> None:
        if self._study is not None:
            close_study(self._study)
            self._study = None

    def leave(self) -> None:
        """Give the role up, so that another process need not wait for it to lapse."""
        self.ledger.release_role(ROLE, self.owner)
        self._close()

    def _settle(self) -> None:
        """End the trials whose folds are through, and tell Optuna of them and of every fold that was finished."""
        open_trials = [trial for trial in self.ledger.trials() if not trial.told]
        if not open_trials:
            return
        runs = defaultdict(list)
        for run in self.ledger.fold_runs():
            runs[run.trial].append(run)
        matrix: Matrix | None = None
        any_ended = False
        for trial in open_trials:
            finished = sum(run.state is FoldRunState.DONE for run in runs[trial.number])
            ended = _has_ended(trial, runs[trial.number])
            any_ended = any_ended or ended
            if not ended and (not finished or (trial.number, finished) in self._reported):
                continue
            matrix = matrix or read_matrix(self.ledger)
            if ended:
                self._end(trial, runs[trial.number], matrix)
            else:
                self._report(trial.number, finished, estimate(matrix, trial=trial.number))
        if any_ended:
            self.prune()

    def _end(self, trial: TrialRecord, runs: list[FoldRun], matrix: Matrix) -> None:
        """Write a trial's end into the ledger, then tell Optuna: a crash in between is mended by the next step."""
        scores = [run.score for run in runs if run.state is FoldRunState.DONE and run.score is not None]
        complete = len(scores) == len(runs) and trial.state is TrialState.RUNNING
        state = TrialState.COMPLETE if complete else trial.state
        expected = estimate(matrix, trial=trial.number)
        self.ledger.finish_trial(
            trial.number,
            state,
            score=statistics.fmean(scores) if complete else None,
            std=statistics.stdev(scores) if complete else None,
            pooled=self.pooled_score(trial.number) if complete else None,
            estimate=expected,
        )
        self._tell(trial.number, state, scores=scores, expected=expected, begun=_num_begun(runs))
        self.ledger.mark_told(trial.number)

    def _tell(self, number: int, state: TrialState, *, scores: list[float], expected: float | None, begun: int) -> None:
        study = self._optuna()
        storage = study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        if storage.get_trial(trial_id).state.is_finished():
            return
        storage.set_trial_user_attr(trial_id, "fold_scores", scores)
        if state is TrialState.COMPLETE:
            storage.set_trial_user_attr(trial_id, "std", statistics.stdev(scores))
        elif state is TrialState.STOPPED:
            # Without any finite score nothing is reported: the sampler ranks such a trial behind all others.
            self._report(number, max(begun, 1), expected)
        value = statistics.fmean(scores) if state is TrialState.COMPLETE else None
        study.tell(number, value, state=TOLD_AS[state], skip_if_finished=True)

    def _report(self, number: int, step: int, expected: float | None) -> None:
        """Report the estimate of the final mean, never one fold's score; the step is the number of folds begun."""
        self._reported.add((number, step))
        if expected is None:
            return
        study = self._optuna()
        trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        study._storage.set_trial_intermediate_value(trial_id, step, expected)

    def _ask_ahead(self, *, num_workers: int) -> bool:
        """Ask for trials until every worker has a fold run and a few wait; finish the study when the budget is used."""
        trials = self.ledger.trials()
        counts = self.ledger.counts()
        num_open = sum(counts.get(state, 0) for state in OPEN_STATES)
        budget = most_trials(self.config)
        if len(trials) >= budget:
            if all(trial.told for trial in trials):
                self.ledger.finish_study(f"{budget} of {budget} trials")
                return False
            return True
        # One worker waits for the sampler, so that every proposal knows the same past each time: reproducible.
        # Several keep one fold run ahead of them.
        wanted = num_workers + 1 if num_workers > 1 else 1
        while self.asking and num_open < wanted and len(trials) < budget:
            number, params = self._ask()
            self.ledger.add_trial(number, params)
            trials = self.ledger.trials()
            num_open += self.ledger.study().num_folds
        return True

    def _ask(self) -> tuple[int, dict[str, Scalar]]:
        study = self._optuna()
        known = {trial.number for trial in self.ledger.trials()}
        number = max(known, default=-1) + 1
        # A sampler seeded by the trial's number proposes after a restart what it would have proposed without one.
        study.sampler = make_sampler(self.config, number)
        if self.config.study.sampler == "grid":
            study.enqueue_trial(grid(self.config)[number], skip_if_exists=True)
        trial = study.ask()
        return trial.number, suggest(trial, self.config)

    def _optuna(self) -> optuna.Study:
        """Open Optuna's study; trials that a dead coordinator asked for but never wrote down go back into its queue."""
        if self._study is None:
            record = self.ledger.study()
            self._study = open_study(self.url, name=record.name, direction=record.direction)
            known = {trial.number for trial in self.ledger.trials()}
            for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
                if trial.number not in known:
                    self._study._storage.set_trial_state_values(trial._trial_id, OptunaState.WAITING)
        return self._study


def make_sampler(config: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """The study's sampler for one trial, seeded from the study's seed and the trial's number."""
    digest = hashlib.sha256(f"{config.study.seed}/trial/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if config.study.sampler == "tpe":
        with warnings.catch_warnings():
            # Without `group` a conditional parameter would be sampled independently of all others.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _has_ended(trial: TrialRecord, runs: Iterable[FoldRun]) -> bool:
    if trial.state is TrialState.RUNNING:
        return all(run.state is FoldRunState.DONE for run in runs)
    return not any(run.state is FoldRunState.LEASED for run in runs)


def _num_begun(runs: Iterable[FoldRun]) -> int:
    return sum(run.num_epochs > 0 for run in runs)
