"""What the live view shows, collected: what the ledger says, what the workers say, and how long it still takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fold_search.objectives.stages import SCORING, TRAINING, Stage
from fold_search.search.racing.audits import trial_states
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.live import LiveRace
from fold_search.search.racing.work_left import Range, epochs_left
from fold_search.search.reporting.lines import show_params, trial_score
from fold_search.search.reporting.panel import LEADERS, Happened, Leader, View, Working
from fold_search.search.reporting.summary import Known, look, ranked, summarise
from fold_search.search.reporting.times import duration, time_left
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Event, EventKind, FoldRun, FoldRunState, StudyState, TrialRecord

FEWEST_EPOCHS = 0.1  # that tell how long one takes
FORESEE_SECONDS = 5.0  # between two looks ahead: each asks what the race believes of all trials

Place = tuple[int, int]  # trial and fold


@dataclass(slots=True, kw_only=True)
class Followed:
    """What the events of this run say: who trains what, how each fold run stands, and how long an epoch takes."""

    held: dict[str, Place] = field(default_factory=dict)  # by owner
    epochs: dict[Place, int] = field(default_factory=dict)
    scores: dict[Place, float] = field(default_factory=dict)
    _num_epochs: int = 0
    _since: float | None = None  # when the first of them was begun

    def follow(self, event: Event) -> None:
        """Take in one more event."""
        place = (-1 if event.trial is None else event.trial, event.fold or 0)
        if event.kind is EventKind.FOLD_STARTED:
            self.held[event.payload["owner"]] = place
            self.epochs[place] = event.payload["num_epochs"]
        elif event.kind is EventKind.EPOCH:
            self.begin(event.at - event.payload["seconds"])
            self._num_epochs += 1
            self.epochs[place], self.scores[place] = event.epoch or 0, event.payload["score"]

    def begin(self, at: float) -> None:
        """Note when the first epoch was begun."""
        self._since = at if self._since is None else self._since

    def seconds_per_epoch(self, now: float, *, under_way: float) -> float | None:
        """How long the run takes for one more epoch, with all its workers; None before much of the first is trained.

        `under_way` are the parts of epochs that are trained of those in hand.
        """
        num_epochs = self._num_epochs + under_way
        return (now - self._since) / num_epochs if self._since is not None and num_epochs >= FEWEST_EPOCHS else None


@dataclass(slots=True, kw_only=True)
class LiveView:
    """Collects a `View`. `race` is the study's; without it no time is foretold.

    `began` and `deadline` are when the command began and when its time is over, in seconds since 1970.
    """

    ledger: Ledger
    race: LiveRace | None = None
    deadline: float | None = None
    followed: Followed = field(default_factory=Followed)
    began: float = field(default_factory=time.time)
    _foreseen_at: float = -FORESEE_SECONDS
    _expected: Mapping[int, float] = field(default_factory=dict)
    _forecast: Range | None = None

    def collect(self, doing: Mapping[str, Stage | None], events: Sequence[Happened]) -> View:
        """Look at the study now, whose workers here are `doing` something, by owner."""
        known = look(self.ledger)
        self._look_ahead(known)
        ended = known.record.state is not StudyState.RUNNING
        return View(
            summary=summarise(self.ledger, known),
            elapsed=duration(time.time() - self.began),
            left="none" if ended else self._left(known, doing),
            workers=self._workers(known, doing),
            leaders=self._leaders(known),
            events=events,
        )

    def _look_ahead(self, known: Known) -> None:
        if self.race is None or time.monotonic() - self._foreseen_at < FORESEE_SECONDS:
            return
        self._foreseen_at = time.monotonic()
        matrix = self.race.scores.matrix()
        self._expected = estimates(matrix)
        self._forecast = epochs_left(
            matrix,
            settings=self.race.settings,
            trials_left=self.race.trials_left(matrix),
            num_epochs=known.plan.epochs,
        )

    def _left(self, known: Known, doing: Mapping[str, Stage | None]) -> str:
        """The time left in words, by the epochs that are left and by how long one has taken, in this run or before."""
        now, under_way = time.time(), sum(_part_of_epoch(stage) for stage in doing.values() if stage)
        if under_way:
            self.followed.begin(now)
        limit = None if self.deadline is None else self.deadline - now
        seconds = self.followed.seconds_per_epoch(now, under_way=under_way) or _seconds_before(known.runs, len(doing))
        if self._forecast is None or seconds is None:
            return "not known yet" if limit is None else time_left(limit, limit, limit=limit)
        low, high = self._forecast
        low, high = max(low - under_way, 0.0), max(high - under_way, 0.0)
        return time_left(low * seconds, high * seconds, limit=limit)

    def _leaders(self, known: Known) -> list[Leader]:
        states = trial_states(known.trials, known.runs)

        def leader(trial: TrialRecord) -> Leader:
            runs = [run for run in known.runs if run.trial == trial.number]
            return Leader(
                trial=trial.number,
                state=states[trial.number],
                score=trial_score(trial, self._expected.get(trial.number, trial.estimate)) or "-",
                folds=f"{sum(run.state is FoldRunState.DONE for run in runs)}/{len(runs)}",
                epochs=sum(run.num_epochs for run in runs),
                params=show_params(trial.params),
            )

        return [leader(trial) for trial in ranked(known.record, known.trials, expected=self._expected)[:LEADERS]]

    def _workers(self, known: Known, doing: Mapping[str, Stage | None]) -> list[Working]:
        """The workers of this run, then those elsewhere, of which the ledger alone says what they train."""
        held = {run.owner: run for run in known.runs if run.state is FoldRunState.LEASED and run.owner is not None}
        params = {trial.number: trial.params for trial in known.trials}

        def working(name: str, owner: str, stage: Stage | None) -> Working:
            if (run := held.get(owner)) is None:
                # What it said of a fold run that it does not hold any more is old news.
                return Working(name=name, stage=None if stage and stage.what in (TRAINING, SCORING) else stage)
            return Working(
                name=name,
                stage=stage,
                trial=run.trial,
                fold=run.fold,
                epoch=run.num_epochs,
                num_epochs=int(params[run.trial].get("epochs", known.plan.epochs)),
                score=self.followed.scores.get((run.trial, run.fold)),
                params=show_params(params[run.trial]),
            )

        here = [working(f"worker {number}", *each) for number, each in enumerate(doing.items(), start=1)]
        return here + [working("elsewhere", owner, None) for owner in held if owner not in doing]


def _part_of_epoch(stage: Stage) -> float:
    """How much of its epoch a worker has trained."""
    if stage.what == TRAINING:
        return stage.done / max(stage.total, 1)
    return float(stage.what == SCORING)


def _seconds_before(runs: Sequence[FoldRun], num_workers: int) -> float | None:
    """How long an epoch took in earlier runs, for so many workers; None if there was none."""
    num_epochs = sum(run.num_epochs for run in runs)
    return sum(run.seconds for run in runs) / num_epochs / max(1, num_workers) if num_epochs else None
