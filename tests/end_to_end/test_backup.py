"""A study whose machine died, backed up and gone on with on another machine: real training, real databases."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest

from tests.end_to_end.conftest import UserFolder, wait_for
from tests.end_to_end.test_run import check_done_exactly_once, check_resumed_after_the_last_epoch

pytestmark = pytest.mark.slow


def test_a_restored_study_ends_as_an_undisturbed_one(user: UserFolder, postgres_url: str):
    """SQLite to PostgreSQL, in a folder with nothing but the study file; MLflow is filled from the first event."""
    user.write_study_file(training={"epochs": 4, "batch_size": 8}, budget={"trials": 2})
    user.storage = "sqlite:///studies/calm.db"
    user.run("--set", "storage.artifacts=studies/calm")
    calm = user.json("status")["all_trials"]
    user.storage = "sqlite:///studies/search.db"
    user.write_study_file(trackers={"mlflow": True})
    process = user.start_run()
    wait_for(lambda: len(user.ledger().epochs()) >= 8, seconds=200)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_epochs = len(user.ledger().epochs())
    output = user.search("backup", "--study", "tiny", "--storage", user.storage, "--out", "tiny.tar")
    assert "wrote tiny.tar: tiny, " in output

    shutil.rmtree(user.folder / "studies")
    user.storage = postgres_url
    assert "restored tiny, " in user.search("restore", "tiny.tar", "--storage", user.storage)
    assert len(user.ledger().epochs()) == num_epochs
    user.run()
    check_done_exactly_once(user.ledger(), num_trials=2, num_epochs=4)
    check_resumed_after_the_last_epoch(user.ledger())
    assert user.json("status")["all_trials"] == calm
    assert user.ledger().cursor("mlflow") == user.ledger().last_sequence()
    with closing(sqlite3.connect(user.folder / "studies" / "mlflow.db")) as mlflow:
        assert mlflow.execute("SELECT count(*) FROM runs").fetchone()[0] >= 2
