"""Checkpoints of a real ledger and real files: what is used when one is damaged, and what stays on the disk."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fold_search.objectives.jobs import EpochScore
from fold_search.search.racing.verdicts import Decision, Verdict
from fold_search.storage.records import Claim, FoldRunState
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script, ScriptedRace, ScriptedTraining, waits

Studies = Callable[..., ScriptedStudy]


def claimed(study: ScriptedStudy) -> Claim:
    claim = claim_first(study.ledger, "worker", lease_seconds=60)
    assert claim is not None
    return claim


def stored(folder: Path) -> list[Path]:
    """The checkpoints by epoch."""
    return sorted(folder.rglob("checkpoint-*"), key=lambda path: path.stem.rpartition("-")[2])


@pytest.mark.parametrize(("num_damaged", "trained"), [(0, [1, 2, 3]), (1, [1, 2, 2, 3]), (2, [1, 2, 1, 2, 3])])
def test_the_last_whole_checkpoint_is_continued_and_no_epoch_recorded_twice(
    scripted_study: Studies, tmp_path: Path, num_damaged: int, trained: list[int]
):
    """A damaged one costs the epoch after the one before; without any, the fold run is trained from its start."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    script.on_epoch = lambda trial, fold, epoch: study.stop.set() if epoch == 2 else None
    study.worker(script).train(claimed(study))
    assert len(stored(tmp_path)) == 2
    for path in stored(tmp_path)[2 - num_damaged :]:
        path.write_bytes(b"\x00half")
    study.stop.clear()
    script.on_epoch = lambda *_: None
    study.worker(script).train(claimed(study))
    assert study.ledger.fold_runs()[0].state is FoldRunState.DONE
    assert [record.epoch for record in study.ledger.epochs()] == [1, 2, 3]
    assert [epoch for *_, epoch in script.trained] == trained


def test_a_checkpoint_of_an_epoch_that_was_never_recorded_is_not_continued(scripted_study: Studies, tmp_path: Path):
    """Its writer died before the ledger knew: what it trained is trained again."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    script.on_epoch = lambda trial, fold, epoch: study.stop.set() if epoch == 1 else None
    study.worker(script).train(claimed(study))
    [first] = stored(tmp_path)
    first.with_name("checkpoint-1-2.safetensors").write_bytes(b"2")
    first.write_bytes(b"")
    study.stop.clear()
    script.on_epoch = lambda *_: None
    study.worker(script).train(claimed(study))
    assert [epoch for *_, epoch in script.trained] == [1, 1, 2, 3]


def test_only_so_many_paused_fold_runs_keep_a_checkpoint(scripted_study: Studies, tmp_path: Path):
    """Those that took longest; one without is continued all the same, and no epoch is recorded twice."""
    study = scripted_study(artifacts={"paused_checkpoints": 1})
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    paused = Verdict(decision=Decision.PAUSE, reason="others promise more")
    study.policy = ScriptedRace(verdicts={(0, 0, 2): paused, (0, 1, 1): paused, (0, 2, 2): paused}, choose=waits)
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    for fold in range(3):
        claim = study.ledger.claim_run("worker", trial=0, fold=fold, lease_seconds=60)
        study.worker(script).train(claim)
        assert len(stored(tmp_path)) == 1
    assert [run.checkpoint is not None for run in study.ledger.fold_runs()] == [False, False, True]
    study.policy = ScriptedRace()
    worker = study.worker(script)
    while (claim := worker.claim()) is not None:
        worker.train(claim)
    assert [run.state for run in study.ledger.fold_runs()] == [FoldRunState.DONE] * 3
    assert len(study.ledger.epochs()) == 9
    assert [epoch for _, fold, epoch in script.trained if fold == 2] == [1, 2, 3]
    assert [epoch for _, fold, epoch in script.trained if fold == 1] == [1, 1, 2, 3]


def test_what_takes_long_to_write_takes_a_tenth_of_the_time(scripted_study: Studies, tmp_path: Path):
    """Epochs of 0.1 s and checkpoints of 0.6 s: none is written on the way, and who is asked to leave loses nothing."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    script = Script(lambda trial, fold: [0.2] * 100)
    worker = study.worker(script)

    def on_epoch(trial: int, fold: int, epoch: int) -> None:
        worker.pace.costs.extend([0.595] * 3)
        if epoch == 80:
            study.stop.set()

    script.on_epoch = on_epoch
    worker.train(claimed(study))
    assert [path.stem.rpartition("-")[2] for path in stored(tmp_path)] == ["60", "80"]
    study.stop.clear()
    script.on_epoch = lambda *_: None
    study.worker(script).train(claimed(study))
    assert [epoch for *_, epoch in script.trained] == list(range(1, 101))


def test_epochs_that_no_checkpoint_holds_are_trained_again_and_recorded_once(scripted_study: Studies, tmp_path: Path):
    """The worker died between two checkpoints: its next one begins at the first of them."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    script = Script(lambda trial, fold: [0.1, 0.2, 0.3, 0.4, 0.5])
    died = study.worker(script)

    def on_epoch(trial: int, fold: int, epoch: int) -> None:
        died.pace.costs.extend([0.6 if epoch > 2 else 0.0] * 3)
        if epoch == 5:
            raise KeyboardInterrupt

    script.on_epoch = on_epoch
    with pytest.raises(KeyboardInterrupt):
        died.train(claimed(study))
    assert study.ledger.fold_runs()[0].num_epochs == 4
    assert study.ledger.release_owner("worker", reason="it died") == 1
    script.on_epoch = lambda *_: None
    study.worker(script).train(claimed(study))
    assert study.ledger.fold_runs()[0].state is FoldRunState.DONE
    assert [record.epoch for record in study.ledger.epochs()] == [1, 2, 3, 4, 5]
    assert [epoch for *_, epoch in script.trained] == [1, 2, 3, 4, 5, 3, 4, 5]


@dataclass(kw_only=True)
class Stepped(ScriptedTraining):
    """Epochs of ten steps; asked to leave before the step `leave_at` of the epoch in hand."""

    step: int = 0
    leave_at: int | None = None
    steps: list[tuple[int, int]] = field(default_factory=list)

    def epochs(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochScore]:
        scores = super().epochs()
        while not self.finished:
            while self.step < 10:
                self.within_epoch = self.step == self.leave_at
                if self.within_epoch:
                    return
                self.steps.append((self.epoch + 1, self.step))
                self.step += 1
            self.step = 0
            yield next(scores)

    def save(self) -> bytes:
        return json.dumps([self.epoch, self.step]).encode()

    def restore(self, checkpoint: bytes) -> None:
        super().restore(checkpoint)
        self.epoch, self.step = self.epoch  # type: ignore[misc]


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("damaged", [False, True])
def test_who_leaves_within_an_epoch_is_continued_at_the_same_step(
    scripted_study: Studies, tmp_path: Path, epoch: int, damaged: bool
):
    """From its checkpoint, the first epoch's too; where that is damaged, from the epoch before."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    first = Stepped(curve=[0.2, 0.4, 0.6])
    worker = study.worker(lambda claim: first)
    leave = worker.ledger.record_epoch

    def on_record(*given: Any, **named: Any) -> Any:
        first.leave_at = 4 if first.epoch == epoch - 1 else None
        return leave(*given, **named)

    first.leave_at = 4 if epoch == 1 else None
    worker.ledger.record_epoch = on_record  # type: ignore[method-assign]
    worker.train(claimed(study))
    [run, *_] = study.ledger.fold_runs()
    assert (run.state, run.num_epochs) == (FoldRunState.WAITING, epoch - 1)
    assert first.steps[-1] == (epoch, 3)
    if damaged:
        (tmp_path / "artifacts" / str(run.checkpoint)).write_bytes(b"\x00half")
    second = Stepped(curve=first.curve)
    worker.ledger.record_epoch = leave  # type: ignore[method-assign]
    study.worker(lambda claim: second).train(claimed(study))
    assert second.steps[0] == ((epoch, 0) if damaged else (epoch, 4))
    assert study.ledger.fold_runs()[0].state is FoldRunState.DONE
    assert [record.epoch for record in study.ledger.epochs()] == [1, 2, 3]


def test_a_fold_run_is_paused_with_what_it_has_trained(scripted_study: Studies, tmp_path: Path):
    """Also where no checkpoint was due: whoever continues it trains no epoch again."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    study.policy = ScriptedRace(
        verdicts={(0, 0, 2): Verdict(decision=Decision.PAUSE, reason="others promise more")}, choose=waits
    )
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    worker = study.worker(script)
    worker.pace.costs.append(60.0)
    worker.train(claimed(study))
    assert [path.stem.rpartition("-")[2] for path in stored(tmp_path)] == ["2"]
    worker.train(study.ledger.claim_run("worker", trial=0, fold=0, lease_seconds=60))
    assert [epoch for *_, epoch in script.trained] == [1, 2, 3]
