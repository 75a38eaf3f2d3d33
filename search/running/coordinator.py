"""The coordinator: the one process that talks to Optuna. It asks for trials, tells results and frees expired leases."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna

from fold_search.models.params import Scalar
from fold_search.objectives.scoring.metrics import METRICS
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.haste import RECONSIDER_SECONDS
from fold_search.search.racing.live import LiveRace
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Action
from fold_search.search.reporting.baselines import score_words
from fold_search.search.reporting.summary import summarise
from fold_search.search.running.presence import end_announcement
from fold_search.search.running.proposals import make_sampler
from fold_search.search.study.attended import COORDINATOR_ROLE, WORKER_ROLE
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.space import grid, suggest, usual
from fold_search.storage.errors import LeaseLost, StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import (
    Event,
    EventKind,
    Failure,
    FoldRun,
    FoldRunState,
    StudyState,
    TrialRecord,
    TrialState,
)
from fold_search.storage.studies import ask_afresh, close_study, end, next_number, open_study, optuna_errors, report

ROLE_SECONDS = 20.0
RENEWAL_SECONDS = 1.0
MAX_ATTEMPTS = 5
MOST_PASSED_OVER = 10  # trials skipped in one step; more would delay the renewal of the role
NOT_WORTH_IT = "more training is not expected to find a better trial"
NO_EXPECTED_GAIN = "ten more trials are expected to improve the score by less than the noise between folds"


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """Keeps a study going while it holds the role; `url` is the database with its password.

    Its own `ledger` refuses changes while another coordinator leads.
    """

    ledger: Ledger
    config: StudyConfig
    race: LiveRace
    url: str
    owner: str
    pooled_score: Callable[[int], float | None]
    # Called when trials have ended: deletes stored files of trials that are not kept.
    prune: Callable[[], None] = lambda: None
    # Without new trials the study only finishes what it has begun.
    asking: bool = True
    leading: bool = False
    _last_renewal: float = 0.0
    _expires_from: float = 0.0
    _seen: tuple[int, int] | None = None
    _look_again: float = math.inf
    _study: optuna.Study | None = None
    _grid: list[dict[str, Scalar]] = field(default_factory=list)  # if that is the sampler, once it is asked for
    _reported: dict[int, tuple[int, int]] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)  # baselines, by their names

    def __post_init__(self) -> None:
        # A lease that lapses while this process sleeps does not stop it: its next write has to fail.
        self.ledger = self.ledger.fenced(COORDINATOR_ROLE, self.owner)

    def step(self) -> bool:
        """Do what is due; False once the study is finished. Without the role, only check that."""
        if self.ledger.study().state is not StudyState.RUNNING:
            return False
        try:
            if not self._lead():
                return True
            seen = (self.ledger.last_sequence(), len(self.ledger.live_roles(WORKER_ROLE)))
            if seen == self._seen and time.monotonic() < self._look_again:
                return True  # nothing has happened since the last step
            with optuna_errors(self.url):
                self._settle()
                self.show_baselines()
                working = not self._gives_up() and self._provide(num_workers=seen[1])
        except StorageUnavailable:
            self._close()  # a trial that was asked for and not written down is found when the study is opened again
            raise
        except (LeaseLost, optuna.exceptions.UpdateFinishedTrialError):
            # This process slept past its role's lease, in the middle of a step; another coordinator was faster.
            self._last_renewal = 0.0
            self._close()
            return True
        self._seen = seen
        self._look_again = time.monotonic() + RECONSIDER_SECONDS if self.race.haste else math.inf
        return working

    def _lead(self) -> bool:
        """Take or keep the role, and free expired leases; every second, so that the database is not kept busy.

        After an outage of the database, or this machine's sleep, workers are given the time to renew theirs.
        """
        # It goes on while a machine sleeps, and may be set back: then it is time as well.
        now = time.time()
        if not 0 <= now - self._last_renewal < RENEWAL_SECONDS:
            self.leading = self.ledger.acquire_role(COORDINATOR_ROLE, self.owner, lease_seconds=ROLE_SECONDS)
            if not self._last_renewal:  # the first time
                end_announcement(self.ledger, self.owner)
            if now - self._last_renewal > ROLE_SECONDS and self._last_renewal:
                self._expires_from = now + ROLE_SECONDS
            self._last_renewal = now
            if self.leading and now >= self._expires_from:
                self.ledger.expire_leases(max_attempts=MAX_ATTEMPTS)
            elif not self.leading:
                self._seen = None
                self._close()
        return self.leading

    def _close(self) -> None:
        if self._study is not None:
            close_study(self._study)
            self._study = None

    def leave(self) -> None:
        """Give the role up, so that another process need not wait for it to lapse."""
        self.ledger.release_role(COORDINATOR_ROLE, self.owner)
        self._close()

    def _settle(self) -> None:
        """End the trials whose folds are all done, and tell Optuna of them and of other trials that progressed."""
        open_trials = self._open_trials()
        if not open_trials:
            return
        expected = estimates(self.race.scores.matrix())
        ended = [(trial, runs) for trial, runs in open_trials if _has_ended(trial, runs)]
        for trial, runs in open_trials:
            if not _has_ended(trial, runs):
                self._report_partial(trial.number, runs, expected.get(trial.number))
        for trial, runs in ended:
            self._end(trial, runs, expected.get(trial.number))
        if ended:
            self.prune()

    def show_baselines(self) -> None:
        """Write the baselines beside Optuna's trials, where its dashboard shows them: they are none of these."""
        for found in self.ledger.baselines():
            if found.name not in self._shown:
                with optuna_errors(self.url):
                    self._optuna().set_user_attr(f"baseline: {found.label}", score_words(found))
                self._shown.add(found.name)

    def _gives_up(self) -> bool:
        """End the study if too many trials have failed in a row. Open trials stay open, to be continued."""
        most = self.config.budget.max_failures
        ended = self.ledger.last_events((EventKind.TRIAL_FINISHED, EventKind.STUDY_REOPENED), limit=most)
        if len(ended) < most or not all(map(_teaches_nothing, ended)):
            return False
        reason = f"{most} trials failed in a row; the last was trial {ended[0].trial}: {ended[0].payload['reason']}"
        self.ledger.finish_study(reason, state=StudyState.FAILED)
        return True

    def _open_trials(self) -> list[tuple[TrialRecord, list[FoldRun]]]:
        """The trials that Optuna does not know to have ended, with their fold runs."""
        trials = self.ledger.trials(told=False)
        runs: defaultdict[int, list[FoldRun]] = defaultdict(list)
        for run in self.ledger.fold_runs(trials=[trial.number for trial in trials]):
            runs[run.trial].append(run)
        return [(trial, runs[trial.number]) for trial in trials]

    def _report_partial(self, number: int, runs: Sequence[FoldRun], expected: float | None) -> None:
        """Report where a trial stands when a fold of it is done or paused."""
        halted = [run for run in runs if run.state in (FoldRunState.DONE, FoldRunState.PAUSED)]
        progress = (len(halted), sum(run.num_epochs for run in halted))
        if halted and self._reported.get(number) != progress:
            # Never one fold's score: the sampler would rank the trial by its last fold.
            if expected is not None:
                report(self._optuna(), number, step=len(halted), value=expected)
            self._reported[number] = progress

    def _end(
        self,
        trial: TrialRecord,
        runs: Sequence[FoldRun],
        expected: float | None,
        *,
        reason: str | None = None,
        chance: float | None = None,
    ) -> None:
        """Write a trial's end into the ledger, then tell Optuna: a crash in between is mended by the next step.

        With a `reason` the trial is stopped, whatever its fold runs do, at this `chance` to be the best.
        """
        scores = [run.score for run in runs if run.state is FoldRunState.DONE and run.score is not None]
        complete = len(scores) == len(runs) and trial.state is TrialState.RUNNING
        state = TrialState.COMPLETE if complete else TrialState.STOPPED if reason else trial.state
        if trial.failure is Failure.DIVERGED:
            expected = METRICS[self.config.study.metric].worst
        self.ledger.finish_trial(
            trial.number,
            state,
            score=statistics.fmean(scores) if complete else None,
            std=statistics.stdev(scores) if complete else None,
            pooled=self.pooled_score(trial.number) if complete else None,
            estimate=expected,
            reason=reason,
            chance=chance,
        )
        self._tell(trial, state, scores=scores, expected=expected, begun=_num_begun(runs))
        self.ledger.mark_told(trial.number)

    def _tell(
        self, trial: TrialRecord, state: TrialState, *, scores: list[float], expected: float | None, begun: int
    ) -> None:
        value, last_report = None, None
        attributes: dict[str, Any] = {"fold_scores": scores}
        if trial.failure is not None:
            attributes |= {"failure": trial.failure.value, "reason": trial.reason}
            # What was reported before the failure is not what the trial is worth.
            expected = math.nan if expected is None else expected
        if state is TrialState.COMPLETE:
            value, attributes["std"] = statistics.fmean(scores), statistics.stdev(scores)
        elif state is TrialState.STOPPED and expected is not None:
            # Without any finite score nothing is reported: the sampler ranks such a trial behind all others.
            last_report = max(begun, 1), expected
        end(self._optuna(), trial.number, state, value=value, attributes=attributes, last_report=last_report)

    def _provide(self, *, num_workers: int) -> bool:
        """Ask for the trials that the race wants; finish the study when it wants nothing more.

        One whose params speak against it is not begun, and another one asked for, a few in one step. One worker waits
        for the sampler, so that every proposal knows the same past each time: reproducible. For several, what one of
        them will want next is there ahead of time.
        """
        num_running = int((self.race.scores.matrix().states == RunState.RUNNING).sum())
        wanted = max(0, num_workers - num_running) + 1 if num_workers > 1 else 1 - num_running
        taken: list[tuple[int, int]] = []  # what the workers will claim, idle workers first
        for _ in range(wanted + MOST_PASSED_OVER):
            if len(taken) == wanted:
                break
            matrix = self.race.scores.matrix()
            for trial, fold in taken:
                matrix = matrix.with_state(trial, fold, RunState.RUNNING)
            choice = self.race.next_fold_run(matrix)
            match choice.action:
                case Action.RUN:
                    taken.append((choice.trial, choice.fold))
                case Action.START if self.asking:
                    self._add_trial()
                case Action.END if not (num_running or taken):
                    return not self._finish(matrix, choice.chances)
                case _:
                    break
        return True

    def _finish(self, matrix: Matrix, chances: Mapping[int, float]) -> bool:
        """Stop what is still open, at these chances, and end the study; False if something is to be settled before."""
        left = self.race.trials_left(matrix)
        open_trials = self._open_trials()
        if any(_has_ended(*found) for found in open_trials) or (left and not self.asking):
            return False
        expected = estimates(matrix)
        for trial, runs in open_trials:
            chance = None if trial.audited else chances.get(trial.number)
            self._end(trial, runs, expected.get(trial.number), reason=NOT_WORTH_IT, chance=chance)
        self.prune()
        num_trials = len(matrix.numbers)
        reason = f"{num_trials} of {self.race.num_trials} trials"
        if num_trials < self.race.num_trials:
            reason += f": {NOT_WORTH_IT if left else NO_EXPECTED_GAIN}"
        summary = summarise(self.ledger)
        figures = {"work_saved": summary.work_saved, **asdict(summary.race)}
        self.ledger.finish_study(reason, race=figures)
        return True

    def _add_trial(self) -> None:
        number, params = self._ask()
        self.ledger.add_trial(number, params)

    def _ask(self) -> tuple[int, dict[str, Scalar]]:
        study = self._optuna()
        # What another coordinator asked for but never wrote down is asked for again.
        number = next_number(study, known=set(self.race.scores.matrix().numbers.tolist()))
        # A sampler seeded by the trial's number proposes after a restart what it would have proposed without one.
        study.sampler = make_sampler(self.config, number, estimates=estimates(self.race.scores.matrix()))
        if self.config.study.sampler == "grid":
            self._grid = self._grid or grid(self.config)
            study.enqueue_trial(self._grid[number], skip_if_exists=True)
        elif number == 0 and self.config.study.defaults:
            study.enqueue_trial(usual(self.config), skip_if_exists=True)
        return number, suggest(ask_afresh(study, number=number), self.config)

    def _optuna(self) -> optuna.Study:
        if self._study is None:
            record = self.ledger.study()
            self._study = open_study(self.url, name=record.name, direction=record.direction)
        return self._study


def _has_ended(trial: TrialRecord, runs: Iterable[FoldRun]) -> bool:
    if trial.state is TrialState.RUNNING:
        return all(run.state is FoldRunState.DONE for run in runs)
    return not any(run.state is FoldRunState.LEASED for run in runs)


def _teaches_nothing(event: Event) -> bool:
    """Whether the event is the end of a failed trial. A diverged trial does not count: the sampler learns from it."""
    failed = event.kind is EventKind.TRIAL_FINISHED and event.payload["state"] == TrialState.FAILED
    return failed and event.payload.get("failure") != Failure.DIVERGED


def _num_begun(runs: Iterable[FoldRun]) -> int:
    return sum(run.num_epochs > 0 for run in runs)
