"""What this process is doing, in words, and how far it is: for whoever watches it, and written nowhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TRAINING = "training"
SCORING = "scoring"  # the end of an epoch


@dataclass(slots=True, kw_only=True, eq=False)
class Stage:
    """One step of the work: `done` of `total` parts, rows or steps, are behind it; 0 of 0 where nobody counts."""

    what: str
    done: int = 0
    total: int = 0
    purpose: str = ""  # what it is done for, and all that is done within it

    def __str__(self) -> str:
        """The step in words: embedding rows for enn 40%."""
        words = f"{self.what} for {self.purpose}" if self.purpose else self.what
        return f"{words} {self.done / self.total:.0%}" if self.total else words


_open: list[Stage] = []  # the innermost last; one thread works, another one may look


@contextmanager
def stage(what: str, *, total: int = 0, purpose: str = "") -> Iterator[Callable[[int], None]]:
    """Say so until this ends, and give what counts the parts that are done. Stages may lie in each other."""
    within = current()
    opened = Stage(what=what, total=total, purpose=purpose or (within.purpose if within else ""))
    _open.append(opened)

    def advance(count: int) -> None:
        opened.done += count

    try:
        yield advance
    finally:
        _open.remove(opened)


def current() -> Stage | None:
    """Return the innermost stage; None where nothing is being done."""
    try:
        return _open[-1]
    except IndexError:
        return None
