"""`search run` on a disk that fills up: a real file system of 8 MiB, mounted for the test alone."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fold_search.storage.ledger import Ledger
from fold_search.storage.records import FoldRunState
from tests.chaos.servers import Disk
from tests.end_to_end.conftest import SEARCH, UserFolder, wait_for
from tests.end_to_end.test_run import check_done_exactly_once, check_resumed_after_the_last_epoch

# Real interpreters, several a test: on a busy machine they take their time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class SmallDisk(Disk):
    """The disk, and what its databases hold."""

    def sql(self, file: str, statement: str) -> str:
        """Execute a statement on a database of this disk and return what it gives."""
        code = (
            "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
            "print(connection.execute(sys.argv[2]).fetchall()); connection.commit()"
        )
        command = [*self.prefix, sys.executable, "-c", code, file, statement]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def small_disk(user: UserFolder) -> Iterator[SmallDisk]:
    """A small disk at `small` in the user's folder, seen by the user's commands."""
    try:
        disk = SmallDisk(user.folder / "small")
    except OSError as error:
        pytest.skip(str(error))
    user.prefix, user.program = disk.prefix, SEARCH
    yield disk
    disk.end()


def check_refused(output: str, place: str) -> None:
    """One line says what is full, and nothing else of an error is printed."""
    assert "Traceback" not in output
    [line] = [line for line in output.splitlines() if line.lower().startswith("error")]
    assert re.fullmatch(f"error: .*{place}: the disk is full.*", line), line


def scores(ledger: Ledger) -> list[tuple[int, int, int, float]]:
    return [(record.trial, record.fold, record.epoch, record.score) for record in ledger.epochs()]


def test_a_full_disk_at_a_checkpoint_loses_nothing(user: UserFolder, small_disk: SmallDisk):
    """The fold run is given back; with room again the same command ends with an undisturbed run's scores."""
    user.write_study_file(training={"epochs": 8, "batch_size": 4}, budget={"trials": 1})
    user.storage = "sqlite:///studies/calm.db"
    calm = user.start_run("--set", "storage.artifacts=studies/calm")
    calm_ledger = user.ledger()
    user.storage = "sqlite:///studies/search.db"
    options = ("--set", "storage.artifacts=small/artifacts")
    run = user.start_run(*options)
    ledger = user.ledger()
    wait_for(lambda: len(ledger.epochs()) >= 3)
    with small_disk.full():
        output, _ = run.communicate(timeout=600)
    assert run.returncode == 2, output
    check_refused(output, r"small/artifacts/study-\w+/trial-0/fold-\d/checkpoint-\d+-\d+\.safetensors")
    assert ledger.counts()[FoldRunState.LEASED] == 0
    assert not ledger.live_roles("")
    recorded = scores(ledger)
    assert 3 <= len(recorded) < 24
    user.run(*options)
    check_done_exactly_once(ledger, num_trials=1, num_epochs=8)
    check_resumed_after_the_last_epoch(ledger)
    assert scores(ledger)[: len(recorded)] == recorded
    assert calm.wait(timeout=600) == 0
    assert (scores(ledger), ledger.trials()) == (scores(calm_ledger), calm_ledger.trials())


def test_a_full_disk_under_the_database_damages_nothing(user: UserFolder, small_disk: SmallDisk):
    """The study, its artifacts and the cache on one disk: the same command continues once there is room."""
    user.storage = "sqlite:///small/search.db"
    user.write_study_file(
        training={"epochs": 8, "batch_size": 4},
        budget={"trials": 1},
        storage={"artifacts": "small/artifacts", "cache": "small/cache"},
    )
    run = user.start_run()
    assert run.stdout
    next(line for line in run.stdout if " epoch 3 of " in line)
    with small_disk.full():
        output = run.stdout.read()
    assert run.wait() == 2, output
    check_refused(output, r"small/(search\.db|artifacts/.*)")
    assert small_disk.sql("small/search.db", "PRAGMA integrity_check") == "[('ok',)]"
    # Nobody could give the lease back; it runs out within a minute, which this test does not wait for.
    small_disk.sql("small/search.db", "UPDATE ledger_fold_runs SET expires_at = 0 WHERE expires_at IS NOT NULL")
    user.run()
    shutil.copytree(small_disk.seen_from_outside, user.folder / "copy")
    user.storage = "sqlite:///copy/search.db"
    check_done_exactly_once(user.ledger(), num_trials=1, num_epochs=8)
    check_resumed_after_the_last_epoch(user.ledger())
