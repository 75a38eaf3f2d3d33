"""A grid of losses and samplers: cross-validated and test macro-F1, and which differences are more than fold noise.

`python -m benchmarks.toolbox FOLDER STUDY.yaml` searches the grid on FOLDER/train.csv.gz through the command line,
trains every trial's folds again up to their best epochs, and scores the mean of their probabilities on
FOLDER/test.csv.gz. A difference to plain cross entropy without a sampler is more than fold noise where the corrected
resampled t-test over the folds (Nadeau and Bengio 2003) says so after Holm's correction over all cells, alpha 0.05.
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real_data import Both, baseline, fold_predictions, join, run_search
from fold_search.search.racing.ties import ALPHA, holm, resampled_t_test
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.opened import find
from fold_search.storage.records import TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One trial of the grid; scores in percent."""

    loss: str
    sampler: str
    folds: np.ndarray[Any, np.dtype[np.float64]]
    pooled: float
    test: float
    seconds: float


def main() -> None:
    """Search, score on the test file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--study", help="name of the study; the study file's without it")
    parser.add_argument("--storage", default="sqlite:///studies/toolbox.db")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    overrides = [f"data.path={(arguments.folder / 'train.csv.gz').resolve()}", f"storage.url={arguments.storage}"]
    config = load_config(arguments.study_file, overrides)
    name = arguments.study or arguments.study_file.stem
    start = time.perf_counter()
    run_search(name, arguments.study_file, overrides, workers=arguments.workers)
    print(f"search: {time.perf_counter() - start:.0f} s")
    both = join(config, arguments.folder / "test.csv.gz")
    trials = [trial for trial in find(name, url=arguments.storage).ledger.trials() if trial.score is not None]
    jobs = [(name, arguments.storage, config, both, trial) for trial in trials]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        cells = pool.starmap(score_cell, jobs, chunksize=1)
    print(f"in all: {time.perf_counter() - start:.0f} s, {sum(cell.seconds for cell in cells):.0f} s of it training")
    print(f"TF-IDF and balanced logistic regression on the test file: {100 * both.macro_f1(baseline(both)):.1f}")
    print(render(cells))


def score_cell(name: str, storage: str, config: StudyConfig, both: Both, trial: TrialRecord) -> Cell:
    """Score one trial on the test file."""
    torch.set_num_threads(1)
    study = find(name, url=storage)
    predictions = list(fold_predictions(study, config, both, trial=trial.number, params=trial.params))
    params = {**config.fixed, **trial.params}
    weighted = params["class_weights"] != "none" and "class_weights" in trial.params
    return Cell(
        loss=f"{params['loss']}, {params['class_weights']}" if weighted else str(params["loss"]),
        sampler=str(params["sampler"]),
        folds=100 * np.array(trial.fold_scores, np.float64),
        pooled=100 * (trial.pooled or math.nan),
        test=100 * both.macro_f1(np.mean(predictions, axis=0)),
        seconds=sum(run.seconds for run in study.ledger.fold_runs() if run.trial == trial.number),
    )


def noticeable(cells: Sequence[Cell], reference: Cell) -> list[bool]:
    """Return which cells differ from the reference by more than fold noise: Holm's step-down over all of them."""
    p_values = resampled_t_test([cell.folds - reference.folds for cell in cells])
    return holm(p_values, alpha=ALPHA).tolist()


def render(cells: Sequence[Cell]) -> str:
    """Return a Markdown table: a row for each loss, a column for each sampler, the best cells below it."""
    losses, samplers = list(dict.fromkeys(c.loss for c in cells)), list(dict.fromkeys(c.sampler for c in cells))
    reference = next(cell for cell in cells if (cell.loss, cell.sampler) == ("cross_entropy", "none"))
    marks = {
        (c.loss, c.sampler): "*" if mark else "" for c, mark in zip(cells, noticeable(cells, reference), strict=True)
    }
    by_place = {(cell.loss, cell.sampler): cell for cell in cells}
    lines = ["| loss | " + " | ".join(samplers) + " |", "|---" * (len(samplers) + 1) + "|"]
    for loss in losses:
        found = [by_place.get((loss, sampler)) for sampler in samplers]
        texts = [
            "-"
            if c is None
            else f"{c.folds.mean():.1f} ± {c.folds.std(ddof=1):.1f}{marks[c.loss, c.sampler]} / {c.test:.1f}"
            for c in found
        ]
        lines.append(f"| {loss} | " + " | ".join(texts) + " |")
    lines.append(
        "\ncross-validated macro-F1, mean ± std over the folds / test file; * differs from cross_entropy, none"
    )
    for cell in sorted(cells, key=lambda cell: -cell.folds.mean())[:5]:
        p = float(resampled_t_test(cell.folds - reference.folds))
        lines.append(
            f"- {cell.loss}, {cell.sampler}: {cell.folds.mean():.1f} ± {cell.folds.std(ddof=1):.1f}, pooled "
            f"{cell.pooled:.1f}, test {cell.test:.1f}, {cell.seconds:.0f} s, p {p:.2g} against cross_entropy, none"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
