"""Peak memory and speed of `search predict` on files of more and more rows.

`python -m benchmarks.many_rows --rows 10000 100000 1000000` trains a tiny encoder on a few short texts through the
command line, exports the model, and predicts files of that many rows. The peak is the process's resident memory.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.tiny_encoder import build_tiny_encoder

SEARCH = str(Path(sys.executable).with_name("search"))
CLASSES = {"prize": "win a free prize now, call this number", "attack": "a buffer overflow lets a remote attacker in"}


def main() -> None:
    """Train, export, predict each file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder)
        print("| rows | file | wall | CPU | peak memory |\n|---|---|---|---|---|", flush=True)
        for num_rows in arguments.rows:
            data = write(folder / "data.csv", num_rows)
            start = time.perf_counter()
            command = [SEARCH, "predict", "--model", "model", "data.csv", "--out", "predictions.csv"]
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            seconds = time.perf_counter() - start
            with (folder / "predictions.csv").open() as file:
                assert sum(1 for _ in file) == num_rows + 1
            cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
            size = data.stat().st_size / 1e6
            print(f"| {num_rows:,} | {size:.1f} MB | {seconds:.0f} s | {cpu:.0f} s | {peak:.0f} MiB |", flush=True)


def make_model(folder: Path) -> None:
    """Search one trial on a few rows and export it as `model`."""
    write(folder / "train.csv", 200)
    build_tiny_encoder(folder / "encoder", list(CLASSES.values()))
    study = {
        "data": {"path": "train.csv", "label": "label", "text": "text"},
        "model": {"encoder": "encoder", "max_length": 16, "trainable_layers": 0},
        "space": {"learning_rate": [0.01]},
        "folds": {"k": 2},
        "budget": {"trials": 1},
        "trackers": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    for command in (("run", "--config", "study.yaml"), ("export", "--form", "fold", "--out", "model")):
        subprocess.run([SEARCH, *command, "--study", "many"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def write(path: Path, num_rows: int) -> Path:
    """Write short texts that all differ, of words of their class in any order."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows(num_rows))
    return path


def rows(num_rows: int) -> Iterator[tuple[str, str]]:
    """Yield texts with their labels; the same every time."""
    draw = random.Random(0)
    for row in range(num_rows):
        label = draw.choice(list(CLASSES))
        words = draw.choices(CLASSES[label].split(), k=6)
        yield " ".join([*words, str(row)]), label


if __name__ == "__main__":
    main()
