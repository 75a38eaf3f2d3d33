"""What a tracker is to the publisher, and what every tracker needs to keep to it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from fold_search.storage.records import Event, EventKind, FoldRunState, StudyRecord

LONGEST_MESSAGE = 300


class TrackerUnavailable(RuntimeError):
    """The tracker could not take the events; one line, without secrets. They may be published again later."""


class Tracker(Protocol):
    """One place where people look at a study.

    Making one connects to nothing: its client is loaded and connects at the first `publish`, in the publisher's thread.
    """

    name: str
    notice: str  # what a user should know before it is used; "" if nothing

    def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
        """Write what the events say. Some or all of it may be in the tracker already, and must not be there twice.

        Raises TrackerUnavailable; some of the events may have been written then.
        """

    def close(self) -> None:
        """Let go of connections and files; the next publish opens them again."""


def by_trial(events: Iterable[Event]) -> dict[int, list[Event]]:
    """The events of each trial, in their order; those of the study itself are left out."""
    trials: dict[int, list[Event]] = {}
    for event in events:
        if event.trial is not None:
            trials.setdefault(event.trial, []).append(event)
    return trials


def baselines(events: Iterable[Event]) -> list[Event]:
    """The events of the baselines, which belong to no trial."""
    return [event for event in events if event.kind is EventKind.BASELINE]


def released(payload: Mapping[str, object]) -> str:
    """The state of a fold run that a worker has let go of, in words; events of older versions have none."""
    return "paused" if payload.get("state") == FoldRunState.PAUSED else "waiting"


def without_secrets(text: str) -> str:
    """The text with the user and password of every URL in it replaced by `***`."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)


def one_line(error: BaseException) -> str:
    """What went wrong, for people: what the operating system said, else the error's first line; without secrets."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("\x1b", "--"))]  # neptune's banners
    return without_secrets(lines[0] if lines else type(error).__name__)[:LONGEST_MESSAGE]
