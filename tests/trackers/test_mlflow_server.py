"""MLflow behind a real server that hangs, dies and comes back."""

import signal
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from time import sleep

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from sqlalchemy import Engine

from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import Publisher, num_unpublished, publish_pending
from fold_search.storage.trackers.contract import TrackerUnavailable
from fold_search.storage.trackers.mlflow import MlflowTracker
from tests.trackers.looks import MlflowLook
from tests.trackers.mlflow_server import MlflowServer
from tests.trackers.scripted import SECRET, curve_of, new_ledger, run_trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(Path(copy(empty_mlflow, tmp_path_factory.mktemp("server") / "mlflow.db")))
    yield server
    server.stop()


def test_a_server_that_hangs_and_dies_costs_no_time_and_loses_nothing(server: MlflowServer, ledger: Ledger):
    """Trials are recorded all the while, nobody waits for the server; in the end MLflow has every point once."""
    warnings: list[str] = []
    publisher = Publisher(ledger, [MlflowTracker(server.url)], owner="a", warn=warnings.append)
    publisher.start()
    run_trial(ledger, 0)
    while ledger.cursor("mlflow") == 0:
        sleep(0.05)
    server.send(signal.SIGSTOP)
    run_trial(ledger, 1)
    assert warnings == []  # recorded before the publisher's request to the server has timed out
    server.stop()
    run_trial(ledger, 2)
    assert num_unpublished(ledger, "mlflow") > 0
    server.start()
    assert publisher.drain(timeout_seconds=60) == {"mlflow": 0}
    look = MlflowLook(server.url)
    assert sorted(look.runs()) == ["spam", "trial 0", "trial 1", "trial 2"]
    assert [look.curve(trial, 1) for trial in range(3)] == [curve_of(trial, 1) for trial in range(3)]
    assert len(warnings) == 2


def test_the_study_file_goes_through_the_server(server: MlflowServer, engine: Engine):
    """The server keeps the artifacts; it need not share a disk with the search."""
    publish_pending(new_ledger(engine, "ham"), MlflowTracker(server.url))
    client = MlflowClient(server.url)
    [run] = client.search_runs([client.get_experiment_by_name("ham").experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["study.yaml"]


def test_a_model_goes_through_the_server(server: MlflowServer, engine: Engine, tmp_path: Path):
    """Each time as a version of its own, of the study's run where the trial's is not published yet."""
    study = new_ledger(engine, "eggs").study()
    (tmp_path / "MLmodel").write_text("flavors: {}")
    tracker = MlflowTracker(server.url)
    versions = [tracker.register(study, tmp_path, trial=3, name="eggs", description="a") for _ in range(2)]
    assert versions == ["1", "2"]
    client = MlflowClient(server.url)
    version = client.get_model_version("eggs", "2")
    assert client.get_run(version.run_id).data.tags["search.kind"] == "study"
    download_artifacts(version.source, dst_path=str(tmp_path / "copy"), tracking_uri=server.url)
    assert list((tmp_path / "copy").rglob("MLmodel"))
    with pytest.raises(TrackerUnavailable, match="eggs/2"):
        tracker.register(study, tmp_path, trial=3, name="eggs/2", description="a")


def test_no_server_is_told_at_once_and_without_its_password(ledger: Ledger):
    """The caller gets one line and an unmoved cursor."""
    tracker = MlflowTracker(f"http://ann:{SECRET}@127.0.0.1:9")
    with pytest.raises(TrackerUnavailable, match=r"^http://\*\*\*@127\.0\.0\.1:9: Connection refused$"):
        publish_pending(ledger, tracker)
    assert ledger.cursor("mlflow") == 0
