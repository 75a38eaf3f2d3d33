"""A study's best trial against a linear baseline on a test file that the search never saw.

`python -m benchmarks.real_data FOLDER STUDY.yaml` searches on FOLDER/train.csv.gz through the command line, trains the
best trial's folds again up to their best epochs, and scores the mean of their probabilities on FOLDER/test.csv.gz.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from objectives.data import Dataset, read_dataset
from objectives.tasks.text import prepare_text
from objectives.training import FoldJob, FoldTraining
from search.config import load_config
from search.objective import choose_device, fold_seed
from search.report import summarise
from search.space import resolve
from search.study import find


def main() -> None:
    """Search, train the winner's folds, print both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path)
    parser.add_argument("--storage", default="sqlite:///studies/search.db")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    name = f"benchmark-{arguments.folder.name}"
    train, test = (arguments.folder / f"{part}.csv.gz" for part in ("train", "test"))
    overrides = [f"data.path={train.resolve()}", f"storage.url={arguments.storage}", *arguments.overrides]
    start = time.perf_counter()
    options = [option for override in overrides for option in ("--set", override)]
    command = [Path(sys.executable).with_name("search"), "run", "--study", name, "--config", arguments.study_file]
    subprocess.run([*command, *options], check=True)
    seconds = time.perf_counter() - start
    study = find(name, url=arguments.storage)
    config = load_config(arguments.study_file, overrides)
    rows = _join(read_dataset(config.data), read_dataset(config.data.model_copy(update={"path": test})))
    summary = summarise(study.ledger)
    assert summary.best is not None
    params = resolve(config, summary.best.params)
    inputs = prepare_text(rows.dataset, encoder=params.model.encoder, max_length=params.model.max_length, cache=Path(config.storage.cache))
    best_epochs = {run.fold: run.best_epoch for run in study.ledger.fold_runs() if run.trial == summary.best.trial}
    total = np.zeros((len(rows.test), len(rows.dataset.label_names)))
    singles = []
    assignments = study.ledger.assignments()
    for fold, best_epoch in best_epochs.items():
        job = FoldJob(
            params=params,
            metric=config.study.metric,
            num_classes=len(rows.dataset.label_names),
            labels=rows.dataset.labels,
            training_rows=np.flatnonzero(assignments != fold),
            validation_rows=np.flatnonzero(assignments == fold),
            seed=fold_seed(config.study.seed, fold),
        )
        training = FoldTraining(job, inputs=inputs, device=choose_device(0))
        for score in training.epochs():
            if score.epoch == best_epoch:
                break
        probabilities = training.predict(rows.test)
        singles.append(_macro_f1(rows, probabilities))
        total += probabilities
    print(f"search: {seconds:.0f} s, {summary.trials}, {summary.epochs_trained} epochs, {summary.work_saved:.0%} saved")
    print(f"best trial {summary.best.trial}: {summary.best.params}")
    print(f"{'':24}{'macro-F1':>10}{'accuracy':>10}")
    print(f"{'cross-validated':24}{summary.best.score:>10.4f}   (std over folds {summary.best.std:.4f})")
    print(f"{'test, single folds':24}{np.mean(singles):>10.4f}   ({', '.join(f'{value:.4f}' for value in singles)})")
    accuracy = accuracy_score(rows.dataset.labels[rows.test], total.argmax(axis=1))
    print(f"{'test, fold ensemble':24}{_macro_f1(rows, total):>10.4f}{accuracy:>10.4f}")
    baseline = _baseline(rows)
    print(f"{'test, linear baseline':24}{baseline:>10.4f}   (TF-IDF, balanced logistic regression)")
    print(f"ratio {_macro_f1(rows, total) / baseline:.3f}")


class _join:  # noqa: N801
    """Both files as one data set; `train` and `test` are its rows."""

    def __init__(self, train: Dataset, test: Dataset) -> None:
        assert list(train.label_names) == list(test.label_names)
        texts = [*train.texts, *test.texts]
        labels = np.concatenate([train.labels, test.labels])
        rows = np.arange(1, len(texts) + 1)
        self.dataset = replace(train, texts=texts, labels=labels, rows=rows, groups=rows, fingerprint="")
        self.train, self.test = np.split(np.arange(len(texts)), [len(train.texts)])


def _macro_f1(rows: _join, probabilities: NDArray[np.floating]) -> float:
    return float(f1_score(rows.dataset.labels[rows.test], probabilities.argmax(axis=1), average="macro", zero_division=0))


def _baseline(rows: _join) -> float:
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    texts, labels = np.array(rows.dataset.texts, dtype=object), rows.dataset.labels
    model.fit(texts[rows.train], labels[rows.train])
    return _macro_f1(rows, model.predict_proba(texts[rows.test]))


if __name__ == "__main__":
    main()
