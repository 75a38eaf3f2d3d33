"""Seconds an epoch by how many threads compute and how long an idle one spins before it sleeps, for a head and a layer.

`python -m benchmarks.threads FOLDER STUDY.yaml` trains a trial's first fold of five of FOLDER/train.csv.gz, all epochs
but the first by the wall clock, the settings by turns. --busy runs as many processes beside it that do nothing but
compute. The service has one thread for a head alone, and otherwise all cores, whose threads sleep at once (0 turns).
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.frozen_prefix import SAMPLED
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training import fold as training
from fold_search.search.study.config import load_config
from fold_search.search.study.goal import make_goal
from fold_search.search.study.space import resolve

SPINS = (300_000, 0, 1_000)  # of GNU's OpenMP: its own default, OMP_WAIT_POLICY=PASSIVE, and one between
KINDS = {"head alone": (0, 21), "top layer": (1, 3)}  # layers trained, epochs
CODE = "import sys; from benchmarks.threads import train; train(*sys.argv[1:])"


def main() -> None:
    """Train in processes of their own, for a setting is read once; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    settings = [(cores, spins) for spins in SPINS] + [(1, 0)]
    seconds: dict[tuple[str, tuple[int, int]], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as beside:
        for _ in range(arguments.busy):
            beside.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        for _ in range(arguments.rounds):
            for kind, (layers, epochs) in KINDS.items():
                for threads, spins in settings:
                    what = [arguments.folder, arguments.study_file, cache, layers, epochs, threads]
                    environment = {**os.environ, "GOMP_SPINCOUNT": str(spins)}
                    command = [sys.executable, "-c", CODE, *map(str, what)]
                    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                    seconds[kind, (threads, spins)].append(float(found.stdout.splitlines()[-1]))
    print(f"| threads, turns before they sleep | {' | '.join(f'{kind}, s an epoch | ratio' for kind in KINDS)} |")
    print("|---" * (1 + 2 * len(KINDS)) + "|")
    for setting in settings:
        cells = []
        for kind in KINDS:
            median = statistics.median(seconds[kind, setting])
            cells.append(f"{median:.3f} | {median / statistics.median(seconds[kind, settings[0]]):.2f}")
        print(f"| {setting[0]}, {setting[1]:,} | {' | '.join(cells)} |")


def train(folder: str, study_file: str, cache: str, layers: str, epochs: str, threads: str) -> None:
    """Print the seconds an epoch, in this process."""
    torch.set_num_threads(int(threads))
    training.one_thread = contextlib.nullcontext  # a head would otherwise train on one, whatever is asked
    path = f"data.path={(Path(folder) / 'train.csv.gz').resolve()}"
    config = load_config(Path(study_file), [path, f"model.trainable_layers={layers}", f"training.epochs={epochs}"])
    dataset = read_dataset(config.data)
    params = resolve(config, SAMPLED)
    fold = np.arange(len(dataset.labels)) % 5 == 0
    job = FoldJob(
        params=params,
        goal=make_goal(config, dataset.label_names),
        labels=dataset.labels,
        label_names=tuple(dataset.label_names),
        training_rows=np.flatnonzero(~fold),
        validation_rows=np.flatnonzero(fold),
        seed=0,
    )
    inputs = prepare(dataset, params=params.model, max_length=params.model.max_length, cache=Path(cache), device="cpu")
    scores = training.FoldTraining(job, inputs=inputs, device="cpu").epochs()
    print(statistics.fmean([score.seconds for score in scores][1:]))


if __name__ == "__main__":
    main()
