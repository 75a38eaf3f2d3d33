"""What `search best` and `search export` give before any trial is complete."""

import csv
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fold_search.objectives.predicting.exported import read_description
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.records import FoldRunState, TrialState
from tests.claims import claim_first
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder

WORDS = {"animal": "fox dog horse", "prize": "cash ticket phone", "weapon": "worm exploit virus"}
STEPS = 4  # of an epoch: 20 rows in batches of 5


class Patience(threading.Event):
    """Lets a worker go on for so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._answers = itertools.chain(itertools.repeat(False, steps), itertools.repeat(True))

    def is_set(self) -> bool:
        return next(self._answers)


@pytest.fixture
def study(tmp_path: Path) -> TrainedStudy:
    """One that was begun: trial 0 waits, and so does the better trial 1."""
    texts = [(f"the {WORDS[label].split()[row % 3]} number {row}", label) for row in range(10) for label in WORDS]
    data = tmp_path / "data.csv"
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    sections = {
        "data": {"path": data, "label": "label", "text": "text"},
        "model": {"encoder": str(build_tiny_encoder(tmp_path / "encoder", [text for text, _ in texts]))},
        "training": {"epochs": 8, "batch_size": 5, "learning_rate": 1e-2},
    }
    study = TrainedStudy(tmp_path, name="nouns", sections=sections, trials=[])
    study.ledger.add_trial(0, {"learning_rate": 1e-6})
    study.ledger.add_trial(1, {"learning_rate": 1e-2})
    return study


def train(study: TrainedStudy, *, trial: int, fold: int, steps: int = 1000) -> None:
    claim = study.ledger.claim_run("worker", trial=trial, fold=fold, lease_seconds=60)
    assert claim is not None
    study.worker(Patience(steps)).train(claim)


def best(study: TrainedStudy) -> dict[str, Any]:
    """What `search best --json` prints; {} where there is nothing."""
    result = search("best", "--study", "nouns", "--storage", study.url, "--json")
    found = json.loads(result.output)
    assert result.exit_code == (0 if found else 1)
    return found or {}


def test_without_a_trained_epoch_there_is_nothing(study: TrainedStudy, tmp_path: Path):
    """Neither of a study that is begun, nor of one whose first epoch was left in its middle."""
    for steps in (0, STEPS // 2):
        train(study, trial=0, fold=0, steps=steps)
        assert best(study) == {}
        refused(
            study.export(tmp_path / "model"),
            "study 'nouns' has no trained epoch yet, so there is nothing to export; --baseline exports the TF-IDF "
            "baseline",
        )


def test_the_epochs_of_a_fold_make_a_model(study: TrainedStudy, tmp_path: Path):
    """The fold run with the best score by now, at its best epoch; the model says what it is, and predicts."""
    train(study, trial=0, fold=0, steps=9 * STEPS)
    train(study, trial=1, fold=1, steps=9 * STEPS)
    runs = study.runs(0)[0], study.runs(1)[1]
    assert [run.state for run in runs] == [FoldRunState.WAITING] * 2
    standing = {(record.trial, record.fold): record.standing for record in study.ledger.epochs()}
    assert standing[1, 1] > standing[0, 0]
    reason = f"no fold is trained to its end; fold 1 has {runs[1].num_epochs} epochs"
    found = best(study)
    assert [found[key] for key in ("provisional", "trial", "score", "reason")] == [True, 1, standing[1, 1], reason]
    result = study.export(tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert f"note: provisional: trial 1 is not complete, {reason}" in result.output
    description = read_description(tmp_path / "model")
    assert (description.provisional, description.fold_scores) == (reason, (standing[1, 1],))
    assert description.pooled["macro_f1"] == pytest.approx(standing[1, 1])
    assert "**Provisional**" in (tmp_path / "model" / "README.md").read_text()
    made = tmp_path / "predictions.csv"
    assert search("predict", "--model", tmp_path / "model", tmp_path / "data.csv", "--out", made).exit_code == 0
    assert len(made.read_text().splitlines()) == 31
    epochs = [record for record in study.ledger.epochs() if record.trial == 1]
    best_epoch = min(record.epoch for record in epochs if record.score == standing[1, 1])
    assert [member.epochs for member in description.members] == [best_epoch]
    assert study.export(tmp_path / "refit", "--form", "refit").exit_code == 0
    assert [member.epochs for member in read_description(tmp_path / "refit").members] == [best_epoch]


def test_a_checkpoint_that_is_replaced_meanwhile_is_looked_for_anew(
    study: TrainedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker goes on while the model is exported; the scores are those of the checkpoint that was read."""
    train(study, trial=1, fold=1, steps=3 * STEPS)
    get = Artifacts.get

    def get_late(artifacts: Artifacts, name: str) -> bytes:
        monkeypatch.setattr(Artifacts, "get", get)
        train(study, trial=1, fold=1, steps=6 * STEPS)
        return get(artifacts, name)

    monkeypatch.setattr(Artifacts, "get", get_late)
    result = study.export(tmp_path / "model")
    assert result.exit_code == 0, result.output
    description = read_description(tmp_path / "model")
    assert description.pooled["macro_f1"] == pytest.approx(description.fold_scores[0])


def test_folds_that_are_done_go_before_epochs(study: TrainedStudy, tmp_path: Path):
    """Of several trials the one that is expected to end best; one that is named is exported too."""
    train(study, trial=1, fold=2, steps=2 * STEPS)
    train(study, trial=0, fold=0)
    assert (best(study)["trial"], best(study)["reason"]) == (0, "1 of 3 folds are trained")
    train(study, trial=1, fold=0)
    train(study, trial=1, fold=1)
    assert (best(study)["trial"], best(study)["reason"]) == (1, "2 of 3 folds are trained")
    shown = search("best", "--study", "nouns", "--storage", study.url)
    assert "provisional macro_f1: " in " ".join(shown.output.split())
    for trial, folds in ((1, 2), (0, 1)):
        result = study.export(tmp_path / f"model-{trial}", "--trial", str(trial))
        assert result.exit_code == 0, result.output
        assert len(read_description(tmp_path / f"model-{trial}").members) == folds


def test_a_complete_trial_goes_before_all(study: TrainedStudy, tmp_path: Path):
    """However well others stand."""
    train(study, trial=1, fold=0)
    while (claim := claim_first(study.ledger, "worker", lease_seconds=60)) is not None and claim.trial == 0:
        study.worker(Patience(1000)).train(claim)
    study.ledger.finish_trial(0, TrialState.COMPLETE, score=0.1, std=0.1)
    assert (best(study)["provisional"], best(study)["trial"]) == (False, 0)
    assert study.export(tmp_path / "model").exit_code == 0
    assert read_description(tmp_path / "model").provisional is None
