"""A ledger on each database, and a crowd of processes."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from storage.database import connect, migrate
from storage.ledger import Ledger
from tests.contracts.ledger_processes import Crowd, new_study


@pytest.fixture(scope="session")
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """A ledger of a study with three folds and no trial."""
    return Ledger(engine, new_study(engine).id)
