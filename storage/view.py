"""Reading a ledger: each method looks at the database once and makes no writer wait."""

import zlib
from collections.abc import Collection
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, and_, case, func, select

from fold_search.storage.catalog import STUDY_COLUMNS, study_key
from fold_search.storage.database import clock, reading
from fold_search.storage.errors import StorageError
from fold_search.storage.leases import COLUMNS as FOLD_RUN_COLUMNS
from fold_search.storage.records import (
    BaselineRecord,
    EpochRecord,
    Event,
    EventKind,
    FoldRun,
    FoldRunState,
    StudyRecord,
    TrialRecord,
    Usage,
)
from fold_search.storage.tables import (
    BaselineRow,
    CounterRow,
    CursorRow,
    EpochRow,
    EventRow,
    FoldRunRow,
    MemoryRow,
    RoleRow,
    StudyRow,
    TrialRow,
    UsageRow,
)

TRIAL_COLUMNS = [c for c in TrialRow.__table__.columns if c.name not in ("study_id", "finished_at")]
EPOCH_COLUMNS = [c for c in EpochRow.__table__.columns if c.name != "study_id"]
EVENT_COLUMNS = [c for c in EventRow.__table__.columns if c.name != "study_id"]
SECONDS_BY_NOW = UsageRow.seconds + UsageRow.share * (clock() - UsageRow.at)  # of a worker that lives


class LedgerView:
    """One study's ledger, to be looked at; every method may raise StorageError."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self.engine = engine
        self.study_id = study_id

    def study(self) -> StudyRecord:
        """The study as it is now."""
        with reading(self.engine) as connection:
            found = connection.execute(select(*STUDY_COLUMNS).where(StudyRow.id == self.study_id)).mappings()
            row = found.one_or_none()
        if row is None:
            raise StorageError(f"the database has no study with id {self.study_id}")
        return StudyRecord(**row)

    @cached_property
    def folder(self) -> str:
        """The study's folder among the artifacts; no other study has the same, not even in another database."""
        return f"study-{study_key(self.study())}"

    def assignments(self) -> NDArray[np.int16]:
        """The fold manifest: the fold of every row of the data; shape (rows,)."""
        with reading(self.engine) as connection:
            packed = connection.scalar(select(StudyRow.assignments).where(StudyRow.id == self.study_id))
        if packed is None:
            raise StorageError(f"the database has no study with id {self.study_id}")
        return np.frombuffer(zlib.decompress(packed), dtype="<i2").astype(np.int16)

    def trials(self, *, told: bool | None = None) -> list[TrialRecord]:
        """All trials by number; or only those of whose end the sampler was told, or was not told."""
        trials = select(*TRIAL_COLUMNS).where(TrialRow.study_id == self.study_id).order_by(TrialRow.number)
        runs = (
            select(FoldRunRow.trial, FoldRunRow.state, FoldRunRow.score)
            .where(FoldRunRow.study_id == self.study_id)
            .order_by(FoldRunRow.trial, FoldRunRow.fold)
        )
        if told is not None:
            trials = trials.where(TrialRow.told.is_(told))
            runs = runs.where(FoldRunRow.trial.in_(trials.with_only_columns(TrialRow.number).order_by(None)))
        # The trials first. A trial that is added between the two queries is then missing in both, not in one.
        with reading(self.engine) as connection:
            rows = connection.execute(trials).mappings().all()
            by_trial = groupby(connection.execute(runs), key=lambda run: run.trial)
            scores = {
                trial: tuple(run.score if run.state is FoldRunState.DONE else None for run in group)
                for trial, group in by_trial
            }
        return [TrialRecord(**row, fold_scores=scores[row["number"]]) for row in rows]

    def fold_runs(self, *, trials: Collection[int] | None = None) -> list[FoldRun]:
        """All fold runs, or those of some trials, by trial and fold."""
        runs = select(*FOLD_RUN_COLUMNS).where(FoldRunRow.study_id == self.study_id)
        if trials is not None:
            runs = runs.where(FoldRunRow.trial.in_(trials))
        with reading(self.engine) as connection:
            rows = connection.execute(runs.order_by(FoldRunRow.trial, FoldRunRow.fold)).mappings()
            return [FoldRun(**row) for row in rows]

    def epochs(self, *, trial: int | None = None) -> list[EpochRecord]:
        """All recorded epochs, or one trial's, by trial, fold and epoch."""
        epochs = select(*EPOCH_COLUMNS).where(EpochRow.study_id == self.study_id)
        if trial is not None:
            epochs = epochs.where(EpochRow.trial == trial)
        with reading(self.engine) as connection:
            rows = connection.execute(epochs.order_by(EpochRow.trial, EpochRow.fold, EpochRow.epoch)).mappings()
            return [EpochRecord(**row) for row in rows]

    def standings(self) -> list[tuple[int, int, int, float]]:
        """The trial, fold, epoch and standing of all recorded epochs, in no order: what the race reads."""
        columns = (EpochRow.trial, EpochRow.fold, EpochRow.epoch, EpochRow.standing)
        with reading(self.engine) as connection:
            rows = connection.execute(select(*columns).where(EpochRow.study_id == self.study_id))
            return [(trial, fold, epoch, standing) for trial, fold, epoch, standing in rows]

    def run_states(self) -> list[tuple[int, int, FoldRunState]]:
        """The trial, fold and state of all fold runs, in no order: what the race reads."""
        columns = (FoldRunRow.trial, FoldRunRow.fold, FoldRunRow.state)
        with reading(self.engine) as connection:
            rows = connection.execute(select(*columns).where(FoldRunRow.study_id == self.study_id))
            return [(trial, fold, state) for trial, fold, state in rows]

    def audited(self) -> set[int]:
        """The trials that the race would have stopped, and that are trained on as a check."""
        trials = select(TrialRow.number).where(TrialRow.study_id == self.study_id, TrialRow.audited.is_(True))
        with reading(self.engine) as connection:
            return set(connection.scalars(trials))

    def params(self) -> dict[int, dict[str, Any]]:
        """The params of every trial, by number."""
        columns = (TrialRow.number, TrialRow.params)
        trials = select(*columns).where(TrialRow.study_id == self.study_id).order_by(TrialRow.number)
        with reading(self.engine) as connection:
            return dict(connection.execute(trials).tuples().all())

    def baselines(self) -> list[BaselineRecord]:
        """What simple models reach on the study's folds, as far as that is computed, by name."""
        columns = [column for column in BaselineRow.__table__.columns if column.name != "study_id"]
        found = select(*columns).where(BaselineRow.study_id == self.study_id).order_by(BaselineRow.name)
        with reading(self.engine) as connection:
            rows = connection.execute(found).mappings().all()
        return [BaselineRecord(**{**row, "fold_scores": tuple(row["fold_scores"])}) for row in rows]

    def rows_that_fit(self, device: str) -> dict[str, int]:
        """How many rows fit into the device's memory at once, for each shape of which more did not fit."""
        here = (MemoryRow.study_id == self.study_id, MemoryRow.device == device)
        known = select(MemoryRow.shape, MemoryRow.rows).where(*here)
        with reading(self.engine) as connection:
            return dict(connection.execute(known).tuples().all())

    def counts(self) -> dict[FoldRunState, int]:
        """How many fold runs are in each state, zeros included."""
        counts = select(FoldRunRow.state, func.count()).where(FoldRunRow.study_id == self.study_id)
        with reading(self.engine) as connection:
            found = dict(connection.execute(counts.group_by(FoldRunRow.state)).tuples().all())
        return {state: found.get(state, 0) for state in FoldRunState}

    def events(self, *, after: int = 0, limit: int = 500) -> list[Event]:
        """The first `limit` events whose sequence is larger than `after`, in order."""
        events = select(*EVENT_COLUMNS).where(EventRow.study_id == self.study_id, EventRow.sequence > after)
        with reading(self.engine) as connection:
            rows = connection.execute(events.order_by(EventRow.sequence).limit(limit)).mappings()
            return [Event(**row) for row in rows]

    def last_events(self, kinds: Collection[EventKind], *, limit: int) -> list[Event]:
        """The last `limit` events of these kinds, the latest first."""
        events = select(*EVENT_COLUMNS).where(EventRow.study_id == self.study_id, EventRow.kind.in_(kinds))
        with reading(self.engine) as connection:
            rows = connection.execute(events.order_by(EventRow.sequence.desc()).limit(limit)).mappings()
            return [Event(**row) for row in rows]

    def last_sequence(self) -> int:
        """The sequence of the last event."""
        last = select(CounterRow.last_sequence).where(CounterRow.study_id == self.study_id)
        with reading(self.engine) as connection:
            return connection.scalar(last) or 0

    def live_roles(self, prefix: str) -> list[str]:
        """The roles whose names begin so and whose lease has not lapsed."""
        named = RoleRow.role.startswith(prefix, autoescape=True)
        live = select(RoleRow.role).where(RoleRow.study_id == self.study_id, named, RoleRow.expires_at >= clock())
        with reading(self.engine) as connection:
            return list(connection.scalars(live.order_by(RoleRow.role)))

    def live_leases(self) -> set[int]:
        """The ids of the fold runs whose lease has not lapsed."""
        leased = (FoldRunRow.state == FoldRunState.LEASED, FoldRunRow.expires_at >= clock())
        with reading(self.engine) as connection:
            return set(connection.scalars(select(FoldRunRow.id).where(FoldRunRow.study_id == self.study_id, *leased)))

    def usage(self) -> list[Usage]:
        """What each worker that the study ever had has used of a device, in the order in which that was written."""
        live = RoleRow.role.is_not(None)
        seconds = case((live, SECONDS_BY_NOW), else_=UsageRow.seconds)
        columns = (UsageRow.role, UsageRow.device, UsageRow.share, seconds.label("seconds"), UsageRow.at)
        held = and_(RoleRow.study_id == UsageRow.study_id, RoleRow.role == UsageRow.role, RoleRow.expires_at >= clock())
        mine = select(*columns, live.label("live")).outerjoin(RoleRow, held).where(UsageRow.study_id == self.study_id)
        with reading(self.engine) as connection:
            return [Usage(**row) for row in connection.execute(mine.order_by(UsageRow.at)).mappings()]

    def cursor(self, tracker: str) -> int:
        """The sequence of the last event the tracker has; 0 if it has none."""
        mine = select(CursorRow.sequence).where(CursorRow.study_id == self.study_id, CursorRow.tracker == tracker)
        with reading(self.engine) as connection:
            return connection.scalar(mine) or 0
