"""Optuna's studies beside the ledger."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import Engine, inspect, text

from fold_search.storage.catalog import list_studies
from fold_search.storage.database import SCHEMA, VERSION_TABLE, migrate, reading
from fold_search.storage.errors import StorageError, StorageUnavailable
from fold_search.storage.studies import close_study, open_study, optuna_errors, optuna_storage
from fold_search.storage.tables import Table
from tests.conftest import PostgresServer


@pytest.fixture
def open_storage() -> Iterator[Callable[[str], RDBStorage]]:
    """`optuna_storage`, and its engine is closed after the test."""
    storages: list[RDBStorage] = []

    def open_one(url: str) -> RDBStorage:
        storages.append(optuna_storage(url))
        return storages[-1]

    yield open_one
    for storage in storages:
        storage.engine.dispose()


def test_a_study_is_continued_where_it_is_opened_again(database_url: str) -> None:
    """Asked in one place, told in another, by number alone."""
    study = open_study(database_url, name="study", direction="minimize")
    trial = study.ask()
    learning_rate = trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    close_study(study)
    again = open_study(database_url, name="study", direction="minimize")
    again.tell(trial.number, 0.5)
    assert (again.best_value, again.best_params) == (0.5, {"learning_rate": learning_rate})
    assert again.direction is optuna.study.StudyDirection.MINIMIZE
    close_study(again)


def test_the_ledger_and_optuna_share_a_database(
    database_url: str, open_engine: Callable[[str], Engine], open_storage: Callable[[str], RDBStorage]
) -> None:
    """Each has its own tables and its own version, whoever comes first."""
    storage = open_storage(database_url)
    engine = open_engine(database_url)
    with reading(engine) as connection:
        optunas = connection.scalar(text("SELECT version_num FROM alembic_version"))
        before = set(inspect(connection).get_table_names())
    migrate(engine)
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == optunas
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == SCHEMA
        assert set(inspect(connection).get_table_names()) - before == {VERSION_TABLE, *Table.metadata.tables}
    assert storage.get_all_studies() == []
    assert list_studies(engine) == []


def test_several_may_open_a_new_study_at_once(database_url: str) -> None:
    """They get in each other's way while Optuna makes its tables, and all end up with the same study."""
    with ThreadPoolExecutor(4) as executor:
        opened = [executor.submit(open_study, database_url, name="study", direction="maximize") for _ in range(4)]
        studies = [each.result() for each in opened]
    assert {study._study_id for study in studies} == {1}
    for study in studies:
        close_study(study)


def test_optunas_connections_have_the_ledgers_settings(
    sqlite_url: str, open_storage: Callable[[str], RDBStorage]
) -> None:
    """Write-ahead log, synchronous NORMAL (1), 60 s of patience, and no heartbeat."""
    storage = open_storage(sqlite_url)
    with storage.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() for pragma in pragmas]
    assert found == ["wal", 1, 60_000]
    assert storage.heartbeat_interval is None


def test_braces_in_a_path_are_not_a_template(sqlite_url: str, open_storage: Callable[[str], RDBStorage]) -> None:
    """Optuna would format them."""
    url = sqlite_url.replace("study.db", "{a}.db")
    assert open_storage(url).engine.url.database == url.removeprefix("sqlite:///")


def test_optuna_is_quiet(sqlite_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Creating and opening a study prints nothing."""
    for _ in range(2):
        close_study(open_study(sqlite_url, name="study", direction="maximize"))
    assert capfd.readouterr() == ("", "")


def test_optunas_database_errors_are_ours(
    postgres_server: PostgresServer, open_storage: Callable[[str], RDBStorage]
) -> None:
    """A database that has gone away while Optuna works is StorageUnavailable, as for the ledger."""
    url = postgres_server.create_database()
    storage = open_storage(url)
    postgres_server.execute(f"DROP DATABASE {storage.engine.url.database} WITH (FORCE)")
    with pytest.raises(StorageUnavailable, match="does not exist"), optuna_errors(url):
        storage.get_all_studies()


def test_a_storage_that_cannot_be_used_is_an_error(tmp_path) -> None:
    """The same error as the ledger's."""
    (tmp_path / "study.db").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(StorageError, match="not a SQLite database, or it is damaged"):
        optuna_storage(f"sqlite:///{tmp_path / 'study.db'}")
