"""The race of a running study in one process: its scores, kept up to date from the ledger, and its verdicts."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter

from fold_search.search.racing import policy as race
from fold_search.search.racing.haste import Haste, TimeLimit, haste
from fold_search.search.racing.matrix import Matrix, RunState, build_matrix
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import Domain
from fold_search.search.study.sections import RaceConfig
from fold_search.search.study.space import most_trials, position
from fold_search.storage.records import Event, EventKind, FoldRunState
from fold_search.storage.view import LedgerView

PAGE = 1000
SPACE = TypeAdapter(dict[str, Domain])
STATES = {
    FoldRunState.WAITING: RunState.WAITING,
    FoldRunState.LEASED: RunState.RUNNING,
    FoldRunState.PAUSED: RunState.PAUSED,
    FoldRunState.DONE: RunState.DONE,
    FoldRunState.STOPPED: RunState.ENDED,
    FoldRunState.FAILED: RunState.FAILED,
}


class Scores:
    """A study's scores as a matrix: first the whole ledger is read, later only new events.

    The matrices share their arrays, which grow by doubling. Do not keep a matrix after asking for the next one.
    """

    def __init__(self, ledger: LedgerView) -> None:
        self.audited: set[int] = set()
        self._ledger = ledger
        self._sequence = 0
        self._num_trials = 0
        self._epochs = 1  # of a trial that samples no other number
        self._space: dict[str, Domain] = {}
        self._arrays: Matrix | None = None

    def matrix(self) -> Matrix:
        """All scores by now; raises StorageError."""
        arrays = self._read() if self._arrays is None else self._arrays
        while events := self._ledger.events(after=self._sequence, limit=PAGE):
            for event in events:
                arrays = self._apply(event, arrays)
            self._sequence = events[-1].sequence
        self._arrays = arrays
        known = slice(self._num_trials)
        return replace(
            arrays,
            numbers=arrays.numbers[known],
            scores=arrays.scores[known],
            states=arrays.states[known],
            lengths=arrays.lengths[known],
            params=arrays.params[known],
        )

    def _read(self) -> Matrix:
        """Read everything, the last event's number first: later events may then be applied twice, without effect."""
        study = self._ledger.study()
        self._epochs = study.config.get("training", {}).get("epochs", 1)
        self._space = SPACE.validate_python(study.config.get("space", {}))
        self._sequence = self._ledger.last_sequence()
        standings, states = self._ledger.standings(), self._ledger.run_states()
        params, self.audited = self._ledger.params(), self._ledger.audited()
        self._num_trials = len(params)
        matrix = build_matrix(
            [(trial, self._length(sampled)) for trial, sampled in params.items()],
            [(trial, fold, STATES[state]) for trial, fold, state in states],
            standings,
            num_folds=study.num_folds,
            maximize=study.direction == "maximize",
        )
        positions = np.array([position(self._space, params[number]) for number in matrix.numbers.tolist()], np.float64)
        # Not the seed alone: most studies leave it at 0, and all would audit the same trial numbers.
        key = f"{study.config.get('study', {}).get('seed', 0)}/{study.fingerprints.get('data', '')}"
        shaped = positions.reshape(len(params), len(self._space))
        return replace(matrix, params=shaped, audit_key=key, audited=self.audited)

    def _apply(self, event: Event, arrays: Matrix) -> Matrix:
        """Bring the arrays up to date with one event, which they may know already."""
        known = arrays.numbers[: self._num_trials]
        row = int(np.searchsorted(known, -1 if event.trial is None else event.trial))
        match event.kind:
            case EventKind.TRIAL_STARTED if row == len(known) or known[row] != event.trial:
                return self._insert(event, arrays, row=row)
            case EventKind.FOLD_STARTED:
                arrays.states[row, event.fold] = RunState.RUNNING
            case EventKind.FOLD_RELEASED | EventKind.FOLD_FINISHED:
                arrays.states[row, event.fold] = STATES[FoldRunState(event.payload["state"])]
            case EventKind.TRIAL_AUDITED:
                self.audited.add(int(known[row]))
            case EventKind.EPOCH:
                epoch = event.epoch or 1
                arrays = _with_room(arrays, num_trials=0, num_epochs=epoch)
                standing = event.payload["standing"]
                arrays.scores[row, event.fold, epoch - 1] = arrays.sign * standing if np.isfinite(standing) else -np.inf
        return arrays

    def _insert(self, event: Event, arrays: Matrix, *, row: int) -> Matrix:
        """Add a trial, nearly always as the last row; all its fold runs are waiting."""
        number, length = event.trial or 0, self._length(event.payload["params"])
        arrays = _with_room(arrays, num_trials=self._num_trials + 1, num_epochs=length)
        later, moved = slice(row, self._num_trials), slice(row + 1, self._num_trials + 1)
        for values in (arrays.numbers, arrays.scores, arrays.states, arrays.lengths, arrays.params):
            values[moved] = values[later].copy()
        arrays.numbers[row], arrays.lengths[row] = number, length
        arrays.params[row] = position(self._space, event.payload["params"])
        arrays.scores[row], arrays.states[row] = np.nan, RunState.WAITING
        self._num_trials += 1
        return arrays

    def _length(self, sampled: dict[str, Any]) -> int:
        return int(sampled.get("epochs", self._epochs))


def _with_room(arrays: Matrix, *, num_trials: int, num_epochs: int) -> Matrix:
    """Return the same arrays if they have so many rows and epochs, else larger copies."""
    rows, _, epochs = arrays.scores.shape
    if num_trials <= rows and num_epochs <= epochs:
        return arrays
    more_rows = max(rows, 16) if num_trials > rows else 0
    more_epochs = max(0, num_epochs - epochs)
    return replace(
        arrays,
        numbers=np.pad(arrays.numbers, (0, more_rows)),
        scores=np.pad(arrays.scores, [(0, more_rows), (0, 0), (0, more_epochs)], constant_values=np.nan),
        states=np.pad(arrays.states, [(0, more_rows), (0, 0)]),
        lengths=np.pad(arrays.lengths, (0, more_rows)),
        params=np.pad(arrays.params, [(0, more_rows), (0, 0)]),
    )


class Policy(Protocol):
    """What decides; the module `search.racing.policy` does."""

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, settings: RaceConfig, trials_left: int = 0) -> Verdict:
        """Judge a trial after an epoch of `fold`, or after that fold's end."""

    def next_fold_run(self, matrix: Matrix, *, settings: RaceConfig, trials_left: int) -> Choice:
        """Choose what a free worker trains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRace:
    """The race of one study as a worker or the coordinator asks it; `num_trials` is the study's budget.

    `haste` chooses in its place when a budget of time, hours or money runs out.
    """

    scores: Scores
    settings: RaceConfig
    num_trials: int
    until_no_gain: bool = False
    policy: Policy = race
    haste: Haste | None = None

    def verdict(self, *, trial: int, fold: int, done: bool) -> Verdict:
        """Judge a trial by all that is known now; `done`: the fold counts as done before the ledger says so.

        An audited trial is not stopped any more, unless its training diverged. A fold run is not paused if the race
        would choose it again at once.
        """
        matrix = self.scores.matrix()
        if done:
            matrix = matrix.with_state(trial, fold, RunState.DONE)
        left = self.trials_left(matrix)
        judged = self.policy.verdict(matrix, trial=trial, fold=fold, settings=self.settings, trials_left=left)
        audited = judged.decision is Decision.STOP and judged.chance is not None and self.is_audited(trial)
        if audited or (judged.decision is Decision.PAUSE and not done and self._runs_on(matrix, trial, fold)):
            return replace(judged, decision=Decision.CONTINUE)
        return judged

    def _runs_on(self, matrix: Matrix, trial: int, fold: int) -> bool:
        choice = self.next_fold_run(matrix.with_state(trial, fold, RunState.PAUSED))
        return (choice.action, choice.trial, choice.fold) == (Action.RUN, trial, fold)

    def next_fold_run(self, matrix: Matrix | None = None) -> Choice:
        """Choose what a free worker trains, by all that is known now or by `matrix`."""
        matrix = self.scores.matrix() if matrix is None else matrix
        if self.haste is not None and (hurried := self.haste.choose(matrix)) is not None:
            return hurried
        return self.policy.next_fold_run(matrix, settings=self.settings, trials_left=self.trials_left(matrix))

    def trials_left(self, matrix: Matrix) -> int:
        """How many new trials the budget still has; none if `until_no_gain` and they are expected to gain nothing."""
        if self.until_no_gain and race.gain_is_within_noise(matrix):
            return 0
        return max(0, self.num_trials - len(matrix.numbers))

    def is_audited(self, trial: int) -> bool:
        """Whether the trial would have been stopped, but is trained on."""
        return trial in self.scores.audited


def live_race(ledger: LedgerView, config: StudyConfig, *, limit: TimeLimit | None = None) -> LiveRace:
    """The race of a study by its study file, in a run with a time limit where `limit` is given."""
    return LiveRace(
        scores=Scores(ledger),
        settings=config.race,
        num_trials=most_trials(config),
        until_no_gain=config.budget.until == "no-expected-gain",
        haste=haste(ledger, limit, config.budget) if limit or config.budget.is_shared else None,
    )
