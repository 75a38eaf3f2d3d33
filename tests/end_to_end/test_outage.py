"""`search run` while its MLflow server dies and comes back."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fold_search.storage.records import EventKind
from tests.end_to_end.conftest import UserFolder, wait_for
from tests.trackers.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A real server with its own database."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder / "mlflow.db")
    yield server
    server.stop()


def test_a_killed_mlflow_server_stops_no_training_and_misses_nothing(user: UserFolder, mlflow_server: MlflowServer):
    """Epochs go on while it is down; afterwards every epoch of every fold is there, once."""
    user.write_study_file(
        training={"epochs": 6, "batch_size": 4}, trackers={"mlflow": {"uri": mlflow_server.url}}, budget={"trials": 3}
    )
    run = user.start_run()
    wait_for(lambda: len(user.ledger().epochs()) >= 5)
    mlflow_server.stop()
    before = len(user.ledger().epochs())
    wait_for(lambda: len(user.ledger().epochs()) >= before + 10)
    mlflow_server.start()
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0, output
    user.search("publish", "--study", "tiny", "--storage", user.storage)
    assert points(mlflow_server) == sum(event.kind is EventKind.EPOCH for event in user.ledger().events(limit=10_000))


def points(server: MlflowServer) -> int:
    """The points of all folds' score curves, as the server's database has them."""
    with sqlite3.connect(server.database) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM metrics WHERE key LIKE 'fold\\__/score' ESCAPE '\\'"
        ).fetchone()
    connection.close()
    return int(count)
