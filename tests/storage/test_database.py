"""Connecting, transactions and their errors, and the schema's versions."""

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, inspect, select, text
from sqlalchemy.exc import OperationalError

from fold_search.storage import database
from fold_search.storage.database import SCHEMA, clock, connect, migrate, reading, redact, writing
from fold_search.storage.errors import StorageError, StorageUnavailable
from fold_search.storage.migrations import revisions, upgrade
from fold_search.storage.tables import Table
from fold_search.storage.view import LedgerView
from tests.conftest import PostgresServer

OpenEngine = Callable[[str], Engine]
VERSIONS = database.VERSION_TABLE


def printed(error: BaseException) -> str:
    """The error as a terminal or a log would show it, with all that it was raised from."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://ann:s3cret@db:5432/study", "postgresql://ann:***@db:5432/study"),
        ("postgresql://ann:p@ss:w/rd@db/study", "postgresql://ann:***@db/study"),
        ("postgresql://db/study?user=ann&password=s3cret&port=1", "postgresql://db/study?user=ann&password=***&port=1"),
        ("postgresql://ann@db/study", "postgresql://ann@db/study"),
        ("http://ann:s3cret@tracker:5000", "http://ann:***@tracker:5000"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
        ("ann:s3cret@db", "ann:***@db"),
    ],
)
def test_passwords_are_taken_out_of_urls(url: str, expected: str) -> None:
    """Also out of malformed ones; everything else stays."""
    assert redact(url) == expected


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("study.db", "not a database URL"),
        ("postgresql://ann:s3cret@db:port/study", "not a database URL"),
        ("mysql://ann:s3cret@db/study", "found mysql, expected sqlite:///FILE or postgresql://"),
        ("sqlite://", "a database in memory cannot be shared"),
        ("sqlite:///:memory:", "a database in memory cannot be shared"),
        ("postgresql://ann:s3@cret@db/study", "has to be written as %40"),
    ],
)
def test_a_url_that_cannot_be_used_is_an_error(url: str, found: str) -> None:
    """The error says what is expected and shows no password."""
    with pytest.raises(StorageError, match=found) as caught:
        connect(url)
    assert "cret" not in printed(caught.value)


class TestSqlite:
    def test_every_connection_has_the_settings(self, sqlite_url: str, open_engine: OpenEngine) -> None:
        """Write-ahead log, synchronous NORMAL (1), foreign keys, 60 s of patience; and the folder is made."""
        with reading(open_engine(sqlite_url.replace("study.db", "new/folder/study.db"))) as connection:
            pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            found = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() for pragma in pragmas]
        assert found == ["wal", 1, 1, 60_000]

    def test_a_writer_waits_for_the_other_from_its_start(self, sqlite_url: str, open_engine: OpenEngine) -> None:
        """Reading, then writing, in two transactions at once loses no update."""
        engine = open_engine(sqlite_url)
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE counters AS SELECT 0 AS number"))

        def count() -> None:
            for _ in range(20):
                with writing(engine) as connection:
                    number = connection.scalar(text("SELECT number FROM counters"))
                    connection.execute(text("UPDATE counters SET number = :number"), {"number": number + 1})

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT number FROM counters")) == 80

    def test_a_database_that_stays_locked_is_unavailable(
        self, sqlite_url: str, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the patience has run out, with the file's name."""
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
        engine = open_engine(sqlite_url)
        with (
            writing(engine),
            pytest.raises(StorageUnavailable, match=r"study\.db: database is locked"),
            writing(engine),
        ):
            pass

    @pytest.mark.parametrize("content", [b"text,label\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_file_that_is_no_database_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        """The error names the file, and the file stays as it is."""
        path = tmp_path / "data.csv"
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"data\.csv: this is not a SQLite database, or it is damaged"):
            connect(f"sqlite:///{path}")
        assert path.read_bytes() == content

    def test_a_damaged_page_is_an_error(self, tmp_path: Path, open_engine: OpenEngine) -> None:
        """Found when the ledger is read, as the header is whole."""
        path = tmp_path / "study.db"
        engine = open_engine(f"sqlite:///{path}")
        migrate(engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(StorageError, match=r"study\.db: the SQLite database is damaged"):
            migrate(open_engine(f"sqlite:///{path}"))

    def test_a_folder_that_cannot_be_made_is_an_error(self, tmp_path: Path) -> None:
        """Where a file is in its place."""
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"file: the database's folder cannot be created: File exists"):
            connect(f"sqlite:///{tmp_path}/file/study.db")

    def test_a_folder_that_takes_no_files_is_an_error(self) -> None:
        """Also for root: the kernel's own folders take none."""
        with pytest.raises(StorageError, match=r"^/proc/study\.db: the file cannot be opened or created"):
            connect("sqlite:////proc/study.db")

    def test_a_full_disk_is_an_error(self, sqlite_url: str, open_engine: OpenEngine) -> None:
        """Said plainly, and nothing of the change is there."""
        engine = open_engine(sqlite_url)
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 3"))
        engine.dispose()
        with pytest.raises(StorageError, match=r"study\.db: the disk is full"):
            migrate(engine)
        with reading(engine) as connection:
            assert inspect(connection).get_table_names() == []


class TestPostgres:
    def test_a_plain_url_means_the_driver_we_have(self, postgres_url: str, open_engine: OpenEngine) -> None:
        """postgresql:// and postgres:// both use psycopg 3."""
        for scheme in ("postgresql", "postgres"):
            engine = open_engine(postgres_url.replace("postgresql+psycopg", scheme))
            assert engine.dialect.driver == "psycopg"

    def test_a_wrong_password_is_an_error(self, guarded_url: str) -> None:
        """It names the user on one line; the password is not in the traceback either."""
        password = "123456"
        with pytest.raises(StorageError, match='password authentication failed for user "guarded"') as caught:
            connect(guarded_url.replace("right", password))
        assert password not in printed(caught.value)
        assert "\n" not in str(caught.value)

    def test_the_right_password_is_used_and_hidden(self, guarded_url: str, open_engine: OpenEngine) -> None:
        """An error of a later statement shows neither the password nor the statement."""
        engine = open_engine(guarded_url)
        with pytest.raises(StorageError, match="nowhere") as caught, reading(engine) as connection:
            connection.execute(text("SELECT secret FROM nowhere WHERE secret = :value"), {"value": 7})
        assert str(caught.value).endswith(': relation "nowhere" does not exist')
        assert "right" not in str(caught.value)

    def test_a_server_that_is_not_there_is_unavailable(self) -> None:
        """In one line, without the password."""
        with pytest.raises(StorageUnavailable, match="Connection refused") as caught:
            connect("postgresql://ann:s3cret@127.0.0.1:1/study")
        assert str(caught.value).startswith("postgresql+psycopg://ann:***@127.0.0.1:1/study: ")
        assert "\n" not in str(caught.value)

    def test_a_lost_connection_is_replaced(
        self, postgres_url: str, postgres_server: PostgresServer, open_engine: OpenEngine
    ) -> None:
        """A server that was restarted costs no error at the next statement."""
        engine = open_engine(postgres_url)
        postgres_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'common'")
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT 1")) == 1

    def test_a_suspended_writer_does_not_hold_up_the_others(
        self, postgres_url: str, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server ends a transaction that does nothing for too long; its writer is told, the next one goes on."""
        monkeypatch.setattr(database, "BUSY_SECONDS", 1)
        engine = open_engine(postgres_url)
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE counters AS SELECT 0 AS number"))
        with pytest.raises(StorageUnavailable, match="idle-in-transaction"):
            _set_number(engine, 1, then=lambda: (time.sleep(1.5), _set_number(engine, 2)))
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT number FROM counters")) == 2


def _set_number(engine: Engine, number: int, then: Callable[[], object] = lambda: None) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE counters SET number = :number"), {"number": number})
        then()
        connection.execute(text("UPDATE counters SET number = :number"), {"number": number})


@pytest.fixture
def guarded_url(postgres_server: PostgresServer, postgres_url: str) -> str:
    """The database of a user whose password, `right`, is really asked for."""
    rules = postgres_server.socket_folder / "pg_hba.conf"
    rule = "local all guarded scram-sha-256\n"
    if not rules.read_text().startswith(rule):
        rules.write_text(rule + rules.read_text())
        postgres_server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        postgres_server.execute("SELECT pg_reload_conf()")
    return postgres_url.replace("postgres@", "guarded:right@")


def test_the_clock_is_the_databases(database_url: str, open_engine: OpenEngine) -> None:
    """Seconds since 1970, finer than ten milliseconds, going on inside a transaction."""
    with writing(open_engine(database_url)) as connection:
        first = connection.execute(select(clock())).scalar_one()
        time.sleep(0.02)
        second = connection.execute(select(clock())).scalar_one()
    assert abs(first - time.time()) < 60
    assert abs(second - time.time()) < 60
    assert second - first > 0.01


RECORDED_BY_THE_FIRST_VERSION = (
    "INSERT INTO ledger_studies VALUES "
    "(:study, :name, 'running', '{}', 'score', :direction, 1, '{}', '{}', 0, :manifest)",
    "INSERT INTO ledger_trials (study_id, number, state, params, told) VALUES (:study, 0, 'running', '{}', :no)",
    "INSERT INTO ledger_fold_runs (study_id, trial, fold, state, token, attempt, num_epochs, seconds) "
    "VALUES (:study, 0, 0, 'waiting', 0, 1, 3, 0)",
    *(
        f"INSERT INTO ledger_epochs VALUES (:study, 0, 0, {epoch}, {score}, '{{}}', 1)"
        for epoch, score in enumerate((0.5, 0.4, 0.6), start=1)
    ),
)


class TestMigrate:
    def test_the_tables_are_those_the_code_declares(self, database_url: str, open_engine: OpenEngine) -> None:
        """Alembic finds no difference between the migrated database and storage.tables."""
        engine = open_engine(database_url)
        migrate(engine)
        with reading(engine) as connection:
            context = MigrationContext.configure(connection, opts={"include_name": lambda name, *_: name != VERSIONS})
            assert compare_metadata(context, Table.metadata) == []
        assert revisions()[0] == SCHEMA

    def test_a_newer_database_is_refused(self, database_url: str, open_engine: OpenEngine) -> None:
        """The error says who has to be upgraded, and nothing is changed."""
        engine = open_engine(database_url)
        migrate(engine)
        with writing(engine) as connection:
            connection.execute(text(f"UPDATE {VERSIONS} SET version_num = '9999'"))
        with pytest.raises(
            StorageError, match=rf"newer version of fold-search \(found schema 9999, expected at most {SCHEMA}\)"
        ):
            migrate(engine)
        with reading(engine) as connection:
            assert connection.scalar(text(f"SELECT version_num FROM {VERSIONS}")) == "9999"

    def test_a_database_of_the_first_version_goes_on(self, database_url: str, open_engine: OpenEngine) -> None:
        """What it recorded stays; an epoch's standing is the best score of its fold so far."""
        engine = open_engine(database_url)
        with writing(engine) as connection:
            upgrade(connection, "0001")
            for study, direction in enumerate(("maximize", "minimize"), start=1):
                for statement in RECORDED_BY_THE_FIRST_VERSION:
                    values = {"study": study, "direction": direction, "name": direction, "no": False, "manifest": b""}
                    connection.execute(text(statement), values)
        migrate(engine)
        standings = [sorted(LedgerView(engine, study).standings()) for study in (1, 2)]
        assert [[standing for *_, standing in found] for found in standings] == [[0.5, 0.5, 0.6], [0.5, 0.4, 0.4]]
        view = LedgerView(engine, 1)
        assert (view.fold_runs()[0].sample, view.trials()[0].failure, view.rows_that_fit("cpu")) == (None, None, {})

    def test_an_older_database_is_copied_before_it_is_upgraded(
        self, database_url: str, open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As it was, beside it, on SQLite; PostgreSQL's way back is named. A new database has nothing to keep."""
        engine = open_engine(database_url)
        with writing(engine) as connection:
            upgrade(connection, "0001")
        migrate(engine)
        migrate(engine)
        [message] = [record.getMessage() for record in caplog.records]
        assert f"the schema is upgraded from 0001 to {SCHEMA}" in message
        if engine.dialect.name == "postgresql":
            assert message.endswith("pg_dump --format=custom")
            return
        kept = f"{engine.url.database}.schema-0001"
        assert message.endswith(kept)
        with reading(open_engine(f"sqlite:///{kept}")) as connection:
            assert connection.scalar(text(f"SELECT version_num FROM {VERSIONS}")) == "0001"

    def test_without_room_for_the_copy_nothing_is_upgraded(
        self, sqlite_url: str, open_engine: OpenEngine, tmp_path: Path
    ) -> None:
        """A folder stands where the copy should be written."""
        engine = open_engine(sqlite_url)
        with writing(engine) as connection:
            upgrade(connection, "0001")
        (tmp_path / "study.db.schema-0001").mkdir()
        with pytest.raises(
            StorageError, match=r"study\.db\.schema-0001: the copy before the upgrade cannot be written"
        ):
            migrate(engine)
        with reading(engine) as connection:
            assert connection.scalar(text(f"SELECT version_num FROM {VERSIONS}")) == "0001"

    def test_a_migrated_database_needs_neither_alembic_nor_optuna(
        self, sqlite_url: str, open_engine: OpenEngine
    ) -> None:
        """Both take long to import; a worker or `search status` opens the ledger without them."""
        migrate(open_engine(sqlite_url))
        code = (
            "import sys; from fold_search.storage.database import connect, migrate; import fold_search.storage.ledger;"
            "migrate(connect(sys.argv[1])); print({'alembic', 'optuna', 'torch'} & set(sys.modules))"
        )
        command = [sys.executable, "-c", code, sqlite_url]
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."}
        )
        assert found.stdout == "set()\n"


def test_a_database_that_goes_away_is_waited_for(sqlite_url, monkeypatch, caplog):
    """Two failures to connect cost a moment and one warning; without patience the first is an error."""
    failures = iter([True, True, False])

    def flaky(engine, connect=Engine.connect):
        if next(failures, False):
            raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))
        return connect(engine)

    patient, impatient = connect(sqlite_url, patience_seconds=5), connect(sqlite_url)
    monkeypatch.setattr(Engine, "connect", flaky)
    with reading(patient) as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert [record.message.count("trying again") for record in caplog.records] == [1]
    failures = iter([True])
    with pytest.raises(StorageUnavailable, match="server closed"), reading(impatient):
        pass
