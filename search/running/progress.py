"""Progress of a run: a live panel on a terminal, one plain line an event elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from fold_search.objectives.stages import SCORING, TRAINING, Stage
from fold_search.search.racing.live import LiveRace
from fold_search.search.reporting.lines import best_line, ended_words, sample_line, show_params
from fold_search.search.reporting.panel import STYLES, Happened, render_panel
from fold_search.search.reporting.summary import most_epochs
from fold_search.search.running.live_view import LiveView
from fold_search.search.running.presence import ENDED, STOPPED
from fold_search.storage.errors import StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Event, EventKind, FoldRunState

REFRESH_SECONDS = 1.0
PREPARING_SECONDS = 10.0  # between two lines of a pipe on one step of a preparation
TRAINING_SECONDS = 60.0  # and on one epoch
STUDY_SECONDS = 60.0  # and on the study as a whole
KEPT_EVENTS = 20
# What is not news on a panel: it shows the leaderboard and what each worker does.
QUIET = {EventKind.TRIAL_STARTED, EventKind.FOLD_STARTED, EventKind.FOLD_SAMPLED, EventKind.EPOCH}


class Progress:
    """Shows a study while it runs; `update` may be called as often as one likes.

    `doing` says what this run's workers are doing, by owner; `race` and `deadline` are those of `LiveView`.
    """

    def __init__(
        self,
        ledger: Ledger,
        console: Console,
        *,
        doing: Callable[[], Mapping[str, Stage | None]] = dict,
        race: LiveRace | None = None,
        deadline: float | None = None,
        began: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._doing = doing
        self._view = LiveView(ledger=ledger, race=race, deadline=deadline, began=began or time.time())
        self._told: dict[str, _Told] = {}  # by owner
        self._told_study_at = time.monotonic()
        self._happened: deque[Happened] = deque(maxlen=KEPT_EVENTS)
        self._seen = 0
        self._last_update = 0.0
        self._metric = ""
        self._most_epochs = cache(partial(most_epochs, ledger))

    def __enter__(self) -> Self:
        self._metric = self._ledger.study().metric
        # Earlier runs' events were shown by them.
        self._seen = self._ledger.last_sequence()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(StorageUnavailable):
            self.update(now=True)
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, *, now: bool = False) -> None:
        """Show what has happened since the last time, at most once a second unless `now`."""
        if not now and time.monotonic() - self._last_update < REFRESH_SECONDS:
            return
        self._last_update = time.monotonic()
        self._show_events()
        doing = self._doing()
        if self._live:
            size = self._console.size
            view = self._view.collect(doing, list(self._happened))
            self._live.update(render_panel(view, width=size.width, height=size.height), refresh=True)
        else:
            self._print_stages(doing)
            self._print_study(doing)

    def _show_events(self) -> None:
        while events := self._ledger.events(after=self._seen, limit=500):
            self._seen = events[-1].sequence
            for event in events:
                self._view.followed.follow(event)
                if not _ends_with_its_trial(event):
                    self._show(event)

    def _show(self, event: Event) -> None:
        """One line an event, or a line of the panel's latest events if it is news there."""
        at, words = _clock(event.at), describe(event, metric=self._metric, most_epochs=self._most_epochs)
        if self._live is None:
            self.say(f"{at} {words}")
        elif event.kind not in QUIET or _is_resampled(event):
            state = str(event.payload.get("state", ""))
            self._happened.append(Happened(at=at, words=words, style=STYLES.get(state, "")))

    def _print_study(self, doing: Mapping[str, Stage | None]) -> None:
        """Now and then a line on how far the study is."""
        if time.monotonic() - self._told_study_at < STUDY_SECONDS:
            return
        self._told_study_at = time.monotonic()
        view = self._view.collect(doing, [])
        told = f"{ended_words(view.summary)}; {best_line(view.summary)}"
        self.say(f"{_clock(time.time())} {told}; elapsed {view.elapsed}, time left {view.left}")

    def _print_stages(self, doing: Mapping[str, Stage | None]) -> None:
        """A line for each step of a worker's preparation, and now and then one on a step that takes long."""
        for number, (owner, stage) in enumerate(doing.items(), start=1):
            told, followed = self._told.setdefault(owner, _Told()), self._view.followed
            if stage is None or not told.is_due(stage, now=time.monotonic()):
                continue
            words = str(stage)
            if stage.what == TRAINING and (place := followed.held.get(owner)):
                words = f"trial {place[0]} fold {place[1]} epoch {followed.epochs[place] + 1}: "
                words += f"step {stage.done} of {stage.total}"
            self.say(f"{_clock(time.time())} worker {number}: {words}")


@dataclass(slots=True, kw_only=True)
class _Told:
    """What was printed of a worker's stages."""

    known: set[str] = field(default_factory=set)  # the kinds of stages that it has had
    what: str = ""
    done: int = 0
    at: float = 0.0  # when a line on this stage was printed last, or it began

    def is_due(self, stage: Stage, *, now: float) -> bool:
        """Whether to print a line: for each new kind of preparation, and when a stage has taken long since the last."""
        is_another = stage.what != self.what or stage.done < self.done
        is_new = stage.what not in (*self.known, *ROUTINE)
        self.known.add(stage.what)
        self.what, self.done = stage.what, stage.done
        wait = TRAINING_SECONDS if stage.what in ROUTINE else PREPARING_SECONDS
        due = is_new or (not is_another and now - self.at >= wait)
        if due or is_another:
            self.at = now
        return due


ROUTINE = (TRAINING, SCORING, "choosing rows", "building the model")  # of every fold run


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def _is_resampled(event: Event) -> bool:
    sampled = event.kind is EventKind.FOLD_SAMPLED and event.fold == 0
    return sampled and event.payload["counts_before"] != event.payload["counts_after"]


def _ends_with_its_trial(event: Event) -> bool:
    """Whether the end of the trial says it all: a fold run that is stopped stops with its trial, for one reason."""
    return event.kind is EventKind.FOLD_FINISHED and event.payload["state"] == FoldRunState.STOPPED


def describe(event: Event, *, metric: str, most_epochs: Callable[[int], int] | None = None) -> str:
    """One event in one line; `most_epochs` says how many epochs a trial may have, by its number."""
    where = "study" if event.trial is None else f"trial {event.trial}"
    if event.fold is not None:
        where += f" fold {event.fold}"
    payload = event.payload
    match event.kind:
        case EventKind.TRIAL_STARTED:
            return f"{where} started: {show_params(payload['params'])}"
        case EventKind.FOLD_STARTED if payload["num_epochs"]:
            return f"{where} continues after epoch {payload['num_epochs']}"
        case EventKind.FOLD_STARTED:
            return f"{where} started"
        case EventKind.FOLD_SAMPLED:
            return f"{where} trains on {sample_line(payload)}"
        case EventKind.EPOCH:
            losses = " ".join(f"{name} {payload['metrics'][name]:.4f}" for name in ("train_loss", "val_loss"))
            where += f" epoch {event.epoch}"
            if most_epochs and event.trial is not None:
                where += f" of {most_epochs(event.trial)}"
            return f"{where}: {metric} {payload['score']:.4f} {losses} ({payload['seconds']:.1f}s)"
        case EventKind.OUT_OF_MEMORY:
            use = payload["shape"].partition(":")[0]
            return f"{where} ran out of memory: {use} continues with {payload['rows']} rows at a time"
        case EventKind.FOLD_FINISHED | EventKind.TRIAL_FINISHED:
            return f"{where} {payload['state']}{_outcome(payload, metric)}"
        case EventKind.FOLD_RELEASED if payload.get("state") == FoldRunState.PAUSED:
            return f"{where} paused: {payload['reason']}"
        case EventKind.TRIAL_AUDITED:
            return f"{where}: {payload['reason']}"
        case EventKind.FOLD_RELEASED:
            again = "is continued by the next run" if payload["reason"] in (STOPPED, ENDED) else "will be tried again"
            return f"{where} {again}: {payload['reason']}"
        case EventKind.BASELINE:
            scores = f"{metric} {payload['score']:.4f} ± {payload['std']:.4f}" if payload["fold_scores"] else "no score"
            reason = f" ({payload['reason']})" if payload["reason"] else ""
            return f"baseline {payload['label']}: {scores}{reason}, {payload['seconds']:.0f} s"
        case EventKind.STUDY_FINISHED:
            return f"study {payload.get('state', 'finished')}: {payload['reason']}"
    return f"{where} {event.kind.value.replace('_', ' ')}"


def _outcome(payload: dict[str, object], metric: str) -> str:
    text = ""
    if isinstance(payload.get("score"), float):
        text += f": {metric} {payload['score']:.4f}"
        if isinstance(payload.get("std"), float):
            text += f" ± {payload['std']:.4f}"
        if isinstance(payload.get("pooled"), float):
            text += f", all rows pooled {payload['pooled']:.4f}"
        if payload.get("best_epoch"):
            text += f", best epoch {payload['best_epoch']}"
    elif isinstance(payload.get("estimate"), float):
        text += f": {metric} about {payload['estimate']:.4f}"
    if payload.get("reason"):
        text += f" ({payload['reason']})"
    return text
