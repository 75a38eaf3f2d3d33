"""A study in simulated time: workers train recorded fold runs epoch by epoch, and a policy says which and how far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

import numpy as np

from benchmarks.replay.orders import FloatArray, Order
from benchmarks.replay.policies import Policy
from benchmarks.replay.recorded import Recorded
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Action, Decision

WAITING, RUNNING, PAUSED, DONE, ENDED, _ = (int(state) for state in RunState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a rule stated of a trial that it ended, left unfinished or let run on to check itself."""

    trial: int  # its number in the study
    chance: float | None  # of being the best after all its folds
    kind: Literal["stopped", "left", "audited"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of one study; trials are numbered in the order in which they were drawn."""

    drawn: tuple[int, ...]  # each trial's row in the recorded set
    completed: FloatArray  # (trials,): when it had all its folds, infinity if never
    end: float  # when nothing was left to train
    work: float  # what all trained epochs cost
    epochs: int
    stated: tuple[Stated, ...]
    chosen: int  # the best complete trial; the one of the best estimate where none is complete


def replay(
    recorded: Recorded, *, policy: Policy, order: Order, workers: int = 1, num_trials: int | None = None
) -> Replay:
    """Run one study of `num_trials` trials, all that are recorded if None, until the policy ends it or none is left.

    A worker's unit is one epoch. A fold run that is paused costs nothing to resume; one whose trial is stopped by
    another worker ends with its epoch. AssertionError where the policy asks for what there is not.
    """
    study = _Study(recorded, policy, order, workers, num_trials or len(recorded.final))
    return study.run()


@dataclass(slots=True)
class _Study:
    recorded: Recorded
    policy: Policy
    order: Order
    workers: int
    num_trials: int
    drawn: list[int] = field(default_factory=list)
    work: float = 0.0
    epochs: int = 0
    now: float = 0.0
    events: list[tuple[float, int, int, int]] = field(default_factory=list)
    num_started: int = 0  # fold runs, for the order of simultaneous events
    num_idle: int = 0
    ended: set[int] = field(default_factory=set)
    stated: list[Stated] = field(default_factory=list)
    chances: dict[int, float | None] = field(default_factory=dict)
    chances_left: Mapping[int, float] = field(default_factory=dict)  # when the policy ended the study
    audited: set[int] = field(default_factory=set)
    matrix: Matrix = field(init=False)
    scores: FloatArray = field(init=False)
    states: np.ndarray = field(init=False)
    progress: list[list[int]] = field(init=False)
    completed: list[float] = field(init=False)

    def __post_init__(self) -> None:
        _, num_folds, num_epochs = self.recorded.scores.shape
        self.scores = np.full((self.num_trials, num_folds, num_epochs), np.nan)
        self.states = np.full((self.num_trials, num_folds), WAITING, np.int8)
        self.progress = [[0] * num_folds for _ in range(self.num_trials)]
        self.completed = [np.inf] * self.num_trials
        self.num_idle = self.workers
        self._show()

    def run(self) -> Replay:
        """Go from event to event, an event the end of one worker's epoch."""
        self._employ()
        while self.events:
            self.now, _, trial, fold = heappop(self.events)
            if self._train(trial, fold):
                self._begin_epoch(trial, fold)
            else:
                self.num_idle += 1
            if self.num_idle:
                self._employ()
        return Replay(
            drawn=tuple(self.drawn),
            completed=np.array(self.completed[: len(self.drawn)]),
            end=self.now,
            work=self.work,
            epochs=self.epochs,
            stated=(*self.stated, *self._left()),
            chosen=self._choose(),
        )

    def _train(self, trial: int, fold: int) -> bool:
        """End an epoch; whether the worker goes on with this fold run."""
        row, progress = self.drawn[trial], self.progress[trial]
        epoch = progress[fold]
        self.scores[trial, fold, epoch] = self.recorded.scores[row, fold, epoch]
        progress[fold] = epoch + 1
        self.work += self.recorded.costs[row, fold]
        self.epochs += 1
        if epoch + 1 == self.recorded.lengths[row, fold]:
            self.states[trial, fold] = DONE
            if (self.states[trial] == DONE).all():
                self.completed[trial] = self.now
            if trial not in self.ended:
                self._judge(trial, fold)
            return False
        if trial in self.ended:
            self.states[trial, fold] = ENDED
            return False
        return not self.policy.every_epoch or self._judge(trial, fold)

    def _judge(self, trial: int, fold: int) -> bool:
        """Ask for a verdict and carry it out; whether the fold run goes on, if it is not done."""
        left = self.num_trials - len(self.drawn)
        verdict = self.policy.verdict(self.matrix, trial=trial, fold=fold, trials_left=left)
        if np.isfinite(self.completed[trial]):
            return False
        if verdict.chance is not None:
            self.chances[trial] = verdict.chance
        if verdict.audited and trial not in self.audited:
            self.audited.add(trial)
            self.stated.append(Stated(trial=trial, chance=verdict.chance, kind="audited"))
        if verdict.decision is Decision.STOP:
            self.ended.add(trial)
            self.stated.append(Stated(trial=trial, chance=verdict.chance, kind="stopped"))
            states = self.states[trial]
            states[(states == WAITING) | (states == PAUSED)] = ENDED
            if states[fold] != DONE:
                states[fold] = ENDED
        elif verdict.decision is Decision.PAUSE and self.states[trial, fold] != DONE:
            self.states[trial, fold] = PAUSED
        return verdict.decision is Decision.CONTINUE

    def _employ(self) -> None:
        """Give every idle worker something to do, until the policy has nothing more for them."""
        while self.num_idle:
            left = self.num_trials - len(self.drawn)
            choice = self.policy.next_fold_run(self.matrix, trials_left=left)
            if choice.action is Action.START:
                assert left > 0, "the policy starts a trial that the study does not have"
                self.drawn.append(self.order.draw(self.drawn, self._ranking() if self.order.learns else []))
                self._show()
            elif choice.action is Action.RUN:
                trial, fold = choice.trial, choice.fold
                assert self.states[trial, fold] in (WAITING, PAUSED), "the policy runs what is not to be run"
                assert trial not in self.ended, "the policy runs a trial that it has stopped"
                self.states[trial, fold] = RUNNING
                self.num_idle -= 1
                self._begin_epoch(trial, fold)
            else:
                assert choice.action is Action.END or self.events, "the policy waits, and nothing is running"
                self.chances_left = choice.chances
                return

    def _begin_epoch(self, trial: int, fold: int) -> None:
        self.num_started += 1
        cost = self.recorded.costs[self.drawn[trial], fold]
        heappush(self.events, (self.now + cost, self.num_started, trial, fold))

    def _show(self) -> None:
        """Let the matrix show the trials that were drawn; it looks at the same arrays all along."""
        num = len(self.drawn)
        self.matrix = Matrix(
            numbers=np.arange(num),
            scores=self.scores[:num],
            states=self.states[:num],
            lengths=self.recorded.planned[self.drawn],
            params=self.recorded.params[self.drawn],
            sign=self.recorded.sign,
            audited=self.audited,
        )

    def _left(self) -> list[Stated]:
        """What the policy says at the end of those that it left unfinished, but for audited ones."""
        found = []
        for trial, progress in enumerate(self.progress[: len(self.drawn)]):
            if trial in self.ended or trial in self.audited or np.isfinite(self.completed[trial]):
                continue
            chance = self.chances.get(trial)
            if chance is None:  # it was never judged: all that there is is what the study ended with
                chance = self.chances_left.get(trial)
            else:
                fold = max(fold for fold, epochs in enumerate(progress) if epochs)
                verdict = self.policy.verdict(self.matrix, trial=trial, fold=fold, trials_left=0)
                chance = chance if verdict.chance is None else verdict.chance
            found.append(Stated(trial=trial, chance=chance, kind="left"))
        return found

    def _choose(self) -> int:
        """The trial that the study would name."""
        complete = np.flatnonzero(np.isfinite(self.completed[: len(self.drawn)]))
        if complete.size:
            return int(complete[self.recorded.final[self.drawn][complete].argmax()])
        expected = self._expected()
        return max(expected, key=expected.__getitem__, default=0)

    def _ranking(self) -> list[int]:
        """The drawn trials of which something is known, best first, as the service's TPE sees them."""
        expected = self._expected()
        return sorted(expected, key=lambda trial: -expected[trial])

    def _expected(self) -> dict[int, float]:
        """What the sampler is told of every trial, larger is better."""
        return {trial: self.recorded.sign * mean for trial, mean in estimates(self.matrix).items()}
