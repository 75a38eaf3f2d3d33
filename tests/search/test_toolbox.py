"""The toolbox through `search run` on small files: studies finish, and ledger and artifacts hold what they must."""

import contextlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from sklearn.metrics import f1_score, log_loss, mean_absolute_error

from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.cli import app
from fold_search.search.drafting.demo import build_demo
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import FoldRun, FoldRunState, StudyState, TrialRecord, TrialState
from tests.tiny_encoder import build_tiny_encoder

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A study that `search run` has finished, its table of rows, and what lies behind it."""

    folder: Path
    table: pd.DataFrame
    output: str
    ledger: Ledger

    @property
    def trials(self) -> list[TrialRecord]:
        return self.ledger.trials()

    def runs(self, trial: int) -> list[FoldRun]:
        return [run for run in self.ledger.fold_runs() if run.trial == trial]

    def artifact(self, name: str | None) -> bytes:
        assert name is not None
        return Artifacts(str(self.folder / "studies" / "artifacts")).get(name)

    def held_out(self, trial: int) -> tuple[pd.Series, np.ndarray]:
        """Return the labels, as the file has them, and the stored predictions of all rows."""
        folds = self.ledger.assignments()
        rows = np.concatenate([np.flatnonzero(folds == run.fold) for run in self.runs(trial)])
        stored = [np.load(io.BytesIO(self.artifact(run.predictions)))["predictions"] for run in self.runs(trial)]
        return self.table["label"].iloc[rows], np.concatenate(stored)

    def best(self) -> dict[str, Any]:
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(app, ["best", "--study", "toolbox", "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)


Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def docstrings(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """90 real docstrings of three packages, of very different sizes."""
    path = tmp_path_factory.mktemp("demo") / "demo.csv"
    build_demo(path, rows=90, classes=3, seed=0)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.assign(text=table["summary"])[["text", "label"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, docstrings: pd.DataFrame) -> Run:
    """Run a study of all combinations of `space` on a table; extra rows go into a file of their own."""
    encoder = build_tiny_encoder(tmp_path_factory.mktemp("encoder"), docstrings["text"].tolist())

    def run(table: pd.DataFrame, *, extra: pd.DataFrame | None = None, data: dict | None = None, **sections: Any):
        folder = tmp_path_factory.mktemp("study")
        table.to_csv(folder / "data.csv", index=False)
        spec = {"path": "data.csv", "label": "label", "text": "text"} | (data or {})
        if extra is not None:
            extra.to_csv(folder / "extra.csv", index=False)
            spec["extra"] = "extra.csv"
        defaults = {
            "data": spec,
            "model": {"encoder": str(encoder), "max_length": 24},
            "folds": {"k": 3},
            "race": {"rule": "none"},
            "trackers": {"mlflow": False},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(defaults | sections))
        with contextlib.chdir(folder):
            command = ["run", "--study", "toolbox", "--config", "study.yaml"]
            result = CliRunner().invoke(app, command, env={"OMP_NUM_THREADS": "1"})
        assert result.exit_code == 0, result.output
        engine = connect(f"sqlite:///{folder / 'studies' / 'search.db'}", create=False)
        record = find_study(engine, "toolbox")
        assert record is not None
        assert record.state is StudyState.FINISHED
        return Finished(folder=folder, table=table, output=result.output, ledger=Ledger(engine, record.id))

    return run


def check_complete(study: Finished, *, num_trials: int) -> None:
    """Every trial is complete, and each fold ended with the standing of its last epoch."""
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * num_trials
    last = {(epoch.trial, epoch.fold): epoch.standing for epoch in study.ledger.epochs()}
    for done in study.ledger.fold_runs():
        assert done.state is FoldRunState.DONE
        assert done.score == last[done.trial, done.fold]


def test_samplers_and_losses_with_extra_rows(run: Run, docstrings: pd.DataFrame):
    """Every fold run proves that it saw no validation row, nor an extra one that repeats one."""
    repeated = docstrings.iloc[[4, 50]].assign(text=docstrings["text"].str.upper())
    extra = pd.concat([repeated, pd.DataFrame({"text": ["one more", "yet another"], "label": docstrings["label"][:2]})])
    study = run(
        docstrings,
        extra=extra,
        study={"sampler": "grid"},
        training={"epochs": 2, "learning_rate": 3e-3, "sampler_ratio": 1.0},
        space={
            "sampler": ["none", "tomek_links", "smote", "class_balanced_batches"],
            "loss": ["logit_adjusted", "ldam"],
        },
    )
    check_complete(study, num_trials=8)
    folds, own = study.ledger.assignments(), len(docstrings)
    for trial in study.trials:
        for done in study.runs(trial.number):
            proof = LeakProof.from_bytes(study.artifact(done.sample["proof"]))
            assert proof.summary() == {name: value for name, value in done.sample.items() if name != "proof"}
            assert proof.num_validation_rows_used == 0
            allowed = [*np.flatnonzero((folds != done.fold) & (folds >= 0)), own + 2, own + 3]
            allowed += [own + place for place, row in enumerate((4, 50)) if folds[row] != done.fold]
            assert proof.rows_in.tolist() == sorted(allowed)
            assert set(proof.rows_out) <= set(allowed)
            sampler, (before, after) = trial.params["sampler"], (proof.counts_before, proof.counts_after)
            assert {
                "none": (after == before).all(),
                "tomek_links": (after <= before).all() and proof.num_synthetic == 0,
                "smote": (after == before.max()).all() and 0 < proof.num_synthetic <= (after - before).sum(),
                "class_balanced_batches": after.sum() == before.sum() and np.ptp(after) <= 1,
            }[sampler]
        truth, predictions = study.held_out(trial.number)
        predicted = np.unique(docstrings["label"])[predictions.argmax(axis=1)]
        assert trial.pooled == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert study.best()["score"] == max(trial.score for trial in study.trials)
    assert " synthetic)" in study.output


def test_a_numeric_label(run: Run, docstrings: pd.DataFrame):
    """The best trial has the lowest error; patience ends folds early, and they are done all the same."""
    table = docstrings.assign(label=[f"{len(text.split()) * 2.5}" for text in docstrings["text"]])
    study = run(
        table,
        data={"task": "regression"},
        study={"metric": "mae", "epoch_metric": "mse", "sampler": "grid"},
        training={"epochs": 9, "patience": 1, "learning_rate": 3e-2},
        space={"loss": ["mse", "mae", "huber"]},
    )
    check_complete(study, num_trials=3)
    for trial in study.trials:
        truth, predictions = study.held_out(trial.number)
        assert predictions.shape == (90, 1)
        assert trial.pooled == pytest.approx(mean_absolute_error(truth.astype(float), predictions[:, 0]), rel=1e-6)
    assert study.best()["score"] == min(trial.score for trial in study.trials)
    assert min(done.num_epochs for done in study.ledger.fold_runs()) < 9
    sample = study.ledger.fold_runs()[0].sample
    assert (sample["counts_before"], sample["num_validation_rows_used"]) == ([], 0)


def test_the_race_stops_what_a_minimised_metric_calls_worse(run: Run, docstrings: pd.DataFrame):
    """A trial that learns nothing has the higher log loss, is stopped, and is not expected to be the best."""
    study = run(
        docstrings,
        study={"metric": "log_loss", "sampler": "grid"},
        training={"epochs": 3},
        space={"learning_rate": [3e-3, 2e-3, 1e-8, 1e-9]},
        race={"rule": "early_stopping_cv", "min_trials": 2, "min_epochs": 1},
    )
    assert [trial.state.value for trial in study.trials] == ["complete", "complete", "stopped", "stopped"]
    assert study.ledger.study().direction == "minimize"
    assert "not better than" in study.trials[3].reason
    assert study.trials[2].estimate > min(trial.score for trial in study.trials[:2])
    assert study.best()["score"] == min(trial.score for trial in study.trials[:2])
    truth, predictions = study.held_out(0)
    expected = log_loss(truth, predictions, labels=np.unique(docstrings["label"]))
    assert study.trials[0].pooled == pytest.approx(expected, rel=1e-5)


def test_a_sampler_that_empties_a_class_fails_its_trial_alone(run: Run):
    """It cannot be known before the rows are embedded; the reason names the class, and the search goes on."""
    nouns = ("parse", "index", "array", "string", "matrix", "table", "column", "number", "query")
    rows = [(f"return the {noun}", "drowned") for noun in nouns]
    rows += [(form, "relation") for text, _ in rows for form in (text.upper(), text.title(), f" {text}  ")]
    rows += [(f"{noun} of a file at once", "none") for noun in nouns[:6]]
    study = run(
        pd.DataFrame(rows, columns=["text", "label"]),
        study={"metric": "micro_f1_without_negative", "negative_label": "none", "sampler": "grid"},
        training={"epochs": 2, "learning_rate": 3e-3},
        space={"sampler": ["enn", "none"]},
    )
    failed, complete = study.trials
    assert (failed.state, complete.state) == (TrialState.FAILED, TrialState.COMPLETE)
    assert re.search(r"training\.sampler enn removes all training rows \(\d+\) of class 'drowned'", failed.reason)
    assert "sampler_min_rows" in failed.reason
    truth, predictions = study.held_out(complete.number)
    predicted = np.array(["drowned", "none", "relation"])[predictions.argmax(axis=1)]
    expected = f1_score(truth, predicted, labels=["drowned", "relation"], average="micro", zero_division=0)
    assert complete.pooled == pytest.approx(expected)
