"""The live view of a study on a terminal: what is trained, how good it is and how long it still takes; it fits."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fold_search.objectives.stages import SCORING, TRAINING, Stage
from fold_search.search.reporting.baselines import baselines_line
from fold_search.search.reporting.lines import best_line, counted, ended_words, num_ended
from fold_search.search.reporting.summary import Summary

NARROW = 60  # columns
ROOMY = 24  # lines
LEADERS = 10
FEWEST_EVENTS = 3
MOST_EVENTS = 6
STYLES = {"complete": "green", "running": "cyan", "paused": "yellow", "stopped": "dim", "failed": "bold red"}
DIM, BAD = "dim", "bold red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """A worker: the fold run that it holds, if any, and what it does right now, where that is known."""

    name: str
    stage: Stage | None = None
    trial: int | None = None
    fold: int = 0
    epoch: int = 0  # the last one that is trained
    num_epochs: int = 0
    score: float | None = None  # after that epoch
    params: str = ""

    @property
    def run(self) -> str:
        """Which fold run is being trained."""
        return f"trial {self.trial}, fold {self.fold}"

    @property
    def place(self) -> str:
        """Which epoch of it."""
        return f"{self.run}, epoch {min(self.epoch + 1, self.num_epochs)} of {self.num_epochs}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A line of the leaderboard."""

    trial: int
    state: str
    score: str
    folds: str  # done, of all
    epochs: int
    params: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What has happened, in words, and how it is to be coloured."""

    at: str
    words: str
    style: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that the live view shows; `leaders` and `events` may be more than there is room for, the latest event last.

    `elapsed` and `left` are times in words.
    """

    summary: Summary
    elapsed: str
    left: str
    workers: Sequence[Working]
    leaders: Sequence[Leader]
    events: Sequence[Happened]


def render_panel(view: View, *, width: int, height: int) -> RenderableType:
    """Draw the view for a terminal of so many columns and lines; the least important is left out first."""
    head = _head(view, width=width)
    head += [Text()] if height >= ROOMY else []
    room = height - 1 - len(head)  # the cursor stands on a line of its own
    workers = _workers(view.workers, width=width, room=max(1, room - 2 - FEWEST_EVENTS))
    room -= len(workers)
    kept = 1 + min(FEWEST_EVENTS, len(view.events)) if view.events else 0
    leaders = min(LEADERS, len(view.leaders), max(0, room - kept - 2))  # below an empty line and the header
    board = [Text(), _board(view.leaders[:leaders], width=width)] if leaders else []
    room -= leaders + 2 if leaders else 0
    events = _events(view.events, width=width, room=min(MOST_EVENTS, room - 1))
    return Group(*head, *workers, *board, *([Text(), *events] if events else []))


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _head(view: View, *, width: int) -> list[RenderableType]:
    summary = view.summary
    name, count = f"study {summary.study}", ended_words(summary)
    times = (("elapsed ", DIM), (view.elapsed, "")), (("time left ", DIM), (view.left, "bold"))
    if width < NARROW:
        best = "none yet" if summary.best is None else f"{summary.best.score:.4f} ± {summary.best.std:.4f}"
        plain = (((name, "bold"),), ((count, ""),), *times, ((f"best {best}", "green"),))
        return [_line(*parts) for parts in plain]
    race = f"{counted(summary.race.stops, 'trial')} stopped early, {summary.race.paused} paused"
    saved = f"; stopping saved {summary.work_saved:.0%} of the epochs" if summary.race.stops else ""
    lines: list[RenderableType] = [
        _bar(_line((name, "bold")), num_ended(summary), max(summary.budget, 1), after=count, style=STYLES["complete"]),
        _line(*times[0], ("  ", ""), *times[1]),
        _line((best_line(summary), "green" if summary.best else "")),
        *([_line((baselines_line(summary.baselines), ""))] if summary.baselines else []),
        _line((race + saved, "")),
    ]
    if summary.failures:
        failed = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in summary.failures.items())
        lines.append(_line((f"failures: {failed}", BAD)))
    return lines


def _bar(before: Text, done: int, total: int, *, after: str, style: str) -> RenderableType:
    """A bar between two texts, as wide as they leave it."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    bar = ProgressBar(total=total, completed=done, complete_style=style, finished_style=style)
    grid.add_row(before, bar, after)
    return grid


def _workers(workers: Sequence[Working], *, width: int, room: int) -> list[RenderableType]:
    """A line for each worker, and one more for its trial's params where there is room for all of them."""
    shown = workers if len(workers) <= room else workers[: room - 1]
    lines: list[RenderableType] = []
    for worker in shown:
        lines.append(_narrow_worker(worker) if width < NARROW else _worker(worker))
        if worker.params and 2 * len(workers) <= room:
            lines.append(_line((f"  {worker.params}", DIM)))
    if len(shown) < len(workers):
        lines.append(_line((f"and {counted(len(workers) - len(shown), 'worker')} more", DIM)))
    return lines


def _worker(worker: Working) -> RenderableType:
    stage, score = worker.stage, "" if worker.score is None else f"score {worker.score:.4f}"
    if worker.trial is None:
        words = str(stage) if stage else "waiting for work"
    elif stage is None or stage.what == TRAINING:
        words = worker.place
    else:
        words = f"{worker.place if stage.what == SCORING else worker.run}: {stage}"
    before = _line((f"{worker.name}  ", DIM), (words, STYLES["running"]))
    if stage is None or not stage.total:
        return before.append(f"  {score}")
    steps = f"{stage.done}/{stage.total} steps  {score}" if stage.what == TRAINING else score
    return _bar(before, stage.done, stage.total, after=steps.strip(), style=STYLES["running"])


def _narrow_worker(worker: Working) -> RenderableType:
    stage = worker.stage
    if worker.trial is None or (stage and stage.what != TRAINING):
        return _line((str(stage) if stage else f"{worker.name} waits", STYLES["running"]))
    share = f" {stage.done / stage.total:.0%}" if stage and stage.total else ""
    score = "" if worker.score is None else f" {worker.score:.3f}"
    epoch = f"{min(worker.epoch + 1, worker.num_epochs)}/{worker.num_epochs}"
    return _line((f"trial {worker.trial} fold {worker.fold} epoch {epoch}{share}{score}", STYLES["running"]))


def _board(leaders: Sequence[Leader], *, width: int) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    wide = width >= NARROW
    names = ["trial", "score", "state", *(["folds", "epochs", "params"] if wide else [])]
    for name in names:
        numbers = name in ("trial", "folds", "epochs")
        table.add_column(
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if numbers else "left",
            ratio=1 if name == names[-1] else None,
        )
    table.add_row(*(Text(name, DIM) for name in names))
    for leader in leaders:
        style = STYLES.get(leader.state, "")
        cells = [Text(str(leader.trial)), Text(leader.score, style), Text(leader.state, style)]
        if wide:
            cells += [Text(leader.folds), Text(str(leader.epochs)), Text(leader.params, DIM)]
        table.add_row(*cells)
    return table


def _events(events: Sequence[Happened], *, width: int, room: int) -> list[Text]:
    """The latest events that there is room for, each in at most two lines."""
    lines: list[Text] = []
    for event in reversed(events):
        words = event.words if width < NARROW else f"{event.at} {event.words}"
        wrapped = textwrap.wrap(words, width, max_lines=2, placeholder=" …", subsequent_indent="  ")
        if len(lines) + len(wrapped) > room:
            break
        lines[:0] = [Text(line, event.style, no_wrap=True) for line in wrapped]
    return lines
