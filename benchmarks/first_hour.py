"""The 10-minute test: from `search init --time 10m` to `search export` on several data sets, scored on a test file.

`python -m benchmarks.first_hour FOLDER --sets kev_cwe sms_spam --time 10m` expects train.csv.gz and test.csv.gz in
FOLDER/SET. The set `demo` needs no folder: 90,000 rows of docstrings, of which a tenth is the test file. The table has
the wall time of each command, what was exported, and macro-F1 on the test file: of that, of the best trial if one is
complete, and of the TF-IDF baseline; then the forecast beside what was used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from fold_search.search.drafting.demo import build_demo

DEMO_ROWS = 90_000
SETS = {
    "kev_cwe": ("--text", "title", "--text", "description", "--text", "vendor_product"),
    "biotools_topics": ("--text", "title", "--text", "description", "--text", "keywords"),
    "r52": ("--text", "title", "--text", "body"),
    "sms_spam": ("--text", "text"),
    "klue_re": (),
    "bccd_cells": ("--image", "file"),
    "demo": ("--text", "name", "--text", "summary", "--text", "body"),
}
COLUMNS = ("set", "init", "run", "export", "all", "trained", "exported", "test", "trial", "TF-IDF", "forecast", "used")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One data set from the first command to the last."""

    seconds: dict[str, float]
    trained: str
    exported: str
    test: float
    trial: float | None
    baseline: float | None
    forecast: tuple[float, float] | None  # device hours
    used: float


def main() -> None:
    """Run the sets one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--time", default="10m")
    arguments = parser.parse_args()
    table = Table(*COLUMNS)
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as work:
            found = first_hour(name, _data(name, arguments.folder, Path(work)), Path(work), given=arguments.time)
        times = (found.seconds[command] for command in ("init", "run", "export"))
        table.add_row(
            name,
            *(f"{seconds:.0f} s" for seconds in (*times, sum(found.seconds.values()))),
            found.trained,
            found.exported,
            f"{found.test:.4f}",
            "none" if found.trial is None else f"{found.trial:.4f}",
            "none" if found.baseline is None else f"{found.baseline:.4f}",
            "none" if found.forecast is None else f"{60 * found.forecast[0]:.1f} to {60 * found.forecast[1]:.1f} min",
            f"{60 * found.used:.1f} min",
        )
    Console(width=160).print(table)


def first_hour(name: str, data: Path, work: Path, *, given: str) -> Hour:
    """Go from a data file to a model that is scored on the test file; `given` is the time."""
    seconds = {}
    commands = {
        "init": ["init", str(data / "train.csv.gz"), "--label", "label", *SETS[name], "--time", given],
        "run": ["run", "--study", name, "--config", "study.yaml"],
        "export": ["export", "--study", name, "--out", "model"],
    }
    for command, words in commands.items():
        began = time.monotonic()
        print(_search(work, *words))
        seconds[command] = time.monotonic() - began
    status = json.loads(_search(work, "status", "--study", name, "--json"))
    described = json.loads((work / "model" / "model.json").read_text())
    forecast = status["forecast"]
    return Hour(
        seconds=seconds,
        trained=next((line for line in (work / "study.yaml").read_text().splitlines() if "trainable" in line), "whole"),
        exported="TF-IDF" if "trial" not in described else f"trial {described['trial']}",
        test=_test_score(work, data, "model"),
        trial=_trial_score(work, data, name, status["best"]),
        baseline=_baseline_score(work, data, name),
        forecast=forecast and tuple(forecast["gpu_hours"]),
        used=status["used"]["hours"],
    )


def _test_score(work: Path, data: Path, model: str) -> float:
    found: dict[str, Any] = json.loads(
        _search(work, "evaluate", "--model", model, str(data / "test.csv.gz"), *_images(data), "--json")
    )
    return float(found["scores"]["macro_f1"])


def _trial_score(work: Path, data: Path, name: str, best: dict[str, Any] | None) -> float | None:
    if best is None:
        return None
    _search(work, "export", "--study", name, "--trial", str(best["trial"]), "--out", "trial")
    return _test_score(work, data, "trial")


def _baseline_score(work: Path, data: Path, name: str) -> float | None:
    if _images(data):
        return None
    _search(work, "export", "--study", name, "--baseline", "--out", "baseline")
    return _test_score(work, data, "baseline")


def _images(data: Path) -> list[str]:
    return ["--images", str(data / "images.zip")] if (data / "images.zip").exists() else []


def _data(name: str, folder: Path, work: Path) -> Path:
    if name != "demo":
        return folder.resolve() / name
    build_demo(work / "demo.csv", rows=DEMO_ROWS, classes=30, seed=0)
    rows = pd.read_csv(work / "demo.csv", dtype=str, keep_default_na=False).sample(frac=1, random_state=0)
    num_test = len(rows) // 10
    rows[:num_test].to_csv(work / "test.csv.gz", index=False)
    rows[num_test:].to_csv(work / "train.csv.gz", index=False)
    return work


def _search(work: Path, *words: str) -> str:
    command = [str(Path(sys.executable).parent / "search"), *words]
    ended = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 3):  # 3: no trial is complete
        raise SystemExit(f"{' '.join(words)}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
    return ended.stdout


if __name__ == "__main__":
    main()
