"""A user's folder: real text, a tiny real encoder, a study file, and the `search` command as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from fold_search.search.drafting.demo import build_demo
from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from tests.tiny_encoder import build_tiny_encoder
from tests.warm import WarmSearch

SEARCH = Path(sys.executable).with_name("search")


class UserFolder:
    """Runs `search` in a folder, as a user would, and looks into the ledger behind it."""

    def __init__(self, folder: Path, encoder: Path, data: Path) -> None:
        self.folder = folder
        self.storage = "sqlite:///studies/search.db"
        self.sections: dict[str, Any] = {
            "data": {"path": str(data), "label": "label", "text": ["summary", "body"]},
            "model": {"encoder": str(encoder), "max_length": 32},
            "training": {"epochs": 3, "batch_size": 16},
            "space": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "loss": ["cross_entropy", "focal"]},
            "folds": {"k": 3},
            "race": {"rule": "none"},
            "budget": {"trials": 3},
            "trackers": {"mlflow": False},
        }
        self.prefix: list[str] = []  # a command that runs `search` somewhere else
        self.program: Path | None = None  # SEARCH, say; None: forked, which begins at once
        self.processes: list[subprocess.Popen[str] | WarmSearch] = []
        self.engines: dict[str, Engine] = {}

    def write_study_file(self, **sections: Any) -> None:
        self.sections |= sections
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.sections))

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str] | WarmSearch":
        given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        if self.program is None and "PYTHONPATH" not in environment:
            process: subprocess.Popen[str] | WarmSearch = WarmSearch(arguments, cwd=self.folder, env=given)
        else:
            process = subprocess.Popen(
                [*self.prefix, self.program or SEARCH, *arguments],
                cwd=self.folder,
                env=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_run(self, *options: str) -> "subprocess.Popen[str] | WarmSearch":
        return self.start("run", "--study", "tiny", "--config", "study.yaml", "--storage", self.storage, *options)

    def search(self, *arguments: str) -> str:
        """Run a command to its end and return its output; fails unless it exits with 0."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        return output

    def run(self, *options: str) -> str:
        return self.search("run", "--study", "tiny", "--config", "study.yaml", "--storage", self.storage, *options)

    def json(self, command: str, *options: str) -> Any:
        return json.loads(self.search(command, "--study", "tiny", "--storage", self.storage, "--json", *options))

    def ledger(self) -> Ledger:
        """The study's ledger, as soon as the study is there."""
        url = self.storage.replace("sqlite:///", f"sqlite:///{self.folder}/")
        if url not in self.engines:
            self.engines[url] = wait_for(lambda: connect(url, create=False))
        engine = self.engines[url]
        record = wait_for(lambda: find_study(engine, "tiny"))
        return Ledger(engine, record.id)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for engine in self.engines.values():
            engine.dispose()


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """Wait until `condition` gives something true and return it; tables that are not there yet count as no."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except ValueError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder that all end-to-end tests share."""
    return build_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 docstrings of four packages."""
    path = tmp_path_factory.mktemp("data") / "demo.csv"
    build_demo(path, rows=120, classes=4, seed=0)
    return path


@pytest.fixture
def user(tmp_path: Path, encoder: Path, demo_data: Path) -> Iterator[UserFolder]:
    """A user's folder with a study file; its processes are ended with the test."""
    folder = UserFolder(tmp_path, encoder, demo_data)
    folder.write_study_file()
    yield folder
    folder.end()
