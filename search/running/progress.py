"""Progress of a run: a live panel on a terminal, one plain line an event elsewhere."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cache, partial
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from fold_search.search.racing.audits import race_line
from fold_search.search.reporting.lines import best_line, counts_line, sample_line, show
from fold_search.search.reporting.summary import UNENDED, Summary, most_epochs, summarise
from fold_search.storage.errors import StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Event, EventKind, FoldRunState

REFRESH_SECONDS = 1.0


class Progress:
    """Shows a study while it runs; `update` may be called as often as one likes."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self._ledger = ledger
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._seen = 0
        self._last_update = 0.0
        self._started = time.monotonic()
        self._metric = ""
        self._epochs_at_start = 0
        self._most_epochs = cache(partial(most_epochs, ledger))

    def __enter__(self) -> Self:
        before = summarise(self._ledger)
        self._metric, self._epochs_at_start = before.metric, before.epochs_trained
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
        self._print_events()
        if self._live:
            self._live.update(self._panel(summarise(self._ledger)), refresh=True)

    def _print_events(self) -> None:
        """One line an event; above a live panel those alone that say what a sampler made of a trial's first fold."""
        while events := self._ledger.events(after=self._seen, limit=500):
            self._seen = events[-1].sequence
            for event in events:
                if _is_resampled(event) or (self._live is None and not _ends_with_its_trial(event)):
                    at = datetime.fromtimestamp(event.at).strftime("%H:%M:%S")
                    self.say(f"{at} {describe(event, metric=self._metric, most_epochs=self._most_epochs)}")

    def _panel(self, summary: Summary) -> RenderableType:
        ended = sum(count for state, count in summary.trials.items() if state not in UNENDED)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            f"study {summary.study}",
            ProgressBar(total=max(summary.budget, 1), completed=ended, width=40),
            f"{ended}/{summary.budget} trials ended",
        )
        elapsed = time.monotonic() - self._started
        saved = f"stopping trials early saved {summary.work_saved:.0%} of the epochs"
        times = f"elapsed {duration(elapsed)}; time left: {self._left(summary)}"
        return Group(grid, counts_line(summary), best_line(summary), race_line(summary.race), f"{saved}; {times}")

    def _left(self, summary: Summary) -> str:
        trained = summary.epochs_trained - self._epochs_at_start
        if summary.epochs_left <= 0:
            return "none"
        if not trained:
            return "not known yet"
        return "about " + duration(summary.epochs_left * (time.monotonic() - self._started) / trained)


def _is_resampled(event: Event) -> bool:
    sampled = event.kind is EventKind.FOLD_SAMPLED and event.fold == 0
    return sampled and event.payload["counts_before"] != event.payload["counts_after"]


def _ends_with_its_trial(event: Event) -> bool:
    """Whether the end of the trial says it all: a fold run that is stopped stops with its trial, for one reason."""
    return event.kind is EventKind.FOLD_FINISHED and event.payload["state"] == FoldRunState.STOPPED


def duration(seconds: float) -> str:
    """Seconds in words for people: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def describe(event: Event, *, metric: str, most_epochs: Callable[[int], int] | None = None) -> str:
    """One event in one line; `most_epochs` says how many epochs a trial may have, by its number."""
    where = "study" if event.trial is None else f"trial {event.trial}"
    if event.fold is not None:
        where += f" fold {event.fold}"
    payload = event.payload
    match event.kind:
        case EventKind.TRIAL_STARTED:
            params = " ".join(f"{name}={show(value)}" for name, value in payload["params"].items())
            return f"{where} started: {params}"
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
            return f"{where} will be tried again: {payload['reason']}"
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
