"""A study's best trial against a linear baseline on a test file that the search never saw.

`python -m benchmarks.real_data FOLDER STUDY.yaml` searches on FOLDER/train.csv.gz through the command line, trains the
best trial's folds again up to their best epochs, and scores the mean of their probabilities on FOLDER/test.csv.gz.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from fold_search.models.params import Scalar
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import FoldTraining
from fold_search.search.reporting.summary import summarise
from fold_search.search.running.objective import choose_device, fold_seed
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.goal import make_goal
from fold_search.search.study.opened import OpenStudy, find
from fold_search.search.study.space import resolve

Rows = NDArray[np.int64]


def main() -> None:
    """Search, train the winner's folds, print both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--study", help="name of the study; the folder's without it")
    parser.add_argument("--storage", default="sqlite:///studies/search.db")
    parser.add_argument("--folds", type=int, help="train only the first folds again")
    arguments = parser.parse_args()
    overrides = [f"data.path={(arguments.folder / 'train.csv.gz').resolve()}", f"storage.url={arguments.storage}"]
    config = load_config(arguments.study_file, overrides)
    name = arguments.study or arguments.folder.name
    start = time.perf_counter()
    run_search(name, arguments.study_file, overrides)
    print(f"\nsearch: {time.perf_counter() - start:.0f} s")
    both = join(config, arguments.folder / "test.csv.gz")
    study = find(name, url=arguments.storage)
    best = summarise(study.ledger).best
    assert best is not None
    predictions = fold_predictions(study, config, both, trial=best.trial, params=best.params)
    report(study, both, list(islice(predictions, arguments.folds)))


def run_search(name: str, study_file: Path, overrides: Sequence[str], *, workers: int = 1) -> None:
    """Run the study through the command line."""
    options = [option for override in overrides for option in ("--set", override)]
    command = [Path(sys.executable).with_name("search"), "run", "--study", name, "--config", study_file]
    subprocess.run([*command, "--workers", str(workers), *options], check=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """Training and test file as one data set; `train` and `test` are its rows."""

    dataset: Dataset
    train: Rows
    test: Rows

    def macro_f1(self, probabilities: NDArray[np.float32]) -> float:
        """Macro-F1 on the test rows."""
        predicted = probabilities.argmax(axis=1)
        return float(f1_score(self.dataset.labels[self.test], predicted, average="macro", zero_division=0))


def join(config: StudyConfig, test_file: Path) -> Both:
    """Read both files; they must have the same classes."""
    train, test = read_dataset(config.data), read_dataset(config.data.model_copy(update={"path": test_file}))
    assert train.label_names == test.label_names
    texts, labels = [*train.texts, *test.texts], np.concatenate([train.labels, test.labels])
    columns = {name: [*train.columns[name], *test.columns[name]] for name in train.columns}
    rows = np.arange(len(texts))
    dataset = replace(
        train, texts=texts, columns=columns, labels=labels, strata=labels, rows=rows + 1, groups=rows, fingerprint=""
    )
    return Both(dataset=dataset, train=rows[: len(train.texts)], test=rows[len(train.texts) :])


def fold_predictions(
    study: OpenStudy, config: StudyConfig, both: Both, *, trial: int, params: dict[str, Scalar]
) -> Iterator[NDArray[np.float32]]:
    """Train a trial's folds as the search did, each up to its best epoch; yields probabilities of the test rows."""
    resolved, assignments = resolve(config, params), study.ledger.assignments()
    inputs = prepare(
        both.dataset,
        params=resolved.model,
        max_length=resolved.model.max_length,
        cache=Path(config.storage.cache),
        device=choose_device(0),
    )
    for run in (run for run in study.ledger.fold_runs() if run.trial == trial):
        job = FoldJob(
            params=resolved,
            goal=make_goal(config, both.dataset.label_names),
            labels=both.dataset.labels,
            label_names=tuple(both.dataset.label_names),
            training_rows=both.train[assignments != run.fold],
            validation_rows=both.train[assignments == run.fold],
            seed=fold_seed(config.study.seed, run.fold),
        )
        training = FoldTraining(job, inputs=inputs, device=choose_device(0))
        again = next(score for score in training.epochs() if score.epoch == run.best_epoch)
        if run.score is None or abs(again.score - run.score) > 0.02:
            print(f"trial {trial} fold {run.fold}: {again.score:.4f} the second time, {run.score} in the study")
        yield training.predict(both.test)


def report(study: OpenStudy, both: Both, predictions: Sequence[NDArray[np.float32]]) -> None:
    """Print the study's own estimate, single folds, the ensemble and the baseline."""
    summary = summarise(study.ledger)
    assert summary.best is not None
    singles = [both.macro_f1(probabilities) for probabilities in predictions]
    ensemble, linear = both.macro_f1(np.mean(predictions, axis=0)), both.macro_f1(baseline(both))
    print(f"{summary.trials}, {summary.epochs_trained} epochs, {summary.work_saved:.0%} saved by stopping")
    print(f"best trial {summary.best.trial}: {summary.best.params}")
    print(f"cross-validated macro-F1           {summary.best.score:.4f} (std over folds {summary.best.std:.4f})")
    print(f"test macro-F1, single folds        {np.mean(singles):.4f} ({', '.join(f'{f1:.4f}' for f1 in singles)})")
    print(f"test macro-F1, ensemble of {len(singles)} folds {ensemble:.4f}")
    print(f"test macro-F1, linear baseline     {linear:.4f} (TF-IDF 1-2 grams, balanced logistic regression)")
    print(f"ratio ensemble / baseline          {ensemble / linear:.3f}")


def baseline(both: Both) -> NDArray[np.float32]:
    """Probabilities of the test rows by a class-balanced linear model on TF-IDF."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(class_weight="balanced", max_iter=2000)
    )
    texts = np.array(both.dataset.texts, dtype=object)
    model.fit(texts[both.train], both.dataset.labels[both.train])
    probabilities: NDArray[np.float32] = model.predict_proba(texts[both.test])
    return probabilities


if __name__ == "__main__":
    main()
