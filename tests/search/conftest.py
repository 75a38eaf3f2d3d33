"""A study in a real database with scripted trainings, for the coordinator's and the worker's tests."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fold_search.search.racing.live import LiveRace, Policy, live_race
from fold_search.search.running.coordinator import Coordinator
from fold_search.search.running.pruning import Pruning
from fold_search.search.running.worker import Worker
from fold_search.search.study.config import StudyConfig
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Direction
from tests.search.scripted import Script
from tests.warm import warm_context


class ScriptedStudy:
    """One study: its ledger, its coordinator, and workers with scripted trainings."""

    def __init__(
        self,
        url: str,
        folder: Path,
        direction: Direction = "maximize",
        fingerprints: dict[str, str] | None = None,
        **sections: object,
    ) -> None:
        self.url = url
        self.config = StudyConfig.model_validate(
            {
                "data": {"path": "none.csv", "label": "label", "text": "text"},
                "model": {"encoder": "none"},
                "space": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
                "folds": {"k": 3},
                "training": {"epochs": 3},
                "race": {"rule": "early_stopping_cv", "min_trials": 1, "min_epochs": 2},
                "budget": {"trials": 4},
                **sections,
            }
        )
        engine = connect(url)
        migrate(engine)
        record = create_study(
            engine,
            name="scripted",
            config=self.config.model_dump(mode="json"),
            metric="macro_f1",
            direction=direction,
            fingerprints=fingerprints or {},
            provenance={},
            assignments=np.arange(9, dtype=np.int16) % 3,
        )
        self.ledger = Ledger(engine, record.id)
        self.artifacts = Artifacts(str(folder / "artifacts"))
        self.stop = threading.Event()
        self.policy: Policy | None = None

    def coordinator(self, owner: str = "coordinator") -> Coordinator:
        return Coordinator(
            ledger=self.ledger,
            config=self.config,
            race=self.race(),
            url=self.url,
            owner=owner,
            pooled_score=lambda trial: 0.5,
            prune=self.pruning().prune,
        )

    def race(self) -> LiveRace:
        race = live_race(self.ledger, self.config)
        return replace(race, policy=self.policy) if self.policy else race

    def pruning(self) -> Pruning:
        return Pruning(ledger=self.ledger, artifacts=self.artifacts, settings=self.config.artifacts)

    def worker(self, script: Script, owner: str = "worker", lease_seconds: float = 60.0) -> Worker:
        return Worker(
            ledger=self.ledger,
            artifacts=self.artifacts,
            objective=script,
            race=self.race(),
            owner=owner,
            stop=self.stop,
            keeps_weights=self.config.artifacts.keep != "none",
            diverged=self.config.study.diverged,
            paused_checkpoints=self.config.artifacts.paused_checkpoints,
            lease_seconds=lease_seconds,
        )

    def run(self, script: Script, coordinator: Coordinator | None = None) -> None:
        """Let coordinator and one worker take turns until the study is finished."""
        coordinator = coordinator or self.coordinator()
        worker = self.worker(script)
        while coordinator.step():
            while (claim := worker.claim()) is not None:
                worker.train(claim)
                coordinator.step()


@pytest.fixture
def scripted_study(sqlite_url: str, tmp_path: Path) -> Callable[..., ScriptedStudy]:
    """Make a scripted study in a new SQLite file; keyword arguments are sections of its study file."""
    return lambda **sections: ScriptedStudy(sqlite_url, tmp_path, **sections)


@pytest.fixture(scope="module", autouse=True)
def forked_workers() -> Iterator[None]:
    """The processes that a study starts, to look at encoders and to train, are forked from one that is warm."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(multiprocessing, "get_context", lambda kind: warm_context())
        yield
