"""What only MLflow has: experiments, nesting, limits, data set and study file, deleted runs, a fresh database."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import publish_pending
from fold_search.storage.records import EpochRecord, FoldRunState, TrialState
from fold_search.storage.trackers.contract import TrackerUnavailable
from fold_search.storage.trackers.mlflow import MlflowTracker
from fold_search.storage.trackers.mlflow_runs import study_writes, trial_writes
from tests.claims import claim_first
from tests.trackers.looks import MlflowLook
from tests.trackers.scripted import BASELINE, curve_of, fail_trial, new_ledger, run_trial, start_trial, stop_trial


@pytest.fixture
def client(mlflow_uri: str) -> MlflowClient:
    return MlflowClient(mlflow_uri)


def runs(client: MlflowClient, experiment: str = "spam") -> dict[str, Run]:
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


def test_trials_are_nested_under_their_study_s_run(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """In an experiment of the study's name, with the times of the events."""
    run_trial(ledger, 0)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    study, trial = runs(client)["spam"], runs(client)["trial 0"]
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    events = [event for event in ledger.events(after=0, limit=100) if event.trial == 0]
    assert trial.info.start_time == round(events[0].at * 1000)
    assert trial.info.end_time == round(events[-1].at * 1000)


def test_a_baseline_has_its_scores_by_the_names_of_a_trial_s(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """A run beside the trials', so that one column of the table shows both; it took as long as it says."""
    ledger.record_baseline(BASELINE)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    study, run = runs(client)["spam"], runs(client)["baseline: TF-IDF"]
    assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    expected = {"cv/macro_f1_mean": 0.5, "cv/macro_f1_std": 0.01, "cv/macro_f1_pooled": 0.49}
    assert run.data.metrics == expected | {"fold_0/best_score": 0.49, "fold_1/best_score": 0.51}
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 2000)


def test_a_run_s_status_says_how_the_trial_ended(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """Complete, stopped by the race, failed."""
    run_trial(ledger, 0)
    stop_trial(ledger, 1)
    fail_trial(ledger, 2)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    found = [runs(client)[f"trial {number}"] for number in range(3)]
    assert [run.info.status for run in found] == ["FINISHED", "KILLED", "FAILED"]
    assert found[1].data.metrics["cv/macro_f1_estimate"] == 0.25
    assert found[1].data.tags["search.fold_1"] == "stopped: worse than trial 0"


def test_what_the_race_stated_and_saved_is_in_the_tags(ledger: Ledger):
    """A trial's pause, audit and chance; at the study's end what came of all of them."""
    start_trial(ledger, 0)
    claim = claim_first(ledger, "tester/0", lease_seconds=60)
    ledger.audit_trial(claim, reason="behind", chance=0.125)
    ledger.finish_fold(claim, FoldRunState.PAUSED, reason="behind", chance=0.5)
    tags = trial_writes("macro_f1", ledger.events()).tags
    assert (tags["search.audited"], tags["search.chance"], tags["search.fold_0"]) == ("yes", "0.125", "paused: behind")
    ledger.finish_trial(0, TrialState.STOPPED)
    ledger.finish_study("enough", race={"work_saved": 0.5, "stops": 1, "stated_chance": None})
    assert trial_writes("macro_f1", ledger.events()).tags["search.chance"] == "0.125"
    tags = study_writes("macro_f1", ledger.events()).tags
    assert {name: value for name, value in tags.items() if "race" in name} == {
        "search.race.work_saved": "0.5",
        "search.race.stops": "1",
    }


def test_the_study_s_run_shows_the_best_so_far(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """At the number of the trial that had just ended."""
    for number in (1, 0, 2):
        run_trial(ledger, number)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    run = runs(client)["spam"]
    best = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "best/macro_f1")}
    assert best[0] == best[1] < best[2]
    assert run.data.tags["search.best_trial"] == "2"


def test_the_study_s_run_has_data_study_file_and_provenance(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """So that somebody who sees only MLflow knows what was searched on which data."""
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    run = runs(client)["spam"]
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("spam.csv", "d" * 36)
    study_file = Path(client.download_artifacts(run.info.run_id, "study.yaml")).read_text()
    assert yaml.safe_load(study_file)["data"] == ledger.study().config["data"]
    assert run.data.tags["search.fingerprint.folds"] == "f" * 64
    assert run.data.tags["search.provenance.packages"] == '{"torch": "2.11"}'


def test_artifacts_lie_beside_the_database(mlflow_uri: str, ledger: Ledger, tmp_path: Path, monkeypatch):
    """Not in a folder `mlruns` wherever the search was started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    assert len(list((tmp_path / "mlartifacts").rglob("study.yaml"))) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_more_than_mlflow_takes_at_once_arrives_in_parts(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """Over 1000 metrics and 100 params in one batch; long texts are cut, and names that are refused are changed."""
    ledger.add_trial(0, {f"param {number}": number for number in range(150)} | {"text": "x" * 7000, "a//[b]": 1})
    claim = claim_first(ledger, "tester", lease_seconds=60)
    metrics = {f"metric_{number}": number / 7 for number in range(600)} | {"f1/[a%]": 0.5}
    for epoch in (1, 2):
        record = EpochRecord(trial=0, fold=0, epoch=epoch, score=0.5, standing=0.5, metrics=metrics, seconds=0.1)
        ledger.record_epoch(claim, record, checkpoint=None)
    ledger.finish_trial(0, TrialState.STOPPED, reason="y" * 9000)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    data = runs(client)["trial 0"].data
    assert (len(data.params), len(data.params["text"]), data.params["a/_b_"]) == (152, 6000, "1")
    assert (data.metrics["fold_0/metric_599"], data.metrics["fold_0/f1/_a__"]) == (599 / 7, 0.5)
    assert len(data.tags["search.reason"]) == 8000


def test_a_deleted_run_is_made_anew_by_a_rebuild(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """The study's too; the trials move under the new one."""
    run_trial(ledger, 0)
    run_trial(ledger, 1)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    for name in ("spam", "trial 1"):
        client.delete_run(runs(client)[name].info.run_id)
    ledger.set_cursor("mlflow", 0)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    look = MlflowLook(mlflow_uri)
    assert sorted(look.runs()) == ["spam", "trial 0", "trial 1"]
    assert [look.curve(trial, 1) for trial in (0, 1)] == [curve_of(0, 1), curve_of(1, 1)]
    parents = {runs(client)[f"trial {number}"].data.tags["mlflow.parentRunId"] for number in (0, 1)}
    assert parents == {runs(client)["spam"].info.run_id}


def test_a_deleted_experiment_is_restored(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """MLflow does not let its name be used again."""
    run_trial(ledger, 0)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    client.delete_experiment(client.get_experiment_by_name("spam").experiment_id)
    ledger.set_cursor("mlflow", 0)
    publish_pending(ledger, MlflowTracker(mlflow_uri))
    assert sorted(runs(client)) == ["spam", "trial 0"]


def test_a_run_deleted_under_a_publisher_is_made_anew(mlflow_uri: str, client: MlflowClient, ledger: Ledger):
    """One failed attempt, then the trial goes on in a new run."""
    run_trial(ledger, 0)
    tracker = MlflowTracker(mlflow_uri)
    publish_pending(ledger, tracker)
    client.delete_run(runs(client)["spam"].info.run_id)
    run_trial(ledger, 1)
    with pytest.raises(TrackerUnavailable, match="active"):
        publish_pending(ledger, tracker)
    publish_pending(ledger, tracker)
    assert sorted(runs(client)) == ["spam", "trial 0", "trial 1"]


def test_a_file_that_is_no_database_is_told_in_one_line(ledger: Ledger, tmp_path: Path):
    """And left alone."""
    (tmp_path / "mlflow.db").write_text("my notes\n" * 200)
    with pytest.raises(TrackerUnavailable, match=r"mlflow\.db: .*file is not a database"):
        publish_pending(ledger, MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert (tmp_path / "mlflow.db").read_text() == "my notes\n" * 200


PUBLISH = """
import sys
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger, find_study
from fold_search.storage.publishing import Publisher
from fold_search.storage.trackers.mlflow import MlflowTracker

database, folder, study = sys.argv[1:]
engine = connect(database)
tracker = MlflowTracker(f"sqlite:///{folder}/mlflow.db")
publisher = Publisher(Ledger(engine, find_study(engine, study).id), [tracker], owner=study, warn=print)
assert "mlflow" not in sys.modules
publisher.start()
assert publisher.drain(timeout_seconds=120) == {"mlflow": 0}
"""


@pytest.mark.slow
def test_two_processes_make_the_database_at_once_and_say_nothing(engine, sqlite_url: str, tmp_path: Path):
    """Two studies that begin together share a fresh MLflow; not a word of the client reaches the terminal."""
    studies = ("spam", "ham")
    for study in studies:
        run_trial(new_ledger(engine, study), 0)
    command = [sys.executable, "-c", PUBLISH, sqlite_url, str(tmp_path / "new")]
    processes = [
        subprocess.Popen([*command, study], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for study in studies
    ]
    assert [process.communicate(timeout=200)[0] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    assert [sorted(runs(client, study)) for study in studies] == [["spam", "trial 0"], ["ham", "trial 0"]]
    assert [file.name for file in (tmp_path / "new").glob("mlflow.db*")] == ["mlflow.db"]
