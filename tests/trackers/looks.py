"""How tests look into a tracker: the same questions to MLflow, to Neptune's files and to a Neptune server."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from fold_search.storage.trackers.contract import Tracker
from fold_search.storage.trackers.mlflow import MlflowTracker
from fold_search.storage.trackers.neptune import NeptuneTracker
from fold_search.storage.trackers.neptune_offline import read_offline
from tests.trackers.neptune_server import PROJECT, NeptuneServer

Points = list[tuple[float, float]]


class Look(ABC):
    """One place of one tracker."""

    opened: list[Tracker]

    def open(self) -> Tracker:
        """A tracker that publishes there; each stands for another process."""
        self.opened.append(self.connect())
        return self.opened[-1]

    @abstractmethod
    def connect(self) -> Tracker: ...

    @abstractmethod
    def runs(self) -> list[str]:
        """The names of all runs, equal ones as often as they are there."""

    @abstractmethod
    def curve(self, trial: int, fold: int) -> Points:
        """All points of a fold's val_macro_f1, equal ones as often as they are there."""

    @abstractmethod
    def trial_scores(self) -> Points:
        """The study's run: (trial, score)."""

    @abstractmethod
    def outcome(self, trial: int) -> dict[str, Any]:
        """Learning rate, state, reason, failure, rows at once and score, as far as they are there."""

    @abstractmethod
    def baselines(self) -> dict[str, float]:
        """The score of each baseline, by its name; once for all that were published."""

    @abstractmethod
    def study_state(self) -> str: ...

    @abstractmethod
    def everything(self) -> str:
        """All that is recorded, as text."""


@dataclass
class MlflowLook(Look):
    uri: str
    opened: list[Tracker] = field(default_factory=list)

    def connect(self) -> Tracker:
        return MlflowTracker(self.uri)

    def _runs(self) -> list[Run]:
        client = MlflowClient(self.uri)
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))

    def _run(self, name: str) -> Run:
        [run] = [run for run in self._runs() if run.info.run_name == name]
        return run

    def _history(self, name: str, metric: str) -> Points:
        history = MlflowClient(self.uri).get_metric_history(self._run(name).info.run_id, metric)
        return [(point.step, point.value) for point in history]

    def runs(self) -> list[str]:
        return [run.info.run_name for run in self._runs()]

    def curve(self, trial: int, fold: int) -> Points:
        return self._history(f"trial {trial}", f"fold_{fold}/val_macro_f1")

    def trial_scores(self) -> Points:
        return self._history("spam", "trials/macro_f1")

    def outcome(self, trial: int) -> dict[str, Any]:
        data = self._run(f"trial {trial}").data
        found = {
            "learning_rate": float(data.params["learning_rate"]),
            "state": data.tags.get("search.state"),
            "reason": data.tags.get("search.reason"),
            "failure": data.tags.get("search.failure"),
            "rows_at_once": data.tags.get("search.fold_0_rows_at_once"),
            "score": data.metrics.get("cv/macro_f1_mean"),
        }
        return {name: value for name, value in found.items() if value is not None}

    def baselines(self) -> dict[str, float]:
        kept = [run.data for run in self._runs() if run.data.tags["search.kind"] == "baseline"]
        assert len({data.tags["search.baseline"] for data in kept}) == len(kept)
        scores = {data.tags["search.baseline"]: data.metrics.get("cv/macro_f1_mean") for data in kept}
        return {name: score for name, score in scores.items() if score is not None}

    def study_state(self) -> str:
        return self._run("spam").data.tags["search.state"]

    def everything(self) -> str:
        client = MlflowClient(self.uri)
        run = self._run("spam")
        study_file = client.download_artifacts(run.info.run_id, "study.yaml")
        return str([run.to_dictionary() for run in self._runs()]) + Path(study_file).read_text()


class NeptuneLook(Look):
    """What the two ways of using Neptune have in common: fields and series by run."""

    @abstractmethod
    def stored(self) -> list[tuple[dict[str, Any], dict[str, Points]]]:
        """Each run's fields and series."""

    def _run(self, name: str) -> tuple[dict[str, Any], dict[str, Points]]:
        [run] = [run for run in self.stored() if run[0]["sys/name"] == name]
        return run

    def runs(self) -> list[str]:
        return [fields["sys/name"] for fields, _ in self.stored()]

    def curve(self, trial: int, fold: int) -> Points:
        return self._run(f"trial {trial}")[1].get(f"fold_{fold}/validation/epoch/macro_f1", [])

    def trial_scores(self) -> Points:
        return self._run("spam")[1]["trials/values"]

    def outcome(self, trial: int) -> dict[str, Any]:
        fields, _ = self._run(f"trial {trial}")
        found = {"learning_rate": fields["trial/parameters/learning_rate"]}
        found["rows_at_once"] = fields.get("fold_0/rows_at_once")
        found |= {name: fields.get(f"trial/{name}") for name in ("state", "reason", "failure", "score")}
        return {name: value for name, value in found.items() if value is not None}

    def baselines(self) -> dict[str, float]:
        fields, _ = self._run("spam")
        paths = [path.split("/") for path in fields if path.startswith("baselines/")]
        return {name: fields[f"baselines/{name}/score"] for _, name, field in paths if field == "score"}

    def study_state(self) -> str:
        return self._run("spam")[0]["study/state"]

    def everything(self) -> str:
        return str(self.stored())


@dataclass
class OfflineLook(NeptuneLook):
    directory: Path
    opened: list[Tracker] = field(default_factory=list)

    def connect(self) -> Tracker:
        return NeptuneTracker(self.directory)

    def stored(self) -> list[tuple[dict[str, Any], dict[str, Points]]]:
        runs = read_offline(self.directory)
        return [(run.fields, {path: list(points.items()) for path, points in run.series.items()}) for run in runs]


@dataclass
class ServerLook(NeptuneLook):
    server: NeptuneServer
    directory: Path
    opened: list[Tracker] = field(default_factory=list)

    def connect(self) -> Tracker:
        return NeptuneTracker(self.directory, api_token=self.server.token, project=PROJECT)

    def stored(self) -> list[tuple[dict[str, Any], dict[str, Points]]]:
        return [(run.fields, run.series) for run in self.server.runs.values()]
