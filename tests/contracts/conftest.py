"""A ledger on each database, and a crowd of processes."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete

from fold_search.storage.database import connect, migrate, writing
from fold_search.storage.ledger import Ledger
from fold_search.storage.tables import Table
from tests.contracts.ledger_processes import Crowd, new_study


@pytest.fixture(scope="session")
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").create_database()
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'study.db'}"
    engine = connect(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(migrated: Engine) -> Engine:
    """A database with the ledger's tables, all empty."""
    with writing(migrated) as connection:
        for table in reversed(Table.metadata.sorted_tables):
            connection.execute(delete(table))
    return migrated


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """A ledger of a study with three folds and no trial."""
    return Ledger(engine, new_study(engine).id)


@pytest.fixture
def ledger_url(ledger: Ledger) -> str:
    """Where another process finds the ledger."""
    return ledger.engine.url.render_as_string(hide_password=False)
