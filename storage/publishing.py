"""Keeps the trackers up with the ledger: reads the events after a tracker's cursor, publishes them, moves the cursor.

::

    events of the ledger   1 2 3 4 5 6 7 8 9        numbered without gaps
    a tracker's cursor               ^              it has everything up to here

The cursor moves only after a tracker has taken the events. A publisher that dies between the two lets the next one
publish some events twice; that changes nothing, since every tracker writes the same event to the same place.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.trackers.contract import Tracker, one_line

INTERVAL_SECONDS = 1.0
MAX_DOUBLINGS = 5  # of the interval, one for each failure
LEASE_SECONDS = 10.0  # a tracker that takes longer lets two publish the same events, which changes nothing


def publish_pending(ledger: Ledger, tracker: Tracker, *, limit: int = 500) -> int:
    """Publish the next events and move the tracker's cursor; return how many, 0 if there were none.

    Raises TrackerUnavailable; then the cursor stays where it was.
    """
    cursor = ledger.cursor(tracker.name)
    events = ledger.events(after=cursor, limit=limit)
    if events:
        tracker.publish(ledger.study(), events)
        if ledger.cursor(tracker.name) == cursor:  # if it has moved, somebody has asked for a rebuild
            ledger.set_cursor(tracker.name, events[-1].sequence)
    return len(events)


def num_unpublished(ledger: Ledger, tracker_name: str) -> int:
    """How many events the tracker has not been given."""
    return ledger.last_sequence() - ledger.cursor(tracker_name)  # sequences have no gaps


class Publisher:
    """Publishes a study's events from threads of its own, one per tracker, so that nobody waits for a tracker.

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
        """Have everything published again from the first event, by any publisher: for a tracker that lost its runs."""
        for lane in self._lanes:
            self._ledger.set_cursor(lane.tracker.name, 0)

    def drain(self, timeout_seconds: float) -> dict[str, int]:
        """Publish what is left and stop; return how many events each tracker still lacks.

        A tracker that is unavailable is tried once more, but not waited for.
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
            finishing = self._finishing  # read first: this round then publishes all that was written before `finish`
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
                # Renewed for every batch: if this publisher hangs or dies, another one goes on.
                if not self._ledger.acquire_role(self._role, self._owner, lease_seconds=LEASE_SECONDS):
                    return False
                publish_pending(self._ledger, self.tracker)
                self._recover()
        except Exception as error:  # nothing that happens here may end the search, or pass unseen
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
            if isinstance(error, StorageError):  # from the ledger: trackers do not raise it
                found = (
                    f"{name}: results cannot be published, because the study's own database does not answer: {error}"
                )
            self._warn(f"{found}; the search goes on, and they will be published later")

    def _recover(self) -> None:
        if self._num_failures:
            self._warn(f"{self.tracker.name}: results are published again, with those that were missed")
        self._num_failures = 0
