"""What only Neptune has: the names its users know, folders instead of a server, and a token that may be of no use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import publish_pending
from fold_search.storage.trackers.contract import TrackerUnavailable
from fold_search.storage.trackers.neptune import NeptuneTracker
from fold_search.storage.trackers.neptune_offline import OfflineRun, read_offline
from tests.trackers.looks import OfflineLook, ServerLook
from tests.trackers.neptune_server import PROJECT, NeptuneServer, api_token
from tests.trackers.scripted import SECRET, curve_of, record_epochs, run_trial, start_trial


def published(look: OfflineLook, ledger: Ledger) -> dict[str, OfflineRun]:
    publish_pending(ledger, look.open())
    return {run.fields["sys/name"]: run for run in read_offline(look.directory)}


def test_a_trial_s_run_has_the_names_that_neptune_users_know(offline_look: OfflineLook, ledger: Ledger):
    """Tags, parameters, a training and a validation curve for each fold, mean and spread."""
    run_trial(ledger, 0)
    run = published(offline_look, ledger)["trial 0"]
    assert (run.fields["sys/tags"], run.fields["sys/group_tags"]) == (["trial"], ["spam"])
    assert run.fields["trial/parameters/loss"] == "focal"
    assert run.fields["results/metrics/validation/std_macro_f1"] == pytest.approx(0.0005)
    assert run.series["fold_1/training/epoch/loss"] == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
    assert set(run.series) >= {f"fold_{fold}/validation/epoch/{name}" for fold in (0, 1) for name in ("loss", "score")}


def test_the_study_s_run_lists_its_trials_and_the_best(offline_look: OfflineLook, ledger: Ledger):
    """Whatever else the study file says is there too."""
    run_trial(ledger, 1)
    run_trial(ledger, 0)
    run = published(offline_look, ledger)["spam"]
    assert run.fields["sys/tags"] == ["study"]
    assert (run.fields["best/trial"], run.fields["best/params"]) == (1, '{"learning_rate": 0.0002, "loss": "focal"}')
    assert run.fields["trials/trials/0/value"] == run.series["trials/values"][0]
    assert run.fields["trials/trials/0/datetime_start"] < run.fields["trials/trials/0/datetime_complete"]
    assert (run.fields["study/direction"], run.fields["study/config/data/path"]) == ("maximize", "spam.csv")


def test_folders_of_several_processes_are_read_as_one_run(offline_look: OfflineLook, ledger: Ledger):
    """The client cannot continue an offline run, so the next process begins a folder for each run it writes to."""
    start_trial(ledger, 0)
    record_epochs(ledger)
    published(offline_look, ledger)
    record_epochs(ledger)
    runs = published(offline_look, ledger)
    assert [len(run.folders) for run in runs.values()] == [2, 2]
    assert len(runs["trial 0"].series["fold_0/validation/epoch/score"]) == 3


def test_a_run_can_be_read_while_it_is_written(offline_look: OfflineLook, ledger: Ledger):
    """A last operation that is not complete is left out."""
    run_trial(ledger, 0)
    [folder] = published(offline_look, ledger)["trial 0"].folders
    [file] = folder.glob("data-*.log")
    with file.open("a") as log:
        log.write('{"obj": {"type": "AssignFl')
    assert offline_look.curve(0, 0) == curve_of(0, 0)


def test_no_folder_is_no_run(tmp_path: Path):
    """Nothing was recorded, and reading creates nothing."""
    assert read_offline(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_user_s_own_neptune_folder_stays_the_user_s(offline_look: OfflineLook, ledger: Ledger, monkeypatch):
    """The client is told where to write only while a run begins."""
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", "mine")
    published(offline_look, ledger)
    assert os.environ["NEPTUNE_DATA_DIRECTORY"] == "mine"


@pytest.mark.parametrize(
    ("address", "project", "reason"),
    [
        ("https://app.neptune.ai", PROJECT, "the token is for neptune.ai, which has closed"),
        ("https://neptune.lab", None, "NEPTUNE_PROJECT is not set"),
        (None, PROJECT, "NEPTUNE_API_TOKEN is not set"),
        (None, None, ""),
        ("https://neptune.lab", PROJECT, ""),
    ],
)
def test_a_user_learns_why_there_are_files_instead_of_a_server(
    address: str | None, project: str | None, reason: str, tmp_path: Path
):
    """One line, and none when it is as the user asked."""
    tracker = NeptuneTracker(tmp_path, api_token=api_token(address) if address else None, project=project)
    assert tracker.notice == (f"{reason}; recording offline in {tmp_path}" if reason else "")


@pytest.mark.parametrize("token", [SECRET, "eyJhIjogMX0=", "WzFd"])
def test_something_else_than_a_token_is_refused_unseen(token: str, tmp_path: Path):
    """Before anything is published, and the message does not show it."""
    with pytest.raises(StorageError, match="NEPTUNE_API_TOKEN: found no Neptune token") as refused:
        NeptuneTracker(tmp_path, api_token=token, project=PROJECT)
    assert token not in str(refused.value)


def test_a_missing_client_is_told_with_the_cure(tmp_path: Path, monkeypatch):
    """It is an optional extra."""
    monkeypatch.setattr("fold_search.storage.trackers.neptune.find_spec", lambda name: None)
    with pytest.raises(StorageError, match=r"not installed; expected pip install 'fold-search\[neptune\]'"):
        NeptuneTracker(tmp_path)


def test_a_server_that_is_gone_is_told_at_once_and_catches_up(server_look: ServerLook, ledger: Ledger):
    """The token is not in the message, and every point arrives once."""
    start_trial(ledger, 0)
    record_epochs(ledger)
    tracker = server_look.open()
    publish_pending(ledger, tracker)
    record_epochs(ledger)
    server_look.server.stop()
    with pytest.raises(TrackerUnavailable, match=r"^http://127\.0\.0\.1:\d+: Connection refused$"):
        publish_pending(ledger, tracker)
    server_look.server.start()
    publish_pending(ledger, tracker)
    assert [server_look.curve(0, fold) for fold in (0, 1)] == [curve_of(0, 0), curve_of(0, 1)]


def test_a_refused_token_is_told_without_showing_it(neptune_server: NeptuneServer, ledger: Ledger, tmp_path: Path):
    """The user reads what the client says about it."""
    token = api_token(neptune_server.url, secret="wrong")
    with pytest.raises(TrackerUnavailable, match="You don't have permission") as refused:
        publish_pending(ledger, NeptuneTracker(tmp_path, api_token=token, project=PROJECT))
    assert token not in str(refused.value)


KILLED = """
import os, signal, sys
from pathlib import Path
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger, find_study
from fold_search.storage.publishing import publish_pending
from fold_search.storage.trackers.neptune import NeptuneTracker

engine = connect(sys.argv[1])
publish_pending(Ledger(engine, find_study(engine, "spam").id), NeptuneTracker(Path(sys.argv[2])))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_the_cursor_has_passed_survives_a_kill(sqlite_url: str, ledger: Ledger, tmp_path: Path):
    """The client buffers; the cursor moves after its buffers are on the disk. Not a word of it reaches the terminal."""
    run_trial(ledger, 0)
    command = [sys.executable, "-c", KILLED, sqlite_url, str(tmp_path / "neptune")]
    died = subprocess.run(command, check=False, capture_output=True)
    assert (died.returncode, died.stdout, died.stderr) == (-signal.SIGKILL, b"", b"")
    assert OfflineLook(tmp_path / "neptune").curve(0, 1) == curve_of(0, 1)
