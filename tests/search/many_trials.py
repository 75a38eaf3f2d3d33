"""A study with any number of trials, written into the tables at once."""

import io
from itertools import count
from pathlib import Path

import numpy as np

from fold_search.objectives.data.dataset import read_dataset
from fold_search.search.study.config import StudyConfig, to_record
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate, writing
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind, FoldRunState, TrialState
from fold_search.storage.tables import CounterRow, EpochRow, EventRow, FoldRunRow, Table, TrialRow

NUM_FOLDS, NUM_EPOCHS, NUM_ROWS = 5, 10, 100
STORED = "predictions.npy"
METRICS = {"train_loss": 0.5, "val_loss": 0.6, "train_loss_running": 0.7, "val_macro_f1": 0.5, "val_accuracy": 0.6}


def write_many(folder: Path, num_trials: int, *, name: str = "many") -> str:
    """Write a finished study, a tenth of its trials complete and the others stopped; returns its database."""
    url = f"sqlite:///{folder / 'many.db'}"
    config = StudyConfig.model_validate(
        {
            "data": {"path": folder / "data.csv", "label": "label", "text": "text"},
            "model": {"encoder": "none"},
            "training": {"epochs": NUM_EPOCHS},
            "space": {
                "dropout": {"low": 0.0, "high": 0.5},
                "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
                "label_smoothing": {"low": 0.0, "high": 0.2},
                "weight_decay": {"low": 0.0, "high": 0.1},
                "loss": ["cross_entropy", "focal", "dice"],
                "sampler": ["none", "minority_over"],
            },
            "folds": {"k": NUM_FOLDS},
            "budget": {"trials": num_trials},
            "storage": {"url": url, "artifacts": str(folder / "artifacts")},
        }
    )
    rows = "".join(f"text {number},{'abcd'[number % 4]}\n" for number in range(NUM_ROWS))
    (folder / "data.csv").write_text(f"text,label\n{rows}")
    _store_predictions(Artifacts(config.storage.artifacts))
    engine = connect(url)
    migrate(engine)
    record = create_study(
        engine,
        name=name,
        config=to_record(config),
        metric="macro_f1",
        direction="maximize",
        fingerprints={"data": read_dataset(config.data).fingerprint},
        provenance={"rows": NUM_ROWS, "classes": 4},
        assignments=np.arange(NUM_ROWS, dtype=np.int16) % NUM_FOLDS,
    )
    tables = _rows(record.id, num_trials, since=record.created_at)
    with writing(engine) as connection:
        for table, rows in tables.items():
            connection.execute(table.__table__.insert(), rows)
        last = len(tables[EventRow]) + 1
        connection.execute(CounterRow.__table__.update().values(last_sequence=last))
    assert Ledger(engine, record.id).last_sequence() == last
    return url


def _store_predictions(artifacts: Artifacts) -> None:
    """One file for every fold of every complete trial."""
    buffer = io.BytesIO()
    predictions = np.random.default_rng(0).dirichlet(np.ones(4), size=NUM_ROWS // NUM_FOLDS)
    np.save(buffer, predictions.astype(np.float32))
    artifacts.put(STORED, buffer.getvalue())


def _rows(study: int, num_trials: int, *, since: float) -> dict[type[Table], list[dict[str, object]]]:
    rng, sequences = np.random.default_rng(0), count(2)
    trials, runs, epochs, events = [], [], [], []
    for number in range(num_trials):
        params = {
            "dropout": float(rng.uniform(0, 0.5)),
            "learning_rate": float(10 ** rng.uniform(-5, -2)),
            "label_smoothing": float(rng.uniform(0, 0.2)),
            "weight_decay": float(rng.uniform(0, 0.1)),
            "loss": str(rng.choice(["cross_entropy", "focal", "dice"])),
            "sampler": str(rng.choice(["none", "minority_over"])),
        }
        level = 0.7 - 0.1 * (np.log10(params["learning_rate"]) + 3.5) ** 2
        complete = bool(rng.random() < 0.1) or number == 0
        trained = [NUM_EPOCHS] * NUM_FOLDS if complete else [int(rng.integers(1, NUM_EPOCHS)), *[0] * (NUM_FOLDS - 1)]
        finals = []
        for fold, num_epochs in enumerate(trained):
            final = float(level + rng.normal(0, 0.02))
            for epoch in range(1, num_epochs + 1):
                score = final - 0.3 / epoch
                measured = {"score": score, "standing": score, "metrics": METRICS, "seconds": 1.0}
                epochs.append({"study_id": study, "trial": number, "fold": fold, "epoch": epoch} | measured)
            finals.append(final - 0.3 / NUM_EPOCHS)
            done = {"state": FoldRunState.DONE, "score": finals[-1], "best_epoch": num_epochs, "predictions": STORED}
            runs.append(_run(study, number, fold) | {"num_epochs": num_epochs} | (done if complete else {}))
        score = float(np.mean(finals)) if complete else None
        state = TrialState.COMPLETE if complete else TrialState.STOPPED
        ended = {"score": score, "std": 0.02 if complete else None, "pooled": score, "state": state}
        reason = None if complete else "0.4% chance to beat 0.6900 of trial 0, the best one"
        trials.append(
            {"study_id": study, "number": number, "params": params, "estimate": None, "reason": reason, "told": True}
            | {"chance": None if complete else 0.004, "audited": False, "failure": None, "finished_at": since + number}
            | ended
        )
        at = {"study_id": study, "trial": number, "epoch": None, "at": since + number + 1}
        paused = {"state": "paused", "reason": "another trial is worth more", "failure": None, "owner": "worker"}
        events.append(at | {"kind": EventKind.FOLD_RELEASED, "fold": 0, "payload": paused, "sequence": next(sequences)})
        events.append(at | {"kind": EventKind.TRIAL_FINISHED, "fold": None, "payload": {}, "sequence": next(sequences)})
    return {TrialRow: trials, FoldRunRow: runs, EpochRow: epochs, EventRow: events}


def _run(study: int, trial: int, fold: int) -> dict[str, object]:
    return {
        "study_id": study,
        "trial": trial,
        "fold": fold,
        "state": FoldRunState.STOPPED,
        "owner": "worker",
        "token": 1,
        "expires_at": None,
        "attempt": 1,
        "reason": None,
        "score": None,
        "best_epoch": None,
        "checkpoint": None,
        "predictions": None,
        "sample": None,
        "seconds": 1.0,
        "failure": None,
    }
