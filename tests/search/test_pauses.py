"""A fold run that is paused and continued scores what it would have scored without: a real encoder, a real study."""

import csv
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from fold_search.search.racing.live import live_race
from fold_search.search.racing.verdicts import Decision, Verdict
from fold_search.search.running.objective import Objective
from fold_search.search.running.worker import Worker
from fold_search.search.study.rows import StudyRows
from fold_search.storage.records import FoldRunState
from tests.search.scripted import ScriptedRace, least_trained
from tests.search.trained import TrainedStudy
from tests.tiny_encoder import TEXTS, build_tiny_encoder

PARAMS = {"learning_rate": 3e-3, "dropout": 0.2}
PAUSE = Verdict(decision=Decision.PAUSE, reason="others promise more", chance=0.1)


def trained(folder: Path) -> TrainedStudy:
    """A study of three epochs whose one trial was trained without a pause; dropout and batches are drawn at random."""
    chance = random.Random(0)
    words = " ".join(TEXTS).split()
    with (folder / "data.csv").open("w", newline="") as file:
        rows = [(" ".join(chance.choices(words, k=6)), chance.choice("aab")) for _ in range(36)]
        csv.writer(file).writerows([("text", "label"), *rows])
    encoder = build_tiny_encoder(folder / "encoder")
    sections = {
        "data": {"path": str(folder / "data.csv"), "label": "label", "text": "text"},
        "model": {"encoder": str(encoder), "max_length": 16},
        "training": {"epochs": 3, "batch_size": 8},
    }
    return TrainedStudy(folder, name="paused", sections=sections, trials=[PARAMS])


def test_pauses_change_no_score_and_no_prediction(tmp_path: Path):
    """Paused after every epoch of every fold, and continued each time by a worker that knows nothing of it."""
    study = trained(tmp_path)
    study.ledger.add_trial(1, PARAMS)
    pauses = {(1, fold, epoch): PAUSE for fold in range(3) for epoch in (1, 2)}
    race = ScriptedRace(verdicts=pauses, choose=least_trained)
    while (claim := new_worker(study, race).claim()) is not None:
        new_worker(study, race).train(claim)
    released = [event for event in study.ledger.events() if event.payload.get("state") == FoldRunState.PAUSED]
    assert len(released) == 6
    calm, paused = (study.ledger.epochs(trial=trial) for trial in (0, 1))
    assert [(e.fold, e.epoch, e.score, e.metrics["val_loss"]) for e in paused] == [
        (e.fold, e.epoch, e.score, e.metrics["val_loss"]) for e in calm
    ]
    for one, other in zip(study.runs(0), study.runs(1), strict=True):
        assert (one.score, one.best_epoch) == (other.score, other.best_epoch)
        assert study.artifacts.get(one.predictions) == study.artifacts.get(other.predictions)
    assert len({e.metrics["val_loss"] for e in calm}) == len(calm)
    assert np.isfinite([e.score for e in calm]).all()


def new_worker(study: TrainedStudy, policy: ScriptedRace) -> Worker:
    return Worker(
        ledger=study.ledger,
        artifacts=study.artifacts,
        objective=Objective(StudyRows(ledger=study.ledger, config=study.config), device="cpu"),
        race=replace(live_race(study.ledger, study.config), policy=policy),
        owner="worker",
        stop=threading.Event(),
    )
