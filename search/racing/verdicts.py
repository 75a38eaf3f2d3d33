"""What the race says: of a trial that has been trained a little further, and of what is to be trained next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Decision(StrEnum):
    """What the race wants of a trial."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and, unless it is to continue, the reason in words for people.

    `chance` is that of the trial to be the best after all its folds, None where the rule knows none. An `audited` trial
    would have been stopped and runs on to its end, so that the stated chances can be checked.
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
    """The next work: RUN a fold run, START a new trial, WAIT for what is running, or END: nothing is worth it.

    `chances` are those that END leaves: of each trial that is still open to be the best.
    """

    action: Action
    trial: int = -1
    fold: int = -1
    chances: Mapping[int, float] = field(default_factory=dict)
