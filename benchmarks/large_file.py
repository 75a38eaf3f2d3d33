"""Memory of `search run` on a data file of many rows: a tiny encoder, its head only, one trial of two folds, one epoch.

`python -m benchmarks.large_file --rows 2000000 [--words 20] [--work FOLDER]`. Peaks of the memory that cannot be given
back (anonymous, not mapped files) of each process and of all together, read from /proc five times a second.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
import yaml

from tests.tiny_encoder import TEXTS, build_tiny_encoder

SEARCH = str(Path(sys.executable).with_name("search"))
CLASSES = 20
MIB = 1024 * 1024


def main() -> None:
    """Write the file, run the study, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=20, help="of a text, on average")
    parser.add_argument("--work", type=Path, help="a folder for the files, which stay there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        size = write(folder / "rows.csv", arguments.rows, words=arguments.words)
        write_study(folder)
        start = time.perf_counter()
        peaks = watch([SEARCH, "run", "--study", "large", "--config", "study.yaml"], folder)
        print(f"{arguments.rows:,} rows, {size / MIB:.0f} MiB, {time.perf_counter() - start:.0f} s")
        print("| process | peak | times the file |\n|---|---|---|")
        for name, peak in peaks.items():
            print(f"| {name} | {peak / MIB:.0f} MiB | {peak / size:.1f} |")


def write(path: Path, num_rows: int, *, words: int) -> int:
    """Write texts that nearly all differ, of one to twice as many words less one, and a label; return the bytes."""
    draw = random.Random(0)
    vocabulary = " ".join(TEXTS).split()
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text,label\n")
        for row in range(num_rows):
            text = " ".join(draw.choices(vocabulary, k=draw.randint(1, 2 * words - 1)))
            file.write(f'{row},"{text} {row}",class {min(int(draw.expovariate(0.3)), CLASSES - 1)}\n')
    return path.stat().st_size


def write_study(folder: Path) -> None:
    """Write the study file and its encoder."""
    build_tiny_encoder(folder / "encoder")
    study = {
        "data": {"path": "rows.csv", "label": "label", "text": "text"},
        "model": {"encoder": "encoder", "max_length": 64, "trainable_layers": 0},
        "training": {"epochs": 1, "batch_size": 1024},
        "space": {"learning_rate": [0.01]},
        "folds": {"k": 2},
        "race": {"rule": "none"},
        "budget": {"trials": 1},
        "trackers": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def watch(command: list[str], folder: Path) -> dict[str, int]:
    """Run the command to its end; return the most anonymous memory of each of its processes, and of all, in bytes."""
    peaks: defaultdict[str, int] = defaultdict(int)
    process = psutil.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        family = [process, *process.children(recursive=True)]
        taken = [(anonymous(member.pid), member) for member in family]
        for number, (num_bytes, _) in enumerate(taken):
            name = "search run" if number == 0 else f"process {taken[number][1].pid}"
            peaks[name] = max(peaks[name], num_bytes)
        peaks["all together"] = max(peaks["all together"], sum(num_bytes for num_bytes, _ in taken))
        time.sleep(0.2)
    assert process.returncode == 0
    return {name: peak for name, peak in peaks.items() if peak > 100 * MIB}


def anonymous(pid: int) -> int:
    """Return a process's anonymous resident memory in bytes, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
