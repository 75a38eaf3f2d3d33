"""Time per trial with the frozen layers' states on disk and with those layers run every epoch; the scores of both.

`python -m benchmarks.frozen_prefix FOLDER STUDY.yaml --layers 1 3 --epochs 2` trains every fold of one trial, all rows
of FOLDER/train.csv.gz. CPU seconds of one thread, for the machine may be busy.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fold_search.models.params import Scalar
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.tasks import prefix
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import FoldTraining
from fold_search.search.running.objective import fold_seed
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.goal import make_goal
from fold_search.search.study.space import resolve

SAMPLED: dict[str, Scalar] = {"learning_rate": 5e-4, "dropout": 0.1, "loss": "cross_entropy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a trial took and gave."""

    first: float  # CPU seconds until the first fold could begin
    training: float  # CPU seconds of all folds
    scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]]  # (folds, epochs, 3): macro-F1, losses
    megabytes: float  # on disk


def main() -> None:
    """Train with and without, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| layers | states, once | on disk | trial, states kept | trial, layers run | ratio | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for layers in arguments.layers:
        changes = [f"model.trainable_layers={layers}", f"training.epochs={arguments.epochs}"]
        path = f"data.path={(arguments.folder / 'train.csv.gz').resolve()}"
        config = load_config(arguments.study_file, [path, *changes])
        dataset = read_dataset(config.data)
        kept, run = train(config, dataset, share=prefix.MAX_DISK_SHARE), train(config, dataset, share=0.0)
        score, loss = (np.abs(kept.scores - run.scores)[..., part].max() for part in (slice(0, 1), slice(1, 3)))
        lines.append(
            f"| {layers} | {kept.first - run.first:.0f} s | {kept.megabytes:.0f} MB | {kept.training:.0f} s "
            f"| {run.training:.0f} s | {run.training / kept.training:.1f} | score {score:.1g}, loss {loss:.1g} |"
        )
        print("\n".join(lines), flush=True)


def train(config: StudyConfig, dataset: Dataset, *, share: float) -> Trial:
    """Train all folds of one trial; states may take up to `share` of the free disk, so that 0 is never to keep them."""
    before, prefix.MAX_DISK_SHARE = prefix.MAX_DISK_SHARE, share
    params = resolve(config, SAMPLED)
    assignments = assign_folds(
        dataset.strata, dataset.groups, num_folds=config.folds.k, seed=config.folds.seed, stratified=True
    )
    first, training, scores = 0.0, 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(config.folds.k):
            start = time.process_time()
            inputs = prepare(
                dataset, params=params.model, max_length=params.model.max_length, cache=Path(folder), device="cpu"
            )
            job = FoldJob(
                params=params,
                goal=make_goal(config, dataset.label_names),
                labels=dataset.labels,
                label_names=tuple(dataset.label_names),
                training_rows=np.flatnonzero(assignments != fold),
                validation_rows=np.flatnonzero(assignments == fold),
                seed=fold_seed(config.study.seed, fold),
            )
            fold_training = FoldTraining(job, inputs=inputs, device="cpu")
            ready = time.process_time()
            first = first or ready - start
            epochs = list(fold_training.epochs())
            training += time.process_time() - ready
            scores.append([(epoch.score, epoch.metrics["train_loss"], epoch.metrics["val_loss"]) for epoch in epochs])
        size = sum(path.stat().st_size for path in Path(folder).glob("prefix-*/*"))
    prefix.MAX_DISK_SHARE = before
    return Trial(first=first, training=training, scores=np.array(scores), megabytes=size / 1e6)


if __name__ == "__main__":
    main()
