"""A real ledger with a scripted study, and both trackers with a way to look at what they hold."""

from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from storage.database import connect, migrate
from storage.ledger import Ledger, create_study
from storage.records import EpochRecord, FoldRunState, TrialState

NUM_FOLDS = 2
NUM_EPOCHS = 3


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """A migrated ledger database."""
    engine = connect(sqlite_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """A study without trials."""
    return new_ledger(engine)


def new_ledger(engine: Engine, name: str = "spam", *, num_folds: int = NUM_FOLDS) -> Ledger:
    """The ledger of a study of that name."""
    record = create_study(
        engine,
        name=name,
        config={
            "study": {"metric": "macro_f1"},
            "data": {"path": "spam.csv", "label": "class", "text": ["text"]},
            "storage": {"url": "postgresql://ann:s3cret@db/search"},
        },
        metric="macro_f1",
        direction="maximize",
        fingerprints={"data": "d" * 64, "folds": "f" * 64, "config": "c" * 64},
        provenance={"python": "3.11.9", "packages": {"torch": "2.11"}, "git_commit": None},
        assignments=np.arange(10, dtype=np.int16) % num_folds,
    )
    return Ledger(engine, record.id)


def score_of(trial: int, fold: int, epoch: int) -> float:
    """The scripted curve."""
    return round(0.5 + 0.1 * trial + 0.01 * fold + 0.001 * epoch, 6)


def run_trial(ledger: Ledger, number: int, *, num_folds: int = NUM_FOLDS, num_epochs: int = NUM_EPOCHS) -> None:
    """A trial from its start to COMPLETE."""
    ledger.add_trial(number, {"training.learning_rate": 1e-4 * (number + 1), "training.loss": "focal"})
    scores = [run_fold(ledger, num_epochs=num_epochs) for _ in range(num_folds)]
    ledger.finish_trial(number, TrialState.COMPLETE, score=float(np.mean(scores)), std=float(np.std(scores)))


def run_fold(ledger: Ledger, *, num_epochs: int = NUM_EPOCHS) -> float:
    """The next waiting fold run from its claim to DONE; its score."""
    claim = ledger.claim("tester/0", lease_seconds=60)
    assert claim is not None
    for epoch in range(1, num_epochs + 1):
        score = score_of(claim.trial, claim.fold, epoch)
        metrics = {"train_loss": 1 / epoch, "val_loss": 1.1 / epoch, "val_macro_f1": score, "learning_rate": 1e-4}
        record = EpochRecord(trial=claim.trial, fold=claim.fold, epoch=epoch, score=score, metrics=metrics, seconds=0.1)
        ledger.record_epoch(claim, record, checkpoint=None)
    ledger.finish_fold(claim, FoldRunState.DONE, score=score, best_epoch=num_epochs)
    return score
