"""Keep the trackers up with the ledger: read the events after a tracker's cursor, publish them, move the cursor."""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Event, FoldRunState, StudyRecord

INTERVAL_SECONDS = 1.0
MAX_DOUBLINGS = 5  # of the interval, one for each failure
LEASE_SECONDS = 10.0
LONGEST_MESSAGE = 300


class TrackerUnavailable(RuntimeError):
    """The tracker took no events just now; one line, secrets removed. The same events may be published again later."""


class Tracker(Protocol):
    """One place where people look at a study."""

    name: str
    notice: str  # what a user should know before it is used; "" if nothing

    def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
        """Write what the events say, and nothing twice: any of it may be in the tracker already.

        Raises TrackerUnavailable, after which part of the events may have been written.
        """

    def close(self) -> None:
        """Let go of connections and files; the next publish opens them again."""


def publish_pending(ledger: Ledger, tracker: Tracker, *, limit: int = 500) -> int:
    """Publish the next events and move the tracker's cursor; the number of events, 0 when there are none.

    Raises TrackerUnavailable; the cursor stays where it was.
    """
    cursor = ledger.cursor(tracker.name)
    events = ledger.events(after=cursor, limit=limit)
    if events:
        tracker.publish(ledger.study(), events)
        if ledger.cursor(tracker.name) == cursor:  # else a rebuild was asked for meanwhile
            ledger.set_cursor(tracker.name, events[-1].sequence)
    return len(events)


def by_trial(events: Iterable[Event]) -> dict[int, list[Event]]:
    """The events of each trial, those of the study left out; all in their order."""
    trials: dict[int, list[Event]] = {}
    for event in events:
        if event.trial is not None:
            trials.setdefault(event.trial, []).append(event)
    return trials


def released(payload: Mapping[str, object]) -> str:
    """What became of a fold run that a worker let go of, in words; older events do not say its state."""
    return "paused" if payload.get("state") == FoldRunState.PAUSED else "given back"


def num_unpublished(ledger: Ledger, tracker_name: str) -> int:
    """How many events the tracker has not been given."""
    return ledger.last_sequence() - ledger.cursor(tracker_name)  # sequences have no gaps


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


class Publisher:
    """Publishes a study's events from threads of its own, one a tracker, so that nobody waits for a tracker.

    Only one publisher at a time serves a tracker: it holds a role in the ledger while it publishes.
    """

    def __init__(self, ledger: Ledger, trackers: Sequence[Tracker], *, owner: str, warn: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._warn = warn
        self._lanes = [_Lane(ledger, tracker, owner=owner, warn=warn) for tracker in trackers]

    def start(self) -> None:
        """Publish from now on, about once a second."""
        for lane in self._lanes:
            if lane.tracker.notice:
                self._warn(f"{lane.tracker.name}: {lane.tracker.notice}")
            lane.start()

    def rebuild(self) -> None:
        """Publish from the first event again, here or wherever a publisher runs: recreates what a tracker has lost."""
        for lane in self._lanes:
            self._ledger.set_cursor(lane.tracker.name, 0)

    def drain(self, timeout_seconds: float) -> dict[str, int]:
        """Publish what is left and stop; how many events each tracker still lacks.

        A tracker that is unavailable is tried once more, not waited for.
        """
        deadline = monotonic() + timeout_seconds
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.join(max(0.0, deadline - monotonic()))
            lane.abandon()
        return {lane.tracker.name: num_unpublished(self._ledger, lane.tracker.name) for lane in self._lanes}


class _Lane(threading.Thread):
    """The thread that serves one tracker."""

    def __init__(self, ledger: Ledger, tracker: Tracker, *, owner: str, warn: Callable[[str], None]) -> None:
        super().__init__(name=f"publish to {tracker.name}", daemon=True)
        self.tracker = tracker
        self._ledger = ledger
        self._role = f"publish to {tracker.name}"
        self._owner = owner
        self._warn = warn
        self._num_failures = 0
        self._wake = threading.Event()
        self._finishing = False
        self._abandoned = False

    def finish(self) -> None:
        """End when nothing is left, or when the next attempt fails."""
        self._finishing = True
        self._wake.set()

    def abandon(self) -> None:
        """End as soon as the tracker answers."""
        self._abandoned = True
        self._wake.set()

    def run(self) -> None:
        while not self._abandoned:
            finishing = self._finishing
            caught_up = self._catch_up()
            if finishing and (caught_up or self._num_failures):
                break
            self._wake.wait(INTERVAL_SECONDS * 2 ** min(self._num_failures, MAX_DOUBLINGS))
            self._wake.clear()
        self.tracker.close()
        with suppress(Exception):  # an unreachable database: the role lapses by itself
            self._ledger.release_role(self._role, self._owner)

    def _catch_up(self) -> bool:
        """Publish until nothing is left; False when the tracker, the database or another publisher is in the way."""
        try:
            while not self._abandoned and self._is_behind():
                if not self._ledger.acquire_role(self._role, self._owner, lease_seconds=LEASE_SECONDS):
                    return False
                publish_pending(self._ledger, self.tracker)
                self._recover()
        except Exception as error:  # whatever happens here must not end the search, nor pass unseen
            self._fail(error)
            return False
        return True

    def _is_behind(self) -> bool:
        return bool(self._ledger.events(after=self._ledger.cursor(self.tracker.name), limit=1))

    def _fail(self, error: Exception) -> None:
        self._num_failures += 1
        if self._num_failures == 1:
            name = self.tracker.name
            found = f"{name}: results cannot be published: {one_line(error)}"
            if isinstance(error, StorageError):  # of the ledger; what a tracker raises is none
                found = (
                    f"{name}: results cannot be published, because the study's own database does not answer: {error}"
                )
            self._warn(f"{found}; the search goes on, and they will be published later")

    def _recover(self) -> None:
        if self._num_failures:
            self._warn(f"{self.tracker.name}: results are published again, with those that were missed")
        self._num_failures = 0
