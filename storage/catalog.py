"""The studies of a database: created, found, listed."""

import hashlib
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Select, insert, select
from sqlalchemy.exc import IntegrityError

from fold_search.storage.changes import Change
from fold_search.storage.database import clock, reading, writing
from fold_search.storage.records import Direction, EventKind, StudyRecord, StudyState
from fold_search.storage.tables import CounterRow, StudyRow

STUDY_COLUMNS = [column for column in StudyRow.__table__.columns if column.name != "assignments"]


def create_study(
    engine: Engine,
    *,
    name: str,
    config: dict[str, Any],
    metric: str,
    direction: Direction,
    fingerprints: dict[str, str],
    provenance: dict[str, Any],
    assignments: NDArray[np.int16],
) -> StudyRecord:
    """Create a study, unless another process has created one of that name; return the one that is there now.

    `assignments` is the fold manifest, (rows,): the fold of every row of the data, from 0.
    """
    described = {
        "name": name,
        "config": config,
        "metric": metric,
        "direction": direction,
        "num_folds": int(assignments.max()) + 1,
        "fingerprints": fingerprints,
        "provenance": provenance,
    }
    manifest = zlib.compress(assignments.astype("<i2").tobytes())
    with suppress(IntegrityError), writing(engine) as connection:
        _insert(connection, described, manifest)
    with reading(engine) as connection:
        return StudyRecord(**connection.execute(_named(name)).mappings().one())


def _insert(connection: Connection, described: dict[str, Any], manifest: bytes) -> None:
    now = connection.execute(select(clock())).scalar_one()
    study = insert(StudyRow).values(**described, state=StudyState.RUNNING, created_at=now, assignments=manifest)
    study_id = connection.execute(study.returning(StudyRow.id)).scalar_one()
    connection.execute(insert(CounterRow).values(study_id=study_id, last_sequence=0))
    change = Change(connection=connection, study_id=study_id, now=now, last_sequence=0)
    change.event(EventKind.STUDY_CREATED, described)
    change.commit_events()


def find_study(engine: Engine, name: str) -> StudyRecord | None:
    """The study of that name; None if there is none."""
    with reading(engine) as connection:
        row = connection.execute(_named(name)).mappings().one_or_none()
    return None if row is None else StudyRecord(**row)


def _named(name: str) -> Select[Any]:
    return select(*STUDY_COLUMNS).where(StudyRow.name == name)


def study_key(study: StudyRecord) -> str:
    """The study's name outside its database: 16 hex digits, which differ even between studies of one name."""
    return hashlib.sha256(f"{study.name}\n{study.created_at!r}".encode()).hexdigest()[:16]


def list_studies(engine: Engine) -> list[StudyRecord]:
    """All studies, the oldest first."""
    with reading(engine) as connection:
        rows = connection.execute(select(*STUDY_COLUMNS).order_by(StudyRow.id)).mappings()
        return [StudyRecord(**row) for row in rows]
