"""Shows which processes live: each holds a role in the ledger; a thread beside the training renews a worker's role.

It also writes down how long the worker has held its device.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from fold_search.search.study.attended import RUN_ROLE, WORKER_ROLE
from fold_search.search.study.spending import CPU
from fold_search.storage.errors import LeaseLost, StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Claim

log = logging.getLogger(__name__)

ENDED = "the run ended"
STOPPED = "the worker was stopped"  # why a fold run is given back
START_SECONDS = 60.0  # by then a run's coordinator or a worker has a role of its own


def make_owner() -> str:
    """A name for a worker or coordinator that no other process has, on any machine, at any time."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def host_of(owner: str) -> str:
    """The machine of an owner that `make_owner` has named."""
    return owner.rsplit("-", 2)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The device that a worker holds, or its share of one that several workers use, `since` when by time.monotonic."""

    device: str = CPU
    share: float = 1.0
    since: float = field(default_factory=time.monotonic)


class Presence:
    """Tells the database every third of a lease that this worker lives, and with it the lease of the claim in hand."""

    def __init__(self, ledger: Ledger, owner: str, *, lease_seconds: float, held: Held) -> None:
        self.claim: Claim | None = None
        self._held = held
        self._ledger = ledger
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def __enter__(self) -> "Presence":
        self._renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        with suppress(StorageUnavailable):  # the role lapses by itself
            self._ledger.release_role(WORKER_ROLE + self._owner, self._owner)

    def _run(self) -> None:
        # A third, so that two renewals may fail before the lease lapses.
        while not self._leave.wait(self._lease_seconds / 3):
            try:
                self._renew()
            except LeaseLost:
                pass  # the next write of the training is refused, and it ends there
            except Exception as error:
                log.warning("the lease could not be renewed and is tried again: %s", error)

    def _renew(self) -> None:
        role, held = WORKER_ROLE + self._owner, self._held
        self._ledger.acquire_role(role, self._owner, lease_seconds=self._lease_seconds)
        seconds = held.share * (time.monotonic() - held.since)
        self._ledger.record_usage(role, device=held.device, share=held.share, seconds=seconds)
        if (claim := self.claim) is not None:
            self._ledger.renew(claim, lease_seconds=self._lease_seconds)


@contextmanager
def announced(ledger: Ledger, owner: str) -> Iterator[None]:
    """Announce that a run begins, until its coordinator or its workers have roles of their own."""
    ledger.acquire_role(RUN_ROLE + owner, owner, lease_seconds=START_SECONDS)
    try:
        yield
    finally:
        with suppress(StorageUnavailable):  # the role lapses by itself
            end_announcement(ledger, owner)


def end_announcement(ledger: Ledger, owner: str) -> None:
    """End it once the coordinator has its role: that lapses soon after a crash, the announcement much later."""
    ledger.release_role(RUN_ROLE + owner, owner)
