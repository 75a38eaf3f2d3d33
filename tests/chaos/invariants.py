"""What has to hold of a finished study, whatever was done to it; read from its database, artifacts and tracker."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Event, EventKind, Failure, FoldRunState, StudyState, TrialState
from fold_search.storage.studies import TOLD_AS, close_study, open_study
from tests.chaos.study import NAME, Study

FINAL = {FoldRunState.DONE, FoldRunState.STOPPED, FoldRunState.FAILED}
Begun = Sequence[tuple[int, int, int, int]]  # token, trial, fold, epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What it cost: `lost_leases` were taken from workers that died or slept, `repeated` epochs begun once more."""

    epochs: int
    lost_leases: int
    repeated: int


def check(study: Study, *, complete: bool) -> Found:
    """Raise AssertionError where something does not hold; `complete`: no race stopped anything."""
    ledger = study.ledger()
    events = all_events(ledger)
    check_ledger(ledger, events, complete=complete)
    check_optuna(study, ledger)
    check_artifacts(study, ledger)
    assert "Traceback" not in study.output()
    if study.tracker:
        check_tracker(study.tracker.database, events)
    lost = [event for event in events if _is_lost(event)]
    repeated = count_repeated(events, study.log())
    return Found(epochs=len(ledger.epochs()), lost_leases=len(lost), repeated=repeated)


def all_events(ledger: Ledger) -> list[Event]:
    """Every event of the study."""
    events: list[Event] = []
    while page := ledger.events(after=len(events), limit=10_000):
        events += page
    return events


def check_ledger(ledger: Ledger, events: Sequence[Event], *, complete: bool) -> None:
    """Every fold run has ended once, by the last that claimed it, with each of its epochs once and in order."""
    assert ledger.study().state is StudyState.FINISHED
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    runs = ledger.fold_runs()
    assert len(runs) == 3 * ledger.study().config["budget"]["trials"]
    assert {run.state for run in runs} <= ({FoldRunState.DONE} if complete else FINAL)
    assert not [run for run in runs if run.expires_at is not None]
    assert not ledger.live_roles("")
    started = {(e.trial, e.fold): e.sequence for e in events if e.kind is EventKind.FOLD_STARTED}
    ends = Counter((e.trial, e.fold) for e in events if e.kind is EventKind.FOLD_FINISHED)
    assert ends == Counter((run.trial, run.fold) for run in runs)
    assert [run.token for run in runs] == [started.get((run.trial, run.fold), 0) for run in runs]
    order: defaultdict[tuple[int | None, int | None], list[int | None]] = defaultdict(list)
    for event in events:
        if event.kind is EventKind.EPOCH:
            order[event.trial, event.fold].append(event.epoch)
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in order.values())
    assert {(run.trial, run.fold): run.num_epochs for run in runs if run.num_epochs} == {
        where: len(epochs) for where, epochs in order.items()
    }
    assert Counter((e.trial, e.fold) for e in ledger.epochs()) == {where: len(found) for where, found in order.items()}
    # What the database says of the trials is what the events said of them, once each.
    said = Counter(e.trial for e in events if e.kind is EventKind.TRIAL_FINISHED)
    trials = ledger.trials()
    assert said == Counter(trial.number for trial in trials)
    assert all(trial.told and trial.state is not TrialState.RUNNING for trial in trials)
    if complete:
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def count_repeated(events: Sequence[Event], begun: Begun) -> int:
    """How many epochs were begun without being recorded; asserts that no claim of a fold run cost more than one.

    Each claim goes on after the last recorded epoch.
    """
    recorded: Counter[int] = Counter()
    first: dict[int, int] = {}
    current: dict[tuple[int | None, int | None], int] = {}
    for event in events:
        where = event.trial, event.fold
        if event.kind is EventKind.FOLD_STARTED:
            current[where] = event.sequence
            first[event.sequence] = event.payload["num_epochs"] + 1
        elif event.kind is EventKind.EPOCH:
            recorded[current[where]] += 1
    by_token: defaultdict[int, list[int]] = defaultdict(list)
    for token, _, _, epoch in begun:
        by_token[token].append(epoch)
    for token, epochs in by_token.items():
        assert epochs == list(range(first[token], first[token] + len(epochs))), (token, epochs, first[token])
        assert len(epochs) - recorded[token] in (0, 1), (token, epochs, recorded[token])
    return len(begun) - recorded.total()


def check_optuna(study: Study, ledger: Ledger) -> None:
    """Optuna knows the same trials, params, states and scores; none is left running.

    One that waits was asked for twice by coordinators that slept: it is the next if the budget grows.
    """
    record = ledger.study()
    optuna_study = open_study(study.url, name=NAME, direction=record.direction)
    waiting = optuna.trial.TrialState.WAITING
    told = [trial for trial in optuna_study.get_trials() if trial.state is not waiting]
    close_study(optuna_study)
    trials = ledger.trials()
    assert [(t.number, t.state, t.value if t.state is optuna.trial.TrialState.COMPLETE else None) for t in told] == [
        (trial.number, TOLD_AS[trial.state], trial.score) for trial in trials
    ]
    assert [trial.params for trial in told] == [trial.params for trial in trials]


def check_artifacts(study: Study, ledger: Ledger) -> None:
    """Every done fold run has its predictions, by the claim that ended it; no ended trial has a checkpoint left."""
    for run in ledger.fold_runs():
        if run.state is FoldRunState.DONE:
            assert run.predictions
            assert f"predictions-{run.token}." in run.predictions
            assert (study.artifacts / run.predictions).exists()
    if not study.postgres:
        with sqlite3.connect(study.folder / "search.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def left_over(study: Study) -> list[str]:
    """Files that nobody needs any more: checkpoints and half-written files of ended trials."""
    return sorted(path.name for path in study.artifacts.rglob("*checkpoint-*"))


def check_tracker(database: Path, events: Sequence[Event]) -> None:
    """MLflow has one run a trial, with every epoch's score once and the state that the trial ended with."""
    with sqlite3.connect(database) as connection:
        points = connection.execute(
            "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key LIKE 'fold%/score'"
        ).fetchall()
        states = connection.execute(
            "SELECT name, value FROM tags JOIN runs USING (run_uuid) WHERE key = 'search.state' AND name LIKE 'trial %'"
        ).fetchall()
    connection.close()
    assert sorted(points) == sorted(
        (f"trial {e.trial}", f"fold_{e.fold}/score", e.epoch, e.payload["score"])
        for e in events
        if e.kind is EventKind.EPOCH
    )
    ended = [(f"trial {e.trial}", str(e.payload["state"])) for e in events if e.kind is EventKind.TRIAL_FINISHED]
    assert sorted(states) == sorted(ended)


def outcome(ledger: Ledger) -> dict[str, Any]:
    """What an undisturbed run with the same seed gives too: params, every epoch's score, every trial's result."""
    return {
        "trials": [(t.number, t.params, t.state, t.score, t.std, t.pooled, t.fold_scores) for t in ledger.trials()],
        "epochs": [(e.trial, e.fold, e.epoch, e.score, e.standing) for e in ledger.epochs()],
    }


def _is_lost(event: Event) -> bool:
    return event.kind is EventKind.FOLD_RELEASED and event.payload["failure"] == Failure.LOST_WORKER
