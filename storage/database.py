"""One SQLAlchemy engine per URL: settings, transactions, errors in plain words, and the schema's version."""

import logging
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Double

from fold_search.storage.errors import StorageError, StorageUnavailable

SCHEMA = "0006"  # the newest revision in storage/migrations/versions
VERSION_TABLE = "ledger_alembic_version"  # `alembic_version` is Optuna's
log = logging.getLogger(__name__)

BUSY_SECONDS = 60
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
CONNECT_SECONDS = 10
MIGRATION_LOCK = 7_305_811_942  # any number of our own for PostgreSQL's advisory lock

SQLITE_ERRORS = {
    "SQLITE_NOTADB": "this is not a SQLite database, or it is damaged",
    "SQLITE_CORRUPT": "the SQLite database is damaged",
    "SQLITE_CANTOPEN": "the file cannot be opened or created",
    "SQLITE_READONLY": "the file or its folder is read-only",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk does not read or write",
}


class clock(FunctionElement[float]):  # noqa: N801 - reads like SQLAlchemy's own functions
    """The database's time, in seconds since 1970."""

    type = Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def redact(url: str) -> str:
    """The URL with every password in it replaced by ***."""
    hidden = re.sub(r"(^|//)([^/?#:@]*):(?!//).*@", r"\1\2:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)


def parse(url: str) -> URL:
    """The URL with the driver we use; StorageError if it is neither a SQLite file nor a PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageError(f"{redact(url)}: not a database URL; expected sqlite:///FILE or postgresql://...") from None
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StorageError(f"{redact(url)}: a database in memory cannot be shared; expected sqlite:///FILE")
    if kind == "sqlite":
        return parsed.set(drivername="sqlite+pysqlite")
    if kind not in ("postgresql", "postgres"):
        raise StorageError(f"{redact(url)}: found {kind}, expected sqlite:///FILE or postgresql://...")
    if "@" in (parsed.host or ""):
        raise StorageError(f"{redact(url)}: an @ in the password has to be written as %40")
    return parsed.set(drivername="postgresql+psycopg")


def engine_options(url: URL) -> dict[str, Any]:
    """`create_engine`'s options for a parsed URL; Optuna's engine gets the same."""
    if url.drivername.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_SECONDS}, "pool_events": [(_prepare_sqlite, "connect")]}
    connect_args = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
    return {
        "pool_pre_ping": True,
        "connect_args": connect_args,
        "pool_events": [(_prepare_postgresql, "connect")],
    }


def exists(url: str) -> bool:
    """Whether a SQLite database's file is there; any other database counts as there. StorageError as in `parse`."""
    parsed = parse(url)
    return not parsed.drivername.startswith("sqlite") or Path(str(parsed.database)).exists()


def connect(url: str, *, create: bool = True, patience_seconds: float = 0.0) -> Engine:
    """An engine on a database that answers; a SQLite file and its folder are created unless `create` is false.

    When the database goes away later, every read and write tries again for `patience_seconds` before it fails.
    Raises StorageError, or StorageUnavailable where trying again may help.
    """
    parsed = parse(url)
    if parsed.drivername.startswith("sqlite"):
        file = Path(str(parsed.database))
        if not create and not exists(url):
            raise StorageError(
                f"{file}: there is no such database; `search run` creates one, or use --storage for another"
            )
        _create_folder(file.parent)
    engine = create_engine(parsed, **engine_options(parsed))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _hand_over_transactions)
        event.listen(engine, "begin", _begin)
    try:
        with reading(engine) as connection:
            connection.execute(text("SELECT 1"))
    except StorageError:
        engine.dispose()
        raise
    return engine.execution_options(patience_seconds=patience_seconds)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reading; database errors come out as StorageError."""
    with explaining(engine.url), _connected(engine) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One writing transaction; on SQLite no other begins before it ends. IntegrityError passes as it is."""
    writer = engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
    with explaining(engine.url), _connected(writer, begin=True) as connection:
        yield connection
        connection.commit()


def _connected(engine: Engine, *, begin: bool = False) -> Connection:
    """A connection on which a transaction may have begun. While the database is away, it is tried ever less often."""
    deadline = time.monotonic() + engine.get_execution_options().get("patience_seconds", 0.0)
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return _begun(engine.connect()) if begin else engine.connect()
        except DBAPIError as error:
            explained = _explained(engine.url, error)
            if not isinstance(explained, StorageUnavailable) or time.monotonic() + pause > deadline:
                raise explained from None
        if pause == FIRST_PAUSE_SECONDS:
            log.warning("%s; trying again until it answers", explained)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _begun(connection: Connection) -> Connection:
    try:
        connection.begin()
    except DBAPIError:  # SQLite's write lock is held by somebody for very long
        connection.close()
        raise
    return connection


@contextmanager
def explaining(url: URL) -> Iterator[None]:
    """Turn the database's errors into one line without statements, parameters and passwords."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise _explained(url, error) from None


def migrate(engine: Engine, *, copy: bool = True) -> None:
    """Bring the ledger's tables to this version's schema; any number of processes may do so at once.

    An older SQLite database is copied first, unless `copy` is false. Raises StorageError if a newer version of the
    project wrote them.
    """
    with reading(engine) as connection:
        if _revision(connection) == SCHEMA:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # Alembic takes longer to import than everything else here, and is needed once in a database's life.
        from fold_search.storage.migrations import revisions, upgrade

        found = _revision(connection)
        if found is not None and found not in revisions():
            raise StorageError(
                f"{place(engine.url)}: written by a newer version of fold-search "
                f"(found schema {found}, expected at most {SCHEMA}); upgrade fold-search"
            )
        if found not in (None, SCHEMA) and copy:
            _keep_copy(engine.url, found=str(found))
        upgrade(connection)


def _keep_copy(url: URL, *, found: str) -> None:
    """Copy an older database as it is before the upgrade, or say how that is done; raises StorageError."""
    upgraded = f"{place(url)}: the schema is upgraded from {found} to {SCHEMA}, which older versions cannot read"
    if not url.drivername.startswith("sqlite"):
        log.warning("%s; going back needs a dump from before the upgrade: pg_dump --format=custom", upgraded)
        return
    kept = f"{url.database}.schema-{found}"
    try:
        with closing(sqlite3.connect(str(url.database))) as before, closing(sqlite3.connect(kept)) as after:
            before.backup(after)
    except sqlite3.Error as error:
        with suppress(OSError):
            Path(kept).unlink()
        raise StorageError(f"{kept}: the copy before the upgrade cannot be written: {error}") from None
    log.warning("%s; a copy from before the upgrade is %s", upgraded, kept)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return found


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: the database's folder cannot be created: {error.strerror}") from None


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite's own patience does not cover this one statement, which several processes may reach at once on a new file.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _hand_over_transactions(connection: sqlite3.Connection, _: object) -> None:
    # pysqlite's own transaction handling begins late and never IMMEDIATE; `_begin` does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _prepare_postgresql(connection: Any, _: object) -> None:
    # A process that is suspended inside a transaction must not hold up all others.
    connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{BUSY_SECONDS}s'")
    connection.commit()


def place(url: URL) -> str:
    """The database in words: a SQLite file's path, or the URL without its password."""
    return str(url.database) if url.drivername.startswith("sqlite") else redact(url.render_as_string())


def _explained(url: URL, error: DBAPIError) -> StorageError:
    # PostgreSQL's whole message quotes the statement.
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    found = " ".join((primary or str(error.orig)).split())
    code = getattr(error.orig, "sqlite_errorname", "")
    for name, meaning in SQLITE_ERRORS.items():
        if code.startswith(name):
            return StorageError(f"{place(url)}: {meaning} ({found})")
    # A PostgreSQL refuses writes for a while when another server takes over from it.
    refused = getattr(error.orig, "sqlstate", None) == "25006"
    passing = (
        refused
        or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        or (not code and (error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)))
    )
    return (StorageUnavailable if passing else StorageError)(f"{place(url)}: {found}")
