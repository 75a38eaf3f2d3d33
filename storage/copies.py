"""Copies a study from one database to another, SQLite or PostgreSQL. Workers may train it meanwhile."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import optuna
from optuna.trial import TrialState as OptunaState
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import IntegrityError

from fold_search.storage.catalog import find_study
from fold_search.storage.database import explaining, reading, writing
from fold_search.storage.errors import StorageError
from fold_search.storage.records import StudyRecord
from fold_search.storage.studies import (
    close_study,
    open_study,
    optuna_errors,
    optuna_storage,
    set_system_attributes,
    system_attributes,
)
from fold_search.storage.tables import CursorRow, MemoryRow, RoleRow, StudyRow, Table, TrialRow

ROWS_AT_ONCE = 1000
# Who works on it, what trackers have of it and what fits into memory is different where the copy goes.
LEFT_BEHIND = {CursorRow.__tablename__, MemoryRow.__tablename__, RoleRow.__tablename__}


def copy_study(source: Engine, target: Engine, *, name: str) -> StudyRecord:
    """Copy the ledger as it is at this moment, and Optuna's study as the ledger knew it then; return the copy.

    Both databases have the newest schema. Raises StorageError if the target has a study of that name, and then copies
    nothing.
    """
    found = find_study(source, name)
    if found is None:
        raise StorageError(f"the database has no study {name!r}")
    refuse_known(target, name)
    # On SQLite every transaction is such a snapshot.
    snapshot = {"isolation_level": "REPEATABLE READ"} if source.dialect.name == "postgresql" else {}
    with reading(source.execution_options(**snapshot)) as ledger:
        told = dict(
            ledger.execute(select(TrialRow.number, TrialRow.told).where(TrialRow.study_id == found.id)).tuples().all()
        )
        try:
            _copy_trials(_url(source), _url(target), found, told)
            with writing(target) as connection:
                new_id = _copy_ledger(ledger, connection, study_id=found.id)
        except BaseException as error:
            _remove_trials(_url(target), name)
            if isinstance(error, IntegrityError):
                raise StorageError(f"a study {name!r} was added to the database meanwhile") from None
            raise
    return replace(found, id=new_id)


def refuse_known(engine: Engine, name: str) -> None:
    """Raise StorageError if the database has a study of that name, in the ledger or in Optuna's tables."""
    url = _url(engine)
    with optuna_errors(url):
        storage = optuna_storage(url)
        known = name in optuna.get_all_study_names(storage)
        storage.engine.dispose()
    if known or find_study(engine, name) is not None:
        raise StorageError(f"the database already has a study {name!r}; use --storage for another database")


def _copy_trials(source: str, target: str, record: StudyRecord, told: Mapping[int, bool]) -> None:
    """Copy Optuna's study. Trials of which Optuna was not told the end are running; later trials are left out."""
    with optuna_errors(source):
        begun = open_study(source, name=record.name, direction=record.direction)
        trials = [trial for trial in begun.get_trials() if trial.number in told]
        of_users, of_optuna = begun.user_attrs, system_attributes(begun)
        close_study(begun)
    with optuna_errors(target):
        copy = open_study(target, name=record.name, direction=record.direction)
        for key, value in of_users.items():
            copy.set_user_attr(key, value)
        set_system_attributes(copy, of_optuna)
        for trial in trials:
            if not told[trial.number]:
                trial.state, trial.values, trial.datetime_complete = OptunaState.RUNNING, None, None
                trial.intermediate_values = {}
            copy.add_trial(trial)
        close_study(copy)


def _remove_trials(url: str, name: str) -> None:
    with optuna_errors(url), suppress(KeyError):
        storage = optuna_storage(url)
        optuna.delete_study(study_name=name, storage=storage)
        storage.engine.dispose()


def _copy_ledger(source: Connection, target: Connection, *, study_id: int) -> int:
    """Copy the study's rows table by table; return its new id. Its fold runs get new ids too."""
    study = dict(source.execute(select(StudyRow.__table__).where(StudyRow.id == study_id)).mappings().one())
    del study["id"]
    new_id = target.execute(insert(StudyRow).values(study).returning(StudyRow.id)).scalar_one()
    for table in Table.metadata.sorted_tables:
        if table.name in LEFT_BEHIND or table is StudyRow.__table__:
            continue
        columns = [column for column in table.columns if column.name != "id"]
        with explaining(source.engine.url):  # the transaction around this one is the target's
            rows = source.execute(select(*columns).where(table.columns["study_id"] == study_id)).mappings()
        for part in rows.partitions(ROWS_AT_ONCE):
            target.execute(insert(table), [dict(row) | {"study_id": new_id} for row in part])
    return int(new_id)


def _url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)
