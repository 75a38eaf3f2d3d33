"""A real ledger, and an MLflow database that is made once and copied."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Engine

from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.trackers.mlflow import create_database
from tests.trackers.looks import Look, MlflowLook, OfflineLook, ServerLook
from tests.trackers.neptune_server import NeptuneServer
from tests.trackers.scripted import new_ledger

AnyLook = TypeVar("AnyLook", bound=Look)


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """A migrated ledger database."""
    engine = connect(sqlite_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """A study without trials."""
    return new_ledger(engine)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments of ours; making one takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_database(file)
    return file


@pytest.fixture
def mlflow_uri(empty_mlflow: Path, tmp_path: Path) -> str:
    """A copy of it for one test."""
    return f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}"


@pytest.fixture
def neptune_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NeptuneServer]:
    """A Neptune server on loopback, without TLS."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    server = NeptuneServer()
    yield server
    server.stop()


@pytest.fixture
def mlflow_look(mlflow_uri: str) -> Iterator[MlflowLook]:
    """An MLflow database."""
    yield from _closing(MlflowLook(mlflow_uri))


@pytest.fixture
def offline_look(tmp_path: Path) -> Iterator[OfflineLook]:
    """A folder for Neptune's offline runs."""
    yield from _closing(OfflineLook(tmp_path / "neptune"))


@pytest.fixture
def server_look(neptune_server: NeptuneServer, tmp_path: Path) -> Iterator[ServerLook]:
    """A Neptune server."""
    yield from _closing(ServerLook(neptune_server, tmp_path / "neptune"))


def _closing(look: AnyLook) -> Iterator[AnyLook]:
    yield look
    for tracker in look.opened:
        tracker.close()
