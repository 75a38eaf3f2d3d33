"""What the race decides: whether a trial goes on, and what is trained next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


def percent(share: float) -> str:
    """A probability for people, with two significant digits: 14%, 1.4%, 0.014%."""
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


class Decision(StrEnum):
    """What the race wants of a trial."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and, unless it is to continue, the reason in words for people.

    `chance` is the estimated chance that the trial would be the best after all its folds; None if the rule gives none.
    An `audited` trial would have been stopped, but is trained to its end to check such chances.
    """

    decision: Decision
    reason: str = ""
    chance: float | None = None
    audited: bool = False


class Action(StrEnum):
    """What a free worker should do."""

    RUN = "run"
    START = "start"
    WAIT = "wait"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The next work: RUN a fold run, START a new trial, WAIT for what is running, or END: nothing is worth training.

    `chances` belong to END: for each trial that is still open, its estimated chance to be the best.
    """

    action: Action
    trial: int = -1
    fold: int = -1
    chances: Mapping[int, float] = field(default_factory=dict)
