"""The database goes away, a connection breaks, clocks disagree: what a worker and the coordinator make of it."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

import fold_search.search.running.coordinator
import fold_search.search.running.run
from fold_search.search.running import worker_process
from fold_search.search.running.coordinator import ROLE_SECONDS
from fold_search.search.running.run import PATIENCE_SECONDS, RunLoop
from fold_search.search.study.attended import COORDINATOR_ROLE
from fold_search.storage import database
from fold_search.storage.errors import StorageUnavailable
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind, FoldRunState, StudyState, TrialState
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

Studies = Callable[..., ScriptedStudy]


def rising(trial: int, fold: int) -> list[float | Exception]:
    return [0.2, 0.4, 0.6]


class Broken(Ledger):
    """The connection breaks once at every epoch: before the commit, or after it."""

    def record_epoch(self, *arguments: Any, **options: Any) -> TrialState:
        broken = self.__dict__.setdefault("broken", set())
        epoch = arguments[1].epoch
        if epoch not in broken:
            broken.add(epoch)
            if epoch % 2:
                super().record_epoch(*arguments, **options)
            raise StorageUnavailable("server closed the connection unexpectedly")
        return super().record_epoch(*arguments, **options)


def test_a_connection_that_breaks_at_an_epoch_costs_no_epoch(scripted_study: Studies):
    """Whether the commit got through or not, the epoch is recorded once and not trained again."""
    study = scripted_study(race={"rule": "none"})
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    study.ledger = Broken(study.ledger.engine, study.ledger.study_id)
    script = Script(rising)
    worker = study.worker(script)
    worker.train(worker.claim())
    assert script.trained == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert [record.epoch for record in study.ledger.epochs()] == [1, 2, 3]
    assert study.ledger.fold_runs()[0].state is FoldRunState.DONE


def test_a_write_lock_held_longer_than_writers_wait_is_outlived(scripted_study: Studies, tmp_path, monkeypatch):
    """A worker waits as it waits for a database that is away, and goes on with the epoch in hand."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    study.coordinator().step()
    study.ledger = Ledger(database.connect(study.url, patience_seconds=30), study.ledger.study_id)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
    script = Script(rising)

    def lock(trial: int, fold: int, epoch: int) -> None:
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(1.0, lambda: holder.execute("ROLLBACK")).start()

    script.on_epoch = lock
    worker = study.worker(script)
    worker.train(worker.claim())
    assert study.ledger.fold_runs()[0].state is FoldRunState.DONE
    assert len(script.trained) == 3


def test_a_worker_that_finds_no_database_for_a_while_claims_later(scripted_study: Studies):
    """A connection that breaks between two fold runs ends no worker; one that stays broken does."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    study.coordinator().step()
    breaks = iter([True, True, False])

    class Away(Ledger):
        def last_sequence(self) -> int:
            if next(breaks, False):
                raise StorageUnavailable("the connection broke")
            return super().last_sequence()

    study.ledger = Away(study.ledger.engine, study.ledger.study_id)
    script = Script(rising)
    script.on_epoch = lambda *_: study.stop.set()
    study.worker(script).work()
    assert len(script.trained) == 1
    study.stop.clear()
    breaks = iter([True] * 10)
    with pytest.raises(StorageUnavailable):
        study.worker(script).work()


def test_a_worker_waits_at_least_five_minutes_for_its_database():
    """The bound of every read and write of a worker, and of the run's own loop."""
    assert worker_process.PATIENCE_SECONDS >= 300


def test_a_run_that_gives_up_says_that_the_same_command_continues(monkeypatch):
    """It has said before for how long it tries."""
    seconds = 0.0
    monkeypatch.setattr(fold_search.search.running.run, "time", SimpleNamespace(monotonic=lambda: seconds))
    said: list[str] = []

    def step() -> bool:
        raise StorageUnavailable("the database is locked")

    parts: dict[str, Any] = {"coordinator": SimpleNamespace(step=step), "progress": SimpleNamespace(say=said.append)}
    going = RunLoop(ledger=None, engine=None, counter=None, baselines=None, meter=None, **parts)
    assert going.once()
    seconds += PATIENCE_SECONDS
    assert going.once()
    assert said == [f"the database is locked; trying again for up to {PATIENCE_SECONDS:.0f} s; nothing is lost"]
    seconds += 1
    message = f"is locked; gave up after {PATIENCE_SECONDS:.0f} s; the same command continues the study"
    with pytest.raises(StorageUnavailable, match=message):
        going.once()


def test_a_fold_run_that_gets_further_never_uses_its_attempts_up(scripted_study: Studies):
    """A worker that dies in every epoch costs time alone; one that never gets through an epoch ends the trial."""
    study = scripted_study(race={"rule": "none"}, training={"epochs": 8})
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    worker = study.worker(Script(lambda trial, fold: [0.1] * 8))
    for _ in range(7):
        claim = study.ledger.claim_run("mortal", trial=0, fold=0, lease_seconds=-1)
        training = worker.objective(claim)
        training.epoch = claim.num_epochs
        study.ledger.record_epoch(claim, next(training.epochs()), checkpoint=f"checkpoint-{claim.token}")
        study.ledger.expire_leases(max_attempts=3)
    assert study.ledger.fold_runs()[0].state is FoldRunState.WAITING
    for _ in range(3):
        study.ledger.claim_run("mortal", trial=0, fold=0, lease_seconds=-1)
        study.ledger.expire_leases(max_attempts=3)
    assert study.ledger.fold_runs()[0].state is FoldRunState.FAILED


def test_an_expired_lease_is_noticed_within_seconds_though_no_trial_starts(scripted_study: Studies, monkeypatch):
    """The budget is asked for; the coordinator looks all the same, at its next renewal."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    coordinator = study.coordinator()
    coordinator.step()
    study.ledger.claim_run("dead", trial=0, fold=0, lease_seconds=-1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 5)
    coordinator.step()
    assert study.ledger.fold_runs()[0].state is FoldRunState.WAITING


def test_after_an_outage_workers_may_renew_before_their_leases_are_taken(scripted_study: Studies, monkeypatch):
    """The coordinator was away for longer than a lease, and so was perhaps the database, for everybody."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    coordinator = study.coordinator()
    coordinator.step()
    study.ledger.claim_run("alive", trial=0, fold=0, lease_seconds=-1)
    now = time.time()
    for seconds, state in ((100, "leased"), (101 + ROLE_SECONDS / 2, "leased"), (102 + ROLE_SECONDS, "waiting")):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        coordinator.step()
        assert study.ledger.fold_runs()[0].state == state


def test_a_coordinator_that_wakes_up_late_leaves_what_another_has_told(scripted_study: Studies, monkeypatch):
    """It slept in the middle of a step, past its lease: what it meant to report is refused, and it looks anew."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 2})
    late, worker = study.coordinator("late"), study.worker(Script(rising))
    late.step()
    worker.train(worker.claim())
    trials, runs, now = late.ledger.trials(told=False), late.ledger.fold_runs(), time.time()
    late.leave()
    study.run(Script(rising), study.coordinator("next"))
    study.ledger.reopen_study()
    study.ledger.release_role(COORDINATOR_ROLE, "next")
    with monkeypatch.context() as patch:
        patch.setattr(late.ledger, "trials", lambda *, told: trials)
        patch.setattr(late.ledger, "fold_runs", lambda *, trials: [run for run in runs if run.trial in trials])
        patch.setattr(time, "time", lambda: now + 5)  # the role is to be renewed
        assert late.step()
        assert late.leading
    assert [trial.state for trial in study.ledger.trials()] == [TrialState.COMPLETE] * 2


def test_a_command_that_does_not_lead_gives_back_what_its_dead_workers_held(scripted_study: Studies):
    """Another process coordinates; the fold run need not wait for its lease to lapse."""
    study = scripted_study()
    study.coordinator("leader").step()
    assert claim_first(study.ledger, "dead worker", lease_seconds=600)
    engine = SimpleNamespace(tend=lambda: ["dead worker"])
    progress = SimpleNamespace(update=lambda: None)
    run = RunLoop(
        ledger=study.ledger,
        coordinator=study.coordinator("other"),
        engine=engine,
        progress=progress,
        meter=SimpleNamespace(look=lambda: None),
        counter=None,
        baselines=SimpleNamespace(tend=lambda: None),
    )
    assert run.once()
    assert study.ledger.fold_runs()[0].state is FoldRunState.WAITING


@pytest.mark.parametrize("slept_in", ["next_number", "make_sampler", "ask_afresh", "suggest"])
def test_a_coordinator_that_sleeps_while_it_asks_adds_no_trial_of_its_own(
    slept_in: str, scripted_study: Studies, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """Another one asked for the next trial meanwhile; the study has the trials of an undisturbed one."""
    calm, study = scripted_study(), ScriptedStudy(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other")
    calm.run(Script(rising))
    late, following = study.coordinator("late"), study.coordinator("following")
    late.step()
    worker = study.worker(Script(rising))
    while claim := worker.claim():
        worker.train(claim)
    real = getattr(fold_search.search.running.coordinator, slept_in)

    def slow(*arguments, **options):
        monkeypatch.setattr(fold_search.search.running.coordinator, slept_in, real)
        study.ledger.release_role(COORDINATOR_ROLE, "late")
        following.step()
        return real(*arguments, **options)

    monkeypatch.setattr(fold_search.search.running.coordinator, slept_in, slow)
    assert late.step()
    assert not late.step() or not late.leading
    study.run(Script(rising), following)
    assert [trial.params for trial in study.ledger.trials()] == [trial.params for trial in calm.ledger.trials()]
    told = optuna.load_study(study_name="scripted", storage=study.url).get_trials()
    assert [trial.params for trial in told] == [trial.params for trial in calm.ledger.trials()]


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"])
def test_clocks_that_disagree_take_no_lease(
    database_kind: str, request: pytest.FixtureRequest, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """Every look at the machine's clock is days off, another way each time: the database's clock decides."""
    url = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[database_kind])
    study = ScriptedStudy(url, tmp_path, race={"rule": "none"}, budget={"trials": 2})
    off, now = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + off.uniform(-1e6, 1e6))
    coordinator = study.coordinator()
    study.run(Script(rising), coordinator)
    assert study.ledger.study().state is StudyState.FINISHED
    kinds = [event.kind for event in study.ledger.events(limit=1000)]
    assert kinds.count(EventKind.FOLD_STARTED) == kinds.count(EventKind.FOLD_FINISHED) == 6
    assert EventKind.FOLD_RELEASED not in kinds
    coordinator.leave()
    study.ledger.engine.dispose()
