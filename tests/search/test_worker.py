"""The worker against a real ledger: what it records, and what it does when something goes wrong."""

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from fold_search.objectives.errors import Diverged, TrialError
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.cache import publish
from fold_search.search.racing.matrix import Matrix
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.running import worker_process
from fold_search.storage.errors import StorageError
from fold_search.storage.records import Claim, EventKind, FoldRun, FoldRunState, TrialState
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script, ScriptedRace, ScriptedTraining, least_trained, waits

Studies = Callable[..., ScriptedStudy]


def claimed(study: ScriptedStudy, owner: str = "worker") -> Claim:
    claim = claim_first(study.ledger, owner, lease_seconds=60)
    assert claim is not None
    return claim


def begun(study: ScriptedStudy) -> ScriptedStudy:
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    return study


def fold_run(study: ScriptedStudy, fold: int = 0) -> FoldRun:
    return next(run for run in study.ledger.fold_runs() if run.fold == fold)


def test_a_fold_run_is_recorded_epoch_by_epoch_and_its_best_epoch_counts(scripted_study: Studies):
    """The score is the best epoch's, and its predictions are kept."""
    study = begun(scripted_study())
    study.worker(Script(lambda trial, fold: [0.2, 0.6, 0.4])).train(claimed(study))
    run = fold_run(study)
    assert (run.state, run.score, run.best_epoch, run.num_epochs) == (FoldRunState.DONE, 0.6, 2, 3)
    assert [record.score for record in study.ledger.epochs()] == [0.2, 0.6, 0.4]
    predictions = io.BytesIO(study.artifacts.get(run.predictions))
    assert np.load(predictions, allow_pickle=False)["predictions"][0, 0] == np.float32(0.6)


def test_two_checkpoints_are_kept_at_most_and_none_after_the_end(scripted_study: Studies, tmp_path):
    """A study of many epochs does not fill the disk."""
    study = begun(scripted_study())
    kept = []
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6, 0.8])
    script.on_epoch = lambda *_: kept.append(len(list(tmp_path.rglob("*.safetensors"))))
    study.worker(script).train(claimed(study))
    assert kept == [0, 1, 2, 2]
    assert [path.name.partition("-")[0] for path in tmp_path.rglob("*.safetensors")] == ["model"]


def test_a_stop_gives_the_fold_run_back_and_the_next_worker_continues_it(scripted_study: Studies):
    """Every epoch is trained once over both workers."""
    study = begun(scripted_study())
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    script.on_epoch = lambda trial, fold, epoch: study.stop.set() if epoch == 2 else None
    study.worker(script).train(claimed(study))
    assert fold_run(study).state is FoldRunState.WAITING
    study.stop.clear()
    study.worker(script).train(claimed(study))
    assert fold_run(study).state is FoldRunState.DONE
    assert script.trained == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]


def test_a_worker_whose_lease_was_lost_writes_nothing_more(scripted_study: Studies):
    """Another worker took the fold run over while this one slept; only the other one's epochs count."""
    study = begun(scripted_study())
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    claim = claimed(study, "sleeper")

    def lose_it(trial: int, fold: int, epoch: int) -> None:
        if epoch == 2:
            study.ledger.release_owner("sleeper", reason="its worker died")

    script.on_epoch = lose_it
    study.worker(script, owner="sleeper").train(claim)
    assert (fold_run(study).state, fold_run(study).num_epochs) == (FoldRunState.WAITING, 1)


def test_diverged_training_stops_the_trial_with_its_reason(scripted_study: Studies):
    """The other folds are not tried."""
    study = begun(scripted_study())
    study.worker(Script(lambda *_: [0.2, Diverged("the loss is nan in epoch 2")])).train(claimed(study))
    [trial] = study.ledger.trials()
    assert (trial.state, trial.reason) == (TrialState.STOPPED, "diverged: the loss is nan in epoch 2")
    assert {run.state for run in study.ledger.fold_runs()} == {FoldRunState.STOPPED}


@pytest.mark.parametrize("error", [TrialError("no memory left"), KeyError("a bug")])
def test_a_trial_that_cannot_be_trained_fails_and_the_worker_goes_on(scripted_study: Studies, error: Exception):
    """The reason is recorded with the trial."""
    study = begun(scripted_study())
    study.worker(Script(lambda *_: [error])).train(claimed(study))
    [trial] = study.ledger.trials()
    assert trial.state is TrialState.FAILED
    assert str(error.args[0]) in (trial.reason or "")


@pytest.mark.parametrize(
    "error", [StorageError("artifacts: the disk is full"), OSError(errno.ENOSPC, "No space left on device", "cache")]
)
def test_a_full_disk_gives_the_fold_run_back_and_ends_the_worker(scripted_study: Studies, error: Exception):
    """It is not the configuration's fault: what was recorded stays, and the user is told."""
    study = begun(scripted_study())
    script = Script(lambda *_: [0.2, 0.4, 0.6])

    def full(trial: int, fold: int, epoch: int) -> None:
        if epoch == 2:
            raise error

    script.on_epoch = full
    with pytest.raises(StorageError, match=r"^(artifacts|cache): the disk is full$"):
        study.worker(script).train(claimed(study))
    assert (fold_run(study).state, fold_run(study).num_epochs) == (FoldRunState.WAITING, 1)


def paused(chance: float = 0.25) -> Verdict:
    return Verdict(decision=Decision.PAUSE, reason="others promise more", chance=chance)


def test_a_paused_fold_run_keeps_its_checkpoint_and_is_continued_where_it_was(scripted_study: Studies, tmp_path):
    """Every epoch is trained once; the chance that was stated stays with the trial, the checkpoint goes at the end."""
    study = begun(scripted_study())
    study.policy = ScriptedRace(verdicts={(0, 0, 2): paused()}, choose=waits)
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    worker = study.worker(script)
    worker.train(worker.claim())
    run = fold_run(study)
    assert (run.state, run.num_epochs, run.reason) == (FoldRunState.PAUSED, 2, "others promise more")
    assert study.artifacts.exists(run.checkpoint)
    assert study.ledger.trials()[0].chance == 0.25
    assert worker.claim() is None
    worker.train(study.ledger.claim_run("other", trial=0, fold=0, lease_seconds=60))
    assert (fold_run(study).state, fold_run(study).score) == (FoldRunState.DONE, 0.6)
    assert script.trained == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_pause_after_which_the_same_would_be_chosen_is_none(scripted_study: Studies):
    """No checkpoint is read back for nothing."""
    study = begun(scripted_study())
    study.policy = ScriptedRace(verdicts={(0, 0, 2): paused()}, choose=least_trained)
    for fold in (1, 2):
        claim = study.ledger.claim_run("done", trial=0, fold=fold, lease_seconds=60)
        study.ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)
    worker = study.worker(Script(lambda trial, fold: [0.2, 0.4, 0.6]))
    worker.train(worker.claim())
    assert EventKind.FOLD_RELEASED not in [event.kind for event in study.ledger.events()]


def test_a_pause_after_the_last_epoch_or_a_fold_s_end_ends_the_fold(scripted_study: Studies):
    """Nothing is left to pause; the trial's next fold is trained when the race chooses it."""
    study = begun(scripted_study())
    study.policy = ScriptedRace(verdicts={(0, 0, 3): paused()})
    worker = study.worker(Script(lambda trial, fold: [0.2, 0.4, 0.6]))
    worker.train(worker.claim())
    assert [run.state for run in study.ledger.fold_runs()] == [FoldRunState.DONE, *[FoldRunState.WAITING] * 2]
    assert study.ledger.trials()[0].chance == 0.25


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_stop_is_recorded_with_its_chance(scripted_study: Studies, epochs: int):
    """Within a fold and at its end."""
    study = begun(scripted_study())
    study.policy = ScriptedRace(
        verdicts={(0, 0, epochs): Verdict(decision=Decision.STOP, reason="behind", chance=0.125)}
    )
    worker = study.worker(Script(lambda trial, fold: [0.2, 0.4, 0.6]))
    worker.train(worker.claim())
    [trial] = study.ledger.trials()
    assert (trial.state, trial.reason, trial.chance) == (TrialState.STOPPED, "behind", 0.125)
    assert fold_run(study).num_epochs == epochs


def test_an_audited_trial_runs_on_and_is_recorded_once(scripted_study: Studies):
    """The chance is that of the first stop that it was kept from."""
    study = begun(scripted_study())
    study.policy = ScriptedRace(
        verdicts={
            (0, 0, epoch): Verdict(decision=Decision.CONTINUE, reason="behind", chance=0.1 / epoch, audited=True)
            for epoch in (1, 2)
        }
    )
    worker = study.worker(Script(lambda trial, fold: [0.2, 0.4, 0.6]))
    worker.train(worker.claim())
    assert fold_run(study).state is FoldRunState.DONE
    assert (study.ledger.trials()[0].audited, study.ledger.trials()[0].chance) == (True, 0.1)
    assert [event.kind for event in study.ledger.events()].count(EventKind.TRIAL_AUDITED) == 1


def test_a_worker_trains_what_the_race_chooses(scripted_study: Studies):
    """A later fold of a later trial first, if that is the race's choice."""
    study = begun(scripted_study())
    study.ledger.add_trial(1, {"learning_rate": 1e-3})
    study.policy = ScriptedRace(choose=lambda matrix: Choice(action=Action.RUN, trial=1, fold=2))
    worker = study.worker(Script(lambda trial, fold: [0.5]))
    claim = worker.claim()
    assert claim is not None
    assert (claim.trial, claim.fold, claim.params) == (1, 2, {"learning_rate": 1e-3})
    assert worker.claim() is None  # the race's choice is somebody's by now


class Polled(threading.Event):
    """A stop that counts how often a worker waits for it, and does not let it wait for long."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(0.01)

    def outlast(self, *, waits: int) -> None:
        """Return once a worker has waited so many times more."""
        enough = self.waits + waits
        while self.waits < enough:
            time.sleep(0.01)


@pytest.mark.parametrize("action", [Action.WAIT, Action.START, Action.END])
def test_a_worker_without_work_asks_again_only_when_something_has_happened(scripted_study: Studies, action: Action):
    """It writes nothing, and leaves when the study is finished."""
    study = begun(scripted_study())
    asked = []

    def choose(matrix: Matrix) -> Choice:
        asked.append(len(matrix.numbers))
        return Choice(action=action)

    study.policy = ScriptedRace(choose=choose)
    sequence = study.ledger.last_sequence()
    study.stop = Polled()
    thread = threading.Thread(target=study.worker(Script(lambda *_: [0.5])).work)
    thread.start()
    study.stop.outlast(waits=5)
    assert (asked, study.ledger.last_sequence()) == ([1], sequence)
    study.ledger.add_trial(1, {})
    study.stop.outlast(waits=5)
    assert asked == [1, 2]
    study.ledger.finish_study("enough")
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_two_workers_that_choose_the_same_both_find_work(scripted_study: Studies):
    """The slower one asks the race again: all fold runs are trained once, each epoch by one worker."""
    study = begun(scripted_study(race={"rule": "none"}))
    for number in (1, 2):
        study.ledger.add_trial(number, {})
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    script.on_epoch = lambda *_: time.sleep(0.01)
    workers = [threading.Thread(target=study.worker(script, owner=name).work) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    while any(run.state is not FoldRunState.DONE for run in study.ledger.fold_runs()) and time.monotonic() < deadline:
        time.sleep(0.1)
    study.ledger.finish_study("enough")
    for worker in workers:
        worker.join(timeout=20)
    assert sorted(script.trained) == [
        (trial, fold, epoch) for trial in range(3) for fold in range(3) for epoch in (1, 2, 3)
    ]
    assert {run.owner for run in study.ledger.fold_runs()} == {"one", "two"}


@pytest.mark.parametrize(("told", "code"), [([], worker_process.FINISHED), ([signal.SIGTERM], worker_process.LEFT)])
def test_a_worker_that_loads_torch_leaves_at_once(monkeypatch: pytest.MonkeyPatch, told: list[int], code: int):
    """It holds nothing yet; one that trains ends its step first."""
    ended: list[int] = []
    monkeypatch.setattr(worker_process.os, "_exit", ended.append)
    for doing in (worker_process.LOADING, "training"):
        receiver, sender = Pipe(duplex=False)
        sender.send("leave")
        leave = threading.Event()
        with stage(doing):
            worker_process.watch(receiver, leave, told, os.getppid())
        assert leave.is_set()
    assert ended == [code]


@pytest.mark.parametrize(("told", "code"), [([], worker_process.FINISHED), ([signal.SIGTERM], worker_process.LEFT)])
def test_a_preparation_is_left_at_once(
    scripted_study: Callable[..., ScriptedStudy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: list[int],
    code: int,
):
    """It cannot be stopped in between: the process ends, without its claim, its role and what is half computed."""
    study, ended = scripted_study(), []
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    monkeypatch.setattr(worker_process.os, "_exit", lambda number: ended.append((number, list(tmp_path.glob("tmp*")))))

    def prepare(claim: Claim) -> ScriptedTraining:
        def fill(folder: Path) -> None:
            (folder / "half.npy").write_bytes(b"half")
            study.stop.set()
            leaving.join(10)

        publish(tmp_path / "cache", fill)
        return ScriptedTraining(curve=[0.5])

    worker = replace(study.worker(Script(lambda *_: [0.5])), objective=prepare)
    leaving = threading.Thread(target=worker_process.leave_preparation, args=(worker, told))
    leaving.start()
    claim = claim_first(study.ledger, worker.owner, lease_seconds=60)
    assert claim is not None
    with pytest.raises(StorageError):  # the process would be gone by now
        worker.train(claim)
    assert ended == [(code, [])]
    [run, *_] = study.ledger.fold_runs()
    assert (run.state, run.attempt, run.num_epochs) == (FoldRunState.WAITING, 1, 0)
    assert study.ledger.live_roles("") == []
