"""A study under fire: its folder, its `search run` and `search worker`, and the servers that it leans on."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyState
from tests.chaos.servers import Disk, Postgres
from tests.trackers.mlflow_server import MlflowServer

ROOT = Path(__file__).parents[2]
NAME = "chaos"
LOG = "epochs.log"
LEASE_SECONDS = 3.0
BUSY_SECONDS = 2
EPOCH_SECONDS = 0.15
RESTART_SECONDS = 0.5
SCRIPTED: dict[str, Any] = {
    "data": {"path": "rows.csv", "label": "label", "text": ["text"]},
    "model": {"encoder": "none"},
    "training": {"epochs": 4},
    "space": {
        "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "loss": ["cross_entropy", "focal"],
        "focal_gamma": {"low": 0.5, "high": 4.0},
    },
    "folds": {"k": 3},
}
REAL: dict[str, Any] = {
    "data": {"path": "rows.csv", "label": "label", "text": ["text"]},
    "model": {"encoder": "encoder", "max_length": 24},
    "training": {"epochs": 4, "batch_size": 16},
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "optimiser": ["adamw", "schedule_free_adamw"],
        "sampler": ["none", "smote"],
        "trainable_layers": [None, 1],
    },
    "folds": {"k": 3},
}


@dataclass(kw_only=True)
class Study:
    """One study; `commands` are the processes that work on it, each with its number of workers."""

    folder: Path
    sections: dict[str, Any]
    commands: tuple[tuple[str, int], ...] = (("run", 2), ("worker", 1))
    postgres: Postgres | None = None
    tracker: MlflowServer | None = None
    disk: Disk | None = None
    training: str = "scripted"
    running: dict[int, psutil.Popen] = field(default_factory=dict)
    restarts: int = 0
    endings: dict[int, int] = field(default_factory=dict)  # how often a command ended with which exit code
    _due: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = self.postgres.create_database() if self.postgres else f"sqlite:///{self.folder}/search.db"
        artifacts = f"{self.disk.folder.name}/artifacts" if self.disk else "artifacts"
        sections = self.sections | {
            "storage": {"url": self.url, "artifacts": artifacts, "cache": "cache"},
            "trackers": {"mlflow": {"uri": self.tracker.url} if self.tracker else False},
        }
        (self.folder / "study.yaml").write_text(yaml.safe_dump(sections))
        self._engine = connect(self.url)

    @property
    def artifacts(self) -> Path:
        """The artifacts' folder as this process sees it."""
        return (self.disk.seen_from_outside if self.disk else self.folder) / "artifacts"

    def tend(self) -> None:
        """Start what does not run: at once the first time, later half a second after its end."""
        for index in range(len(self.commands)):
            process = self.running.get(index)
            if process is None:
                if self._due.setdefault(index, time.monotonic()) <= time.monotonic() and (index == 0 or self.begun()):
                    self._start(index)
            elif (code := process.poll()) is not None:
                self.endings[code] = self.endings.get(code, 0) + 1
                self._due[index] = time.monotonic() + RESTART_SECONDS
                del self.running[index]
        self.restarts = sum(self.endings.values())

    def _start(self, index: int) -> None:
        command, workers = self.commands[index]
        options = ["--config", "study.yaml"] if command == "run" else ["--storage", self.url]
        options += ["--study", NAME, "--workers", str(workers)]
        prefix = self.disk.prefix if self.disk else []
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CHAOS_TRAINING": self.training}
        with (self.folder / f"{index}.log").open("ab") as log:
            self.running[index] = psutil.Popen(
                [*prefix, sys.executable, "-m", "tests.chaos.scripted", command, *options],
                cwd=self.folder,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def workers(self, index: int | None = None) -> list[psutil.Process]:
        """The worker processes of one command, or of all."""
        found = []
        for process in self.running.values() if index is None else [self.running[index]]:
            with suppress(psutil.NoSuchProcess):
                for child in process.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        line, above = " ".join(child.cmdline()), " ".join(child.parent().cmdline())
                        if "spawn_main" in line or ("forkserver" in line and "forkserver" in above):
                            found.append(child)
        return found

    def begun(self) -> bool:
        """Whether the study is in the database."""
        with suppress(ValueError):
            return find_study(self._engine, NAME) is not None
        return False

    def finished(self) -> bool:
        """Whether the study has ended, as far as the database answers."""
        with suppress(ValueError):
            record = find_study(self._engine, NAME)
            return record is not None and record.state is StudyState.FINISHED
        return False

    def ledger(self) -> Ledger:
        """The study's ledger."""
        record = find_study(self._engine, NAME)
        assert record
        return Ledger(self._engine, record.id)

    def log(self) -> list[tuple[int, int, int, int]]:
        """Every epoch that was begun: (token, trial, fold, epoch), in the order of each claim."""
        lines = (self.folder / LOG).read_text().splitlines()
        return [tuple(int(number) for number in line.split()) for line in lines]  # type: ignore[misc]

    def output(self) -> str:
        """What all commands printed."""
        return "\n".join((self.folder / f"{index}.log").read_text() for index in range(len(self.commands)))

    def finish(self, *, seconds: float) -> None:
        """Let the study come to its end without another fault, and every process with it."""
        deadline = time.monotonic() + seconds
        while self.running or not self.finished():
            if time.monotonic() > deadline:
                self._explain()
                raise AssertionError(f"the study does not end: {self.folder}\n{self.output()[-4000:]}")
            if self.finished():
                for index in [index for index, process in self.running.items() if process.poll() is not None]:
                    del self.running[index]
            else:
                self.tend()
            time.sleep(0.2)

    def publish(self) -> None:
        """Give the tracker what it lacks: its server may have been away when the last command left."""
        prefix = self.disk.prefix if self.disk else []
        command = [*prefix, sys.executable, "-m", "tests.chaos.scripted", "publish", "--study", NAME]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([*command, "--storage", self.url], cwd=self.folder, env=environment, check=True, timeout=120)

    def _explain(self) -> None:
        """Let every process write into its log where it is."""
        for process in self.running.values():
            process.send_signal(signal.SIGUSR1)
        for process in self.workers():
            process.send_signal(signal.SIGUSR1)
        time.sleep(1)

    def end(self) -> None:
        """Kill what is left of it."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._engine.dispose()


def write_rows(folder: Path, *, num_rows: int = 30) -> None:
    """Write rows of two classes; nobody trains on them."""
    rows = ["text,label", *(f"row {number},{'ab'[number % 2]}" for number in range(num_rows))]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")


def write_trainable(folder: Path, *, num_rows: int = 1800) -> None:
    """Write rows of two classes that can nearly be told apart, one as large as two of the other, and an encoder."""
    from tests.tiny_encoder import TEXTS, build_tiny_encoder

    chance = random.Random(0)
    rows = ["text,label"]
    for number in range(num_rows):
        label = "aab"[number % 3]
        words = " ".join(TEXTS[label == "b" :: 2] if chance.random() < 0.9 else TEXTS).replace(",", "").split()
        rows.append(f"{' '.join(chance.choices(words, k=20))},{label}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    build_tiny_encoder(folder / "encoder")
