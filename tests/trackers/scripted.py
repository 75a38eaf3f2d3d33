"""Studies on a real ledger whose trials follow a script instead of a training."""

import numpy as np
from sqlalchemy import Engine

from fold_search.storage.ledger import Ledger, create_study
from fold_search.storage.records import BaselineRecord, EpochRecord, Failure, FoldRunState, TrialState
from tests.claims import claim_first

NUM_FOLDS = 2
NUM_EPOCHS = 3
SECRET = "s3cret"


def new_ledger(engine: Engine, name: str = "spam", *, num_folds: int = NUM_FOLDS) -> Ledger:
    """The ledger of a study of that name, whose config has a secret that no tracker may show."""
    record = create_study(
        engine,
        name=name,
        config={
            "study": {"metric": "macro_f1"},
            "data": {"path": "spam.csv", "label": "class", "text": ["text"]},
            "storage": {"url": f"postgresql://ann:{SECRET}@db/search"},
        },
        metric="macro_f1",
        direction="maximize",
        fingerprints={"data": "d" * 64, "folds": "f" * 64, "config": "c" * 64},
        provenance={"python": "3.11.9", "packages": {"torch": "2.11"}, "git_commit": None},
        assignments=np.arange(10, dtype=np.int16) % num_folds,
    )
    return Ledger(engine, record.id)


def score_of(trial: int, fold: int, epoch: int) -> float:
    """What the script scores."""
    return round(0.5 + 0.01 * trial + 0.001 * fold + 0.0001 * epoch, 6)


def curve_of(trial: int, fold: int) -> list[tuple[float, float]]:
    """The script's (epoch, score) of a fold."""
    return [(epoch, score_of(trial, fold, epoch)) for epoch in range(1, NUM_EPOCHS + 1)]


def start_trial(ledger: Ledger, number: int) -> None:
    """Add a trial with a number and a choice as params."""
    ledger.add_trial(number, {"learning_rate": 1e-4 * (number + 1), "loss": "focal"})


def record_epochs(ledger: Ledger, *scores: float, num_epochs: int = NUM_EPOCHS) -> float:
    """Claim the next fold run, record the scores or the script's, and end it as done; returns the last score."""
    claim = claim_first(ledger, "tester/0", lease_seconds=60)
    assert claim is not None
    scores = scores or tuple(score_of(claim.trial, claim.fold, epoch) for epoch in range(1, num_epochs + 1))
    for epoch, score in enumerate(scores, start=1):
        metrics = {"train_loss": 1 / epoch, "val_loss": 1.1 / epoch, "val_macro_f1": score, "learning_rate": 1e-4}
        record = EpochRecord(
            trial=claim.trial, fold=claim.fold, epoch=epoch, score=score, standing=score, metrics=metrics, seconds=0.1
        )
        ledger.record_epoch(claim, record, checkpoint=None)
    ledger.finish_fold(claim, FoldRunState.DONE, score=scores[-1], best_epoch=len(scores))
    return scores[-1]


def run_trial(ledger: Ledger, number: int, *, num_folds: int = NUM_FOLDS, num_epochs: int = NUM_EPOCHS) -> None:
    """A trial from its start to its end as complete."""
    start_trial(ledger, number)
    scores = [record_epochs(ledger, num_epochs=num_epochs) for _ in range(num_folds)]
    ledger.finish_trial(number, TrialState.COMPLETE, score=float(np.mean(scores)), std=float(np.std(scores)))


BASELINE = BaselineRecord(
    name="tf-idf", label="TF-IDF", score=0.5, std=0.01, pooled=0.49, fold_scores=(0.49, 0.51), seconds=2.0
)


def stop_trial(ledger: Ledger, number: int) -> None:
    """A trial that the race stops in its second fold, before its first epoch there."""
    start_trial(ledger, number)
    record_epochs(ledger)
    claim = claim_first(ledger, "tester/0", lease_seconds=60)
    assert claim is not None
    ledger.stop_trial(claim, reason="worse than trial 0")
    ledger.finish_trial(number, TrialState.STOPPED, estimate=0.25)


def fail_trial(ledger: Ledger, number: int) -> None:
    """A trial whose first fold fails before its first epoch."""
    start_trial(ledger, number)
    claim = claim_first(ledger, "tester/0", lease_seconds=60)
    assert claim is not None
    ledger.note_rows(claim, device="cpu", shape="training: {}", rows=4)
    reason = f"no answer from http://ann:{SECRET}@host"
    ledger.finish_fold(claim, FoldRunState.FAILED, reason=reason, failure=Failure.CODE_ERROR)
    ledger.finish_trial(number, TrialState.FAILED)
