"""One writing transaction on a study, with the study's counter locked from its first statement to its commit.

So the writers of one study take turns, on PostgreSQL as on SQLite. Events are numbered without gaps, in the order of
their commits, and no two writers wait for each other's rows. A claim does not skip rows that others have locked: it
writes an event, so it has to wait for the counter anyway.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, insert, update

from fold_search.storage.database import clock, writing
from fold_search.storage.errors import StorageError
from fold_search.storage.records import EventKind
from fold_search.storage.tables import CounterRow, EventRow


@dataclass(slots=True, kw_only=True)
class Change:
    """What a writing method works with; `now` is the database's clock, seconds since 1970."""

    connection: Connection
    study_id: int
    now: float
    last_sequence: int
    events: list[dict[str, Any]] = field(default_factory=list)

    def event(
        self,
        kind: EventKind,
        payload: dict[str, Any],
        *,
        trial: int | None = None,
        fold: int | None = None,
        epoch: int | None = None,
    ) -> int:
        """Note an event to be committed with this change; returns its sequence."""
        self.last_sequence += 1
        where = {"study_id": self.study_id, "trial": trial, "fold": fold, "epoch": epoch}
        self.events.append(where | {"sequence": self.last_sequence, "at": self.now, "kind": kind, "payload": payload})
        return self.last_sequence

    def commit_events(self) -> None:
        """Write the noted events and move the counter on."""
        if not self.events:
            return
        self.connection.execute(insert(EventRow), self.events)
        counter = update(CounterRow).where(CounterRow.study_id == self.study_id)
        self.connection.execute(counter.values(last_sequence=self.last_sequence))


@contextmanager
def changing(engine: Engine, study_id: int) -> Iterator[Change]:
    """Lock the study, hand over the change, write its events and commit. An error in the block undoes all of it."""
    with writing(engine) as connection:
        # UPDATE ... RETURNING reads the clock after it has waited for the lock; SELECT FOR UPDATE reads it before.
        lock = (
            update(CounterRow)
            .where(CounterRow.study_id == study_id)
            .values(last_sequence=CounterRow.last_sequence)
            .returning(CounterRow.last_sequence, clock())
        )
        found = connection.execute(lock).one_or_none()
        if found is None:
            raise StorageError(f"the database has no study with id {study_id}")
        last_sequence, now = found
        change = Change(connection=connection, study_id=study_id, now=now, last_sequence=last_sequence)
        yield change
        change.commit_events()
