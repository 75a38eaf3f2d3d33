"""What a command does before its answer, on stderr: a spinner on a terminal, elsewhere a line for each step.

It imports little, so that it is there before torch is loaded.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from fold_search.search.reporting.times import duration
from fold_search.search.terminal import visible

LINE_SECONDS = 10.0  # between the lines of a step that counts rows, where there is no terminal


class Steps:
    """Names the step in hand, and how many of its rows are done; what it shows on a terminal goes away at its end."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._named: set[str] = set()
        self._begun: float | None = None  # with the rows
        self._last_line = 0.0
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)
            # What goes to stdout meanwhile is for whoever reads it, not for this terminal.
            self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=False)
            self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def step(self, name: str) -> None:
        """Begin a step; where there is no terminal, one that comes again is named once."""
        if self._progress:
            self._progress.reset(self._task, total=None, description=name)
        elif name not in self._named:
            self._named.add(name)
            self._print(f"{name} ...")

    def rows(self, done: int, *, total: int, exact: bool = True) -> None:
        """Say how many rows are predicted of about so many; elsewhere than on a terminal every ten seconds.

        To be called before the first row as well, from which the rate counts.
        """
        now = self._clock()
        if self._begun is None:
            self._begun = self._last_line = now
        words = counted(done, total=total, exact=exact, seconds=now - self._begun)
        if self._progress:
            self._progress.update(self._task, completed=done, total=total, description=words)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._print(words)

    def _print(self, line: str) -> None:
        if not self._console.quiet:
            with suppress(OSError):  # nobody reads it, or the disk is full: that is no reason to stop
                print(visible(line), file=self._console.file, flush=True)

    def aside(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return `say` for lines that are printed meanwhile: it does not write into what is shown."""

        def said(line: str) -> None:
            if self._progress:
                self._progress.stop()
            say(line)
            if self._progress:
                self._progress.start()

        return said


def counted(done: int, *, total: int, exact: bool, seconds: float) -> str:
    """Rows in words, with their rate and the time left once there is one, after so many `seconds`."""
    words = f"predicting: {done:,} of {'' if exact else 'about '}{total:,} rows"
    if not done or not seconds:
        return words
    return f"{words}, {done / seconds:,.1f} rows/s, {duration(seconds * (total - done) / done)} left"
