"""The MLflow tracker: one experiment per study, in it the study's run and one nested run per trial and per baseline.

Publishing the same events again changes nothing: runs are found by their tags, a metric has the time of its event, and
MLflow stores one (metric, time, step, value) only once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import yaml
from sqlalchemy import make_url

from fold_search.storage.catalog import study_key
from fold_search.storage.records import Event, EventKind, StudyRecord
from fold_search.storage.trackers.contract import TrackerUnavailable, baselines, by_trial, one_line, without_secrets
from fold_search.storage.trackers.mlflow_runs import (
    RunWrites,
    baseline_writes,
    milliseconds,
    study_writes,
    trial_writes,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

# MLflow reads them at its import or with every call; what the user has set stays.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
LOUD_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
MAX_METRICS, MAX_PARAMS_OR_TAGS = 800, 100  # of one batch; at most 1000 of the three together
MAX_DIGEST = 36


class MlflowTracker:
    """Publishes to an MLflow server (`http://...`) or a database (`sqlite:///FILE`, created with its folder)."""

    name = "mlflow"

    def __init__(self, uri: str, *, notice: str = "") -> None:
        self.notice = notice
        self._database = _sqlite_file(uri)
        self._uri = f"sqlite:///{self._database}" if self._database else uri
        self._session: _Session | None = None

    def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
        """As storage.trackers.contract.Tracker says."""
        try:
            if self._session is None or study_key(self._session.study) != study_key(study):
                self._session = self._open(study)
            self._session.publish(events)
        except Exception as error:  # those of requests, SQLAlchemy, alembic and more come through MLflow's client
            self.close()
            raise TrackerUnavailable(f"{without_secrets(self._uri)}: {one_line(error)}") from None

    def register(self, study: StudyRecord, folder: Path, *, trial: int, name: str, description: str) -> str:
        """Upload an MLflow model's folder as that of a trial, and return its version of the registered model `name`.

        Raises TrackerUnavailable; a model that was uploaded in part is marked as failed.
        """
        try:
            return self._open(study).register(folder, trial=trial, name=name, description=description)
        except Exception as error:  # as in publish
            raise TrackerUnavailable(f"{without_secrets(self._uri)}: {one_line(error)}") from None

    def close(self) -> None:
        """As storage.trackers.contract.Tracker says."""
        self._session = None

    def _open(self, study: StudyRecord) -> _Session:
        import_quietly()
        from mlflow import MlflowClient

        # Beside the database. MLflow's default would be a folder `mlruns` wherever the process was started.
        artifacts = self._database.with_name("mlartifacts").as_uri() if self._database else None
        if self._database and not self._database.exists():
            create_database(self._database)
        return _Session(MlflowClient(self._uri), study, artifacts=artifacts)


class _Session:
    """One study in one MLflow: its experiment, its run, and the trials' runs seen so far."""

    def __init__(self, client: MlflowClient, study: StudyRecord, *, artifacts: str | None) -> None:
        self.study = study
        self._client = client
        self._experiment = _find_or_create_experiment(client, study, artifacts=artifacts)
        self._run = self._find_or_create_run({"search.kind": "study"}, name=study.name, started_at=study.created_at)
        self._trial_runs: dict[int, str] = {}

    def publish(self, events: Sequence[Event]) -> None:
        if any(event.kind in (EventKind.STUDY_CREATED, EventKind.STUDY_REOPENED) for event in events):
            self._describe()
        for trial, own in by_trial(events).items():
            self._write(self._trial_run(trial, started_at=own[0].at), trial_writes(self.study.metric, own))
        for event in baselines(events):
            self._write(self._baseline_run(event), baseline_writes(self.study.metric, event))
        self._write(self._run, study_writes(self.study.metric, events))

    def register(self, folder: Path, *, trial: int, name: str, description: str) -> str:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.exceptions import MlflowException

        run = self._find_run(_tags_of_trial(trial)) or self._run
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"search.study": self.study.name, "search.trial": str(trial)}
        model = self._client.create_logged_model(self._experiment, folder.name, source_run_id=run, tags=tags)
        status = LoggedModelStatus.FAILED
        try:
            self._client.log_model_artifacts(model.model_id, str(folder))
            status = LoggedModelStatus.READY
        finally:
            self._client.finalize_logged_model(model.model_id, status)
        self._client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        # By its place, not by its name: a name would be looked up in the MLflow that the process is set to.
        source = model.artifact_location
        version = self._client.create_model_version(name, source, run, description=description, model_id=model.model_id)
        return str(version.version)

    def _trial_run(self, trial: int, *, started_at: float) -> str:
        if trial not in self._trial_runs:
            run = self._find_or_create_run(_tags_of_trial(trial), name=f"trial {trial}", started_at=started_at)
            # Not among the tags it is found by: the study's run may have been deleted and made anew.
            self._client.set_tag(run, "mlflow.parentRunId", self._run)
            self._trial_runs[trial] = run
        return self._trial_runs[trial]

    def _baseline_run(self, event: Event) -> str:
        name, label = event.payload["name"], event.payload["label"]
        tags = {"search.kind": "baseline", "search.baseline": name}
        run = self._find_or_create_run(tags, name=f"baseline: {label}", started_at=event.at - event.payload["seconds"])
        self._client.set_tag(run, "mlflow.parentRunId", self._run)
        return run

    def _find_or_create_run(self, tags: dict[str, str], *, name: str, started_at: float) -> str:
        if (found := self._find_run(tags)) is not None:
            return found
        tags = self._with_key(tags) | {"search.study": self.study.name}
        run = self._client.create_run(self._experiment, milliseconds(started_at), tags, name)
        return str(run.info.run_id)

    def _find_run(self, tags: dict[str, str]) -> str | None:
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in self._with_key(tags).items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _with_key(self, tags: dict[str, str]) -> dict[str, str]:
        return {"search.study_key": study_key(self.study), **tags}

    def _write(self, run: str, writes: RunWrites) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*values) for values in writes.metrics]
        params = [Param(*values) for values in writes.params.items()]
        tags = [RunTag(*values) for values in writes.tags.items()]
        while metrics or params or tags:
            batch = metrics[:MAX_METRICS], params[:MAX_PARAMS_OR_TAGS], tags[:MAX_PARAMS_OR_TAGS]
            self._client.log_batch(run, *batch, synchronous=True)
            metrics, params, tags = metrics[MAX_METRICS:], params[MAX_PARAMS_OR_TAGS:], tags[MAX_PARAMS_OR_TAGS:]
        if writes.ended_at is not None:
            self._client.set_terminated(run, writes.status, milliseconds(writes.ended_at))
        elif writes.status:
            self._client.update_run(run, writes.status)

    def _describe(self) -> None:
        """Where the study came from: tags, the data set, and the study file."""
        study = self.study
        writes = RunWrites()
        writes.tag({"search.state": "running", "search.metric": study.metric, "search.direction": study.direction})
        writes.tag({f"search.fingerprint.{name}": value for name, value in study.fingerprints.items()})
        writes.tag({f"search.provenance.{name}": value for name, value in study.provenance.items()})
        self._write(self._run, writes)
        self._client.log_inputs(self._run, [_dataset_input(study)])
        study_file = yaml.safe_dump(study.config, sort_keys=False, allow_unicode=True)
        try:
            self._client.log_text(self._run, without_secrets(study_file), "study.yaml")
        except Exception as error:
            # Some servers keep artifacts where only they can write. That must not stop everything else.
            self._client.set_tag(self._run, "search.study_file", f"not stored: {one_line(error)}")


def _tags_of_trial(trial: int) -> dict[str, str]:
    return {"search.kind": "trial", "search.trial": str(trial)}


def _dataset_input(study: StudyRecord) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = str(study.config["data"]["path"])
    dataset = Dataset(
        name=Path(path).name,
        digest=study.fingerprints["data"][:MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": path}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "cross-validation")])


def _find_or_create_experiment(client: MlflowClient, study: StudyRecord, *, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(study.name)
    if found is None:
        tags = {
            "mlflow.experimentKind": "custom_model_development",  # without it the UI asks what the experiment is for
            "mlflow.experiment.primaryMetric.name": f"cv/{study.metric}_mean",
            "mlflow.experiment.primaryMetric.greaterIsBetter": str(study.direction == "maximize"),
        }
        try:
            return client.create_experiment(study.name, artifacts, tags)
        except MlflowException:  # another process may have been first
            found = client.get_experiment_by_name(study.name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def import_quietly() -> None:
    """Import mlflow without its telemetry and with errors alone in its log."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401 - sets its loggers up

    for name in LOUD_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:"):
        return None
    return Path(make_url(uri).database or "mlflow.db").resolve()


def create_database(file: Path) -> None:
    """Create MLflow's tables in another file, then link it. Several processes may do so at once, or be killed."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{uuid4().hex}")
    try:
        store = SqlAlchemyStore(f"sqlite:///{temporary}", file.with_name("mlartifacts").as_uri())  # type: ignore[no-untyped-call]
        store.engine.dispose()
        with suppress(FileExistsError):
            file.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
