"""`search run` from a study file to a finished study, as processes, with everything that happens to them."""

import os
import signal
import time
from collections import Counter

import psutil
import pytest

from fold_search.search.errors import ExitCode
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind, FoldRunState, StudyState
from tests.conftest import PostgresServer
from tests.end_to_end.conftest import UserFolder, wait_for
from tests.warm import WarmSearch

pytestmark = pytest.mark.slow

LONG = {"epochs": 10, "batch_size": 4}
ALONE = {"baselines": False}  # the workers are then the only children


def num_recorded(ledger: Ledger) -> int:
    return len(ledger.epochs())


def check_done_exactly_once(ledger: Ledger, *, num_trials: int, num_epochs: int) -> None:
    """Every fold run is done, was finished once, and has each epoch once."""
    assert ledger.study().state is StudyState.FINISHED
    runs = ledger.fold_runs()
    assert [run.state for run in runs] == [FoldRunState.DONE] * num_trials * 3
    events = ledger.events(limit=100_000)
    finished = Counter((e.trial, e.fold) for e in events if e.kind is EventKind.FOLD_FINISHED)
    assert set(finished.values()) == {1}
    epochs = Counter((e.trial, e.fold, e.epoch) for e in events if e.kind is EventKind.EPOCH)
    assert len(epochs) == num_trials * 3 * num_epochs
    assert set(epochs.values()) == {1}


def check_resumed_after_the_last_epoch(ledger: Ledger) -> None:
    """Whoever took a fold run over began after its last recorded epoch: only the epoch under way was lost."""
    recorded: Counter[tuple[int | None, int | None]] = Counter()
    for event in ledger.events(limit=100_000):
        if event.kind is EventKind.EPOCH:
            recorded[event.trial, event.fold] += 1
        if event.kind is EventKind.FOLD_STARTED:
            assert event.payload["num_epochs"] == recorded[event.trial, event.fold]


def workers_of(process: WarmSearch) -> list[psutil.Process]:
    """The children of the process that forks them."""
    return [worker for server in psutil.Process(process.pid).children() for worker in server.children()]


def test_a_study_runs_and_can_be_looked_at(user: UserFolder):
    """The plain lines, status, list and best all tell of the same three trials; once more says it is finished."""
    output = user.run()
    assert "study finished: 3 of 3 trials" in output
    status = user.json("status")
    assert (status["state"], status["trials"], status["fold_runs"]) == ("finished", {"complete": 3}, {"done": 9})
    assert [baseline["name"] for baseline in status["baselines"]] == ["majority", "tf-idf"]
    best = user.json("best")
    assert best["score"] == max(trial["score"] for trial in status["all_trials"])
    assert best["score"] == pytest.approx(sum(best["fold_scores"]) / 3)
    assert "tiny" in user.search("list")
    assert "is finished: 3 of 3 trials" in user.run()
    assert "study finished: 4 of 4 trials" in user.run("--trials", "4")


def test_the_same_study_file_data_and_seed_give_the_same_params_and_scores(user: UserFolder):
    """With one worker, in two databases; the second is interrupted once on its way."""
    user.write_study_file(training={"epochs": 6, "batch_size": 4}, budget={"trials": 2})
    user.run()
    calm = user.json("status")["all_trials"]
    user.storage = "sqlite:///studies/again.db"
    process = user.start_run("--set", "storage.artifacts=studies/again")
    wait_for(lambda: num_recorded(user.ledger()) >= 8)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    user.run("--set", "storage.artifacts=studies/again")
    assert user.json("status")["all_trials"] == calm


def test_ctrl_c_once_finishes_the_epoch_and_the_same_command_continues(user: UserFolder):
    """No epoch is trained twice."""
    user.write_study_file(training=LONG, budget={"trials": 1})
    process = user.start_run()
    wait_for(lambda: num_recorded(user.ledger()) >= 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in output
    assert user.json("status")["state"] == "interrupted"
    user.run()
    check_done_exactly_once(user.ledger(), num_trials=1, num_epochs=10)
    check_resumed_after_the_last_epoch(user.ledger())


def test_ctrl_c_twice_leaves_now(user: UserFolder):
    """Nothing is left behind: no worker process, no lease."""
    user.write_study_file(study=ALONE, training=LONG)
    process = user.start_run()
    wait_for(lambda: num_recorded(user.ledger()) >= 3)
    [worker] = workers_of(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert not worker.is_running()
    assert user.ledger().counts()[FoldRunState.LEASED] == 0


def test_a_killed_worker_is_replaced_and_its_fold_run_continued(user: UserFolder):
    """SIGKILL in the middle of a fold costs at most the epoch under way."""
    user.write_study_file(study=ALONE, training=LONG, budget={"trials": 1})
    process = user.start_run()
    for num_epochs in (3, 13):
        wait_for(lambda: num_recorded(user.ledger()) >= num_epochs)  # noqa: B023
        workers_of(process)[0].kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    check_done_exactly_once(user.ledger(), num_trials=1, num_epochs=10)
    check_resumed_after_the_last_epoch(user.ledger())


def test_a_killed_run_is_continued_by_the_same_command(user: UserFolder):
    """SIGKILL of `search run` itself: its worker leaves by itself, and the next run needs not wait for a lease."""
    user.write_study_file(study=ALONE, training=LONG, budget={"trials": 1})
    process = user.start_run()
    wait_for(lambda: num_recorded(user.ledger()) >= 3)
    [worker] = workers_of(process)
    process.kill()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()
    user.run()
    check_done_exactly_once(user.ledger(), num_trials=1, num_epochs=10)
    check_resumed_after_the_last_epoch(user.ledger())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_runs_at_once_share_the_work(user: UserFolder, database: str, request: pytest.FixtureRequest):
    """No fold run is done twice, both end without an error, and either coordinates."""
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        user.storage = server.create_database()
    user.write_study_file(budget={"trials": 4})
    runs = [user.start_run(), user.start_run()]
    outputs = [process.communicate(timeout=240)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    check_done_exactly_once(user.ledger(), num_trials=4, num_epochs=3)


def test_a_worker_joins_and_takes_the_coordination_over(user: UserFolder):
    """`search worker` finishes the study alone after `search run` was killed."""
    user.write_study_file(training=LONG, budget={"trials": 3})
    run = user.start_run()
    wait_for(lambda: num_recorded(user.ledger()) >= 1)
    worker = user.start("worker", "--study", "tiny", "--storage", user.storage)
    wait_for(lambda: len({run.owner for run in user.ledger().fold_runs() if run.owner}) == 2)
    run.kill()
    output, _ = worker.communicate(timeout=240)
    assert worker.returncode == 0, output
    check_done_exactly_once(user.ledger(), num_trials=3, num_epochs=10)


def test_a_time_budget_ends_the_run_and_loses_nothing(user: UserFolder):
    """The run leaves after the step in hand; the same command goes on."""
    user.write_study_file(training={"epochs": 50, "batch_size": 4})
    process = user.start_run("--timeout", "3s")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.NONE_COMPLETE, output
    assert "the time limit is reached" in output
    assert "no trial is complete yet; the same command continues" in output.splitlines()[-1]
    assert user.ledger().counts()[FoldRunState.LEASED] == 0
    assert user.ledger().study().state is StudyState.RUNNING
    assert os.path.exists(user.folder / "studies" / "search.db")
