"""A finished study that was really trained in this process: what `search export` starts from."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.search.cli import app
from fold_search.search.racing.live import live_race
from fold_search.search.running.objective import Objective
from fold_search.search.running.worker import Worker
from fold_search.search.study.config import StudyConfig, to_record
from fold_search.search.study.rows import StudyRows
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import FoldRun, TrialState
from tests.claims import claim_first


class TrainedStudy:
    """The complete `trials` of three folds; nothing is pruned."""

    def __init__(self, folder: Path, *, name: str, sections: dict[str, Any], trials: Sequence[dict[str, Any]]) -> None:
        self.name = name
        self.url = f"sqlite:///{folder / 'study.db'}"
        self.config = StudyConfig.model_validate(
            {
                "folds": {"k": 3},
                "race": {"rule": "none"},
                "storage": {"url": self.url, "artifacts": str(folder / "artifacts"), "cache": str(folder / "cache")},
                **sections,
            }
        )
        dataset = read_dataset(self.config.data)
        engine = connect(self.url)
        migrate(engine)
        record = create_study(
            engine,
            name=name,
            config=to_record(self.config),
            metric="macro_f1",
            direction="maximize",
            fingerprints={"data": dataset.fingerprint},
            provenance={},
            assignments=assign_folds(dataset.labels, dataset.groups, num_folds=3, seed=0, stratified=True),
        )
        self.ledger = Ledger(engine, record.id)
        self.artifacts = Artifacts(self.config.storage.artifacts)
        self.rows = StudyRows(ledger=self.ledger, config=self.config)
        worker = self.worker(threading.Event())
        for number, sampled in enumerate(trials):
            self.ledger.add_trial(number, sampled)
            while (claim := claim_first(self.ledger, "worker", lease_seconds=60)) is not None:
                worker.train(claim)
            scores = [run.score or 0.0 for run in self.runs(number)]
            self.ledger.finish_trial(number, TrialState.COMPLETE, score=float(np.mean(scores)), std=0.1)

    def worker(self, stop: threading.Event) -> Worker:
        """A worker that leaves when `stop` says so."""
        return Worker(
            ledger=self.ledger,
            artifacts=self.artifacts,
            objective=Objective(self.rows, device="cpu"),
            race=live_race(self.ledger, self.config),
            owner="worker",
            stop=stop,
        )

    def runs(self, trial: int) -> list[FoldRun]:
        return [run for run in self.ledger.fold_runs() if run.trial == trial]

    def export(self, out: Path, *options: str) -> Result:
        options = ("--study", self.name, "--storage", self.url, "--out", str(out), *options)
        return CliRunner().invoke(app, ["export", *options])


def search(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *expected: str) -> None:
    """It ended with one line, after the steps that it had come to."""
    assert result.exit_code == 2, result.output
    [line] = [line for line in result.stderr.splitlines() if line.strip() and not line.endswith(" ...")]
    assert all(part in line for part in ("error: ", *expected)), line
