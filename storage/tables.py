"""The ledger's tables, beside Optuna's in the same database; storage/migrations creates and changes them."""

import enum
import json
import math
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    Dialect,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fold_search.storage.records import EventKind, Failure, FoldRunState, StudyState, TrialState


class Json(TypeDecorator[Any]):
    """JSON, stored as text: PostgreSQL's JSON types refuse NaN and infinity, which real metrics contain."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Serialise, NaN and infinities as Python's json module spells them."""
        return json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read it back."""
        return None if value is None else json.loads(value)


class Real(Double[float]):
    """A double that can be NaN. SQLite would turn NaN into NULL, so there it is stored as the text 'NaN'.

    Both databases sort NaN after every number.
    """

    def bind_processor(self, dialect: Dialect) -> Callable[[float | None], Any] | None:
        """Spell NaN out for SQLite."""
        return _spell_nan if dialect.name == "sqlite" else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], float | None] | None:
        """Read it back."""
        return _read_nan if dialect.name == "sqlite" else None


def _spell_nan(value: float | None) -> Any:
    return "NaN" if value is not None and math.isnan(value) else value


def _read_nan(value: Any) -> float | None:
    return None if value is None else float(value)


class Table(DeclarativeBase):
    """A typed table of the ledger; `Table.metadata` knows them all."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_index",
            "uq": "%(table_name)s_%(column_0_N_name)s_unique",
            "fk": "%(table_name)s_%(column_0_N_name)s_foreign",
            "pk": "%(table_name)s_primary",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - declared by SQLAlchemy as a plain class attribute
        str: Text,
        float: Real,
        dict[str, Any]: Json,
        enum.Enum: Enum(
            enum.Enum, native_enum=False, length=16, values_callable=lambda states: [state.value for state in states]
        ),
    }


class StudyRow(Table):
    """A study and its fold manifest: the fold of every row, little-endian int16, zlib."""

    __tablename__ = "ledger_studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[StudyState]
    config: Mapped[dict[str, Any]]
    metric: Mapped[str]
    direction: Mapped[str]
    num_folds: Mapped[int]
    fingerprints: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    assignments: Mapped[bytes] = mapped_column(LargeBinary)


class CounterRow(Table):
    """The number of a study's last event. Whoever changes the study locks this row first.

    It is a table of its own because the row is rewritten with every event.
    """

    __tablename__ = "ledger_counters"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    last_sequence: Mapped[int]


class TrialRow(Table):
    """A trial; `finished_at` is set with its trial_finished event, `chance` and `audited` by the race."""

    __tablename__ = "ledger_trials"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[TrialState]
    params: Mapped[dict[str, Any]]
    score: Mapped[float | None]
    std: Mapped[float | None]
    pooled: Mapped[float | None]
    estimate: Mapped[float | None]
    reason: Mapped[str | None]
    chance: Mapped[float | None]
    audited: Mapped[bool] = mapped_column(server_default=false())
    failure: Mapped[Failure | None]
    told: Mapped[bool]
    finished_at: Mapped[float | None]


class FoldRunRow(Table):
    """One fold of one trial and its lease."""

    __tablename__ = "ledger_fold_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int]
    trial: Mapped[int]
    fold: Mapped[int]
    state: Mapped[FoldRunState]
    owner: Mapped[str | None]
    token: Mapped[int]
    expires_at: Mapped[float | None]
    attempt: Mapped[int]
    reason: Mapped[str | None]
    score: Mapped[float | None]
    best_epoch: Mapped[int | None]
    num_epochs: Mapped[int]
    checkpoint: Mapped[str | None]
    predictions: Mapped[str | None]
    sample: Mapped[dict[str, Any] | None]
    seconds: Mapped[float]
    failure: Mapped[Failure | None]
    __table_args__ = (
        ForeignKeyConstraint(["study_id", "trial"], [TrialRow.study_id, TrialRow.number]),
        UniqueConstraint("study_id", "trial", "fold"),
        Index(None, "study_id", "state", "trial", "fold"),
    )


class EpochRow(Table):
    """The score and metrics of one epoch of one fold run."""

    __tablename__ = "ledger_epochs"
    study_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fold: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    score: Mapped[float]
    standing: Mapped[float] = mapped_column(server_default="0")
    metrics: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    __table_args__ = (
        ForeignKeyConstraint(["study_id", "trial", "fold"], [FoldRunRow.study_id, FoldRunRow.trial, FoldRunRow.fold]),
    )


class EventRow(Table):
    """One change of a study, in commit order."""

    __tablename__ = "ledger_events"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    kind: Mapped[EventKind]
    trial: Mapped[int | None]
    fold: Mapped[int | None]
    epoch: Mapped[int | None]
    payload: Mapped[dict[str, Any]]


class BaselineRow(Table):
    """What a simple model reaches on the study's folds; without a score the reason why there is none."""

    __tablename__ = "ledger_baselines"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str]
    score: Mapped[float | None]
    std: Mapped[float | None]
    pooled: Mapped[float | None]
    fold_scores: Mapped[tuple[float, ...]] = mapped_column(Json)
    reason: Mapped[str | None]
    seconds: Mapped[float]


class MemoryRow(Table):
    """How many rows of one shape fit into a device's memory at once; only for shapes of which more did not fit."""

    __tablename__ = "ledger_memory"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    shape: Mapped[str] = mapped_column(primary_key=True)
    rows: Mapped[int]


class CursorRow(Table):
    """The last event a tracker has."""

    __tablename__ = "ledger_cursors"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    tracker: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int]


class RoleRow(Table):
    """A role in a study, held under a lease by one owner at a time."""

    __tablename__ = "ledger_roles"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    expires_at: Mapped[float]


class UsageRow(Table):
    """The device seconds of one worker, known by its role, as it counted them `at` some time; see records.Usage."""

    __tablename__ = "ledger_usage"
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    share: Mapped[float]
    seconds: Mapped[float]
    at: Mapped[float]
