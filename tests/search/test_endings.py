"""Every ending of `search run` and `search worker`: its exit code, its one line, and what the next command makes of it.

The commands, the run's loop, the coordinator and the ledger are the real ones; the workers are threads.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import fold_search.search.running.engines.local
import fold_search.search.running.run
import fold_search.search.study.beginning
from fold_search.objectives.errors import Diverged
from fold_search.search.cli import app
from fold_search.search.errors import ExitCode
from fold_search.search.reporting.summary import summarise
from fold_search.search.running.coordinator import Coordinator
from fold_search.search.running.engines.local import LocalEngine, LocalWorker
from fold_search.search.study.opened import OpenStudy, find
from fold_search.storage.catalog import list_studies
from fold_search.storage.errors import StorageUnavailable
from fold_search.storage.records import EventKind, StudyState
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

Studies = Callable[..., ScriptedStudy]
SECTIONS: dict[str, Any] = {"race": {"rule": "none"}, "budget": {"trials": 2}, "trackers": {"mlflow": False}}
BUG = KeyError("a bug")


def good(trial: int, fold: int) -> list[float | Exception]:
    return [0.5, 0.6]


def broken(trial: int, fold: int) -> list[float | Exception]:
    return [BUG]


@dataclass
class ThreadProcess:
    """A worker in a thread, as the engine sees a process."""

    work: Callable[[], object]
    exitcode: int | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.work()
        self.exitcode = 0

    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def kill(self) -> None:
        """A thread cannot be killed: it is asked to leave before."""

    def join(self) -> None:
        self.thread.join()


class Commands:
    """The commands on a scripted study, whose trainings follow `script`."""

    def __init__(self, study: ScriptedStudy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.study, self.file, self.monkeypatch = study, folder / "study.yaml", monkeypatch
        self.script = Script(good)
        self.spawn: Callable[[], Any] = self.thread
        monkeypatch.setattr(LocalEngine, "spawn", lambda engine, index: self.spawn())
        monkeypatch.setattr(fold_search.search.study.beginning, "begin", self.begin)

    def begin(self, config: Any, *_: object, **__: object) -> OpenStudy:
        self.study.ledger.update_config(config.model_dump(mode="json"))
        return find("scripted", url=self.study.url)

    def thread(self) -> LocalWorker:
        self.study.stop = threading.Event()
        stop = self.study.stop
        worker = self.study.worker(self.script, owner=f"worker-{time.monotonic()}")

        def leave(_: str = "") -> None:
            stop.set()

        process = ThreadProcess(worker.work)
        process.kill = leave
        return LocalWorker(
            process=process, owner=worker.owner, stop=SimpleNamespace(send=leave), errors=None, heard=Pipe()[0]
        )

    def look(self, command: str, *options: str) -> str:
        """What a command says that only looks."""
        said = CliRunner().invoke(app, [command, "--study", "scripted", "--storage", self.study.url, *options])
        return said.output

    def __call__(self, command: str, *options: str) -> Result:
        given = self.study.config.model_dump(mode="json", exclude_unset=True)
        self.file.write_text(yaml.safe_dump(given))
        more = ["--config", str(self.file)] if command == "run" else ["--storage", self.study.url]
        return CliRunner().invoke(app, [command, "--study", "scripted", *more, *options])


@pytest.fixture
def commands(
    scripted_study: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Commands]]:
    """Make the commands of one study; keyword arguments are sections of its study file."""
    made: list[Commands] = []

    def make(**sections: object) -> Commands:
        made.append(Commands(scripted_study(**{**SECTIONS, **sections}), tmp_path, monkeypatch))
        return made[-1]

    yield make
    for one in made:
        one.study.stop.set()


def check(result: Result, code: int, said: str = "") -> None:
    """An error is one line on stderr; a traceback is none of our endings."""
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert said in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code not in (0, 130))


both = pytest.mark.parametrize("command", ["run", "worker"])


@both
def test_finished_with_a_complete_trial(commands: Callable[..., Commands], command: str):
    """And once more, with nothing left to do; nothing is written then."""
    run = commands()
    check(run(command), 0, "search serve --study scripted")
    sequence = run.study.ledger.last_sequence()
    check(run(command), 0, "is finished: 2 of 2 trials; `search run --trials N` adds trials, up to N in all")
    assert run.study.ledger.last_sequence() == sequence


@both
def test_finished_without_a_complete_trial(commands: Callable[..., Commands], command: str):
    """All diverged, from which the sampler learnt, and a model there is none."""
    run = commands()
    run.script = Script(lambda *_: [Diverged("loss nan")])
    for _ in range(2):
        check(
            run(command), ExitCode.NONE_COMPLETE, "no trial is complete (2 stopped; last failure: diverged: loss nan)"
        )


@both
def test_every_trial_of_the_budget_failed(commands: Callable[..., Commands], command: str):
    """Fewer than end a study: what follows in a script is not to run all the same."""
    run = commands()
    run.script = Script(broken)
    for _ in range(2):
        check(run(command), ExitCode.TRIALS_FAIL, "no trial is complete (2 failed; last failure: code error: KeyError")
    run.script = Script(good)
    check(run("run", "--trials", "3"), 0)


@both
def test_trials_failed_in_a_row(commands: Callable[..., Commands], command: str):
    """`search run` continues with what is left of the budget, `search worker` says so."""
    run = commands(budget={"trials": 4, "max_failures": 2})
    run.script = Script(broken)
    check(run(command), ExitCode.TRIALS_FAIL, "a bug'; once the cause is fixed, `search run` continues it")
    check(run("worker"), ExitCode.TRIALS_FAIL, "a bug'; once the cause is fixed, `search run` continues it")
    run.script = Script(good)
    check(run("run"), 0)
    assert run.study.ledger.study().state is StudyState.FINISHED


def test_trials_failed_in_a_row_up_to_the_end_of_the_budget(commands: Callable[..., Commands]):
    """No command continues what has nothing left: it says how to add trials, now and the next time."""
    run = commands(budget={"trials": 2, "max_failures": 2})
    run.script = Script(broken)
    for _ in range(2):
        check(
            run("run"),
            ExitCode.TRIALS_FAIL,
            "a bug'; once the cause is fixed, `search run --trials N` adds trials, up to N in all",
        )
    assert run.study.ledger.study().state is StudyState.FAILED
    run.script = Script(good)
    check(run("run", "--trials", "3"), 0)


def test_a_failed_study_whose_trials_have_all_begun_is_continued(commands: Callable[..., Commands]):
    """One of its trials was under way when the others failed."""
    run = commands(budget={"trials": 3, "max_failures": 2})
    ledger, coordinator, worker = run.study.ledger, run.study.coordinator(), run.study.worker(Script(broken))
    for owner in map(str, range(8)):  # so many fold runs are asked for ahead
        ledger.acquire_role(f"worker/{owner}", owner, lease_seconds=60)
    coordinator.step()
    for _ in range(2):
        worker.train(worker.claim())
    assert not coordinator.step()
    coordinator.leave()
    assert [trial.state.value for trial in ledger.trials()] == ["failed", "failed", "running"]
    check(run("run"), 0, "trial 2")
    assert [trial.state.value for trial in ledger.trials()] == ["failed", "failed", "complete"]


@pytest.mark.parametrize(("num_complete", "code"), [(1, 0), (0, ExitCode.NONE_COMPLETE)])
def test_the_time_is_used(commands: Callable[..., Commands], num_complete: int, code: int):
    """With a complete trial the next command may go on; without one it has nothing to export."""
    run = commands()
    run.script = Script(good, on_epoch=lambda trial, fold, epoch: time.sleep(8.5 if trial == num_complete else 0))
    check(run("run", "--timeout", "8s"), code, "the same command continues")
    assert run.study.ledger.study().state is StudyState.RUNNING


@both
@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"gpu_hours": 2.0}, "budget.gpu_hours is used up (2.00 of 2 worker hours)"),
        ({"money": 0.8, "price_per_hour": 0.4}, "budget.money is used up (0.80 of 0.80)"),
    ],
)
@pytest.mark.parametrize(("num_complete", "code"), [(1, 0), (0, ExitCode.NONE_COMPLETE)])
def test_hours_or_money_are_used_up(
    commands: Callable[..., Commands], command: str, budget: dict[str, float], said: str, num_complete: int, code: int
):
    """Training stops as a time limit stops it, what is trained is kept, and a larger budget continues the study."""
    run = commands(budget={"trials": 2, **budget})
    use(run, seconds=3600)

    def use_it_up(trial: int, fold: int, epoch: int) -> None:
        if trial == num_complete:
            use(run, seconds=7200)
            time.sleep(2.5)

    run.script = Script(good, on_epoch=use_it_up)
    check(run(command), code, f"{said}; `search run --set budget.{next(iter(budget))}=")
    ledger = run.study.ledger
    assert ledger.study().state is StudyState.RUNNING
    assert [trial.state.value for trial in ledger.trials()] == [*["complete"] * num_complete, "running"]
    assert f"no process is running it; {said}; `search run --set " in run.look("status")
    sequence = ledger.last_sequence()
    begun = time.monotonic()
    check(run(command), code, said)
    assert (ledger.last_sequence(), time.monotonic() - begun < 2) == (sequence, True)
    run.script = Script(good)
    check(run("run", "--set", f"budget.{next(iter(budget))}=100"), 0)
    assert [trial.state.value for trial in ledger.trials()] == ["complete"] * 2


def test_what_is_used_is_counted_on_and_shown(commands: Callable[..., Commands]):
    """Of all runs together: status, best and their JSON."""
    run = commands(budget={"trials": 2, "gpu_hours": 4.0, "money": 8.0, "price_per_hour": 2.0})
    use(run, seconds=8000, device="NVIDIA H200")
    run.script = Script(good, on_epoch=lambda *_: time.sleep(0.1))
    check(run("run"), 0)
    said = "device hours; money 4.4"
    assert f"used: 2.22 of 4 {said}" in run.look("status")
    assert f"used: 2.22 of 4 {said}" in run.look("best")
    for command in ("status", "best"):
        used = json.loads(run.look(command, "--json"))["used"]
        assert 8001.0 < used.pop("hours") * 3600 < 8030
        assert 4.444 < used.pop("money") < 4.47
        assert used == {
            "unit": "device hours",
            "devices": 0,
            "most_hours": 4.0,
            "most_money": 8.0,
            "price_per_hour": 2.0,
        }


@both
@pytest.mark.parametrize(("device", "times"), [("NVIDIA H200", 1), ("CPU", 0)])
def test_a_device_that_changed_between_two_runs_is_said_once(
    commands: Callable[..., Commands], command: str, device: str, times: int
):
    """And the study goes on."""
    run = commands()
    use(run, seconds=10, device=device)
    run.script = Script(good, on_epoch=lambda *_: time.sleep(0.5))
    result = run(command)
    check(result, 0)
    assert result.output.count(f"the device changed: the study was trained on {device}, and goes on with CPU") == times


def use(run: Commands, *, seconds: float, device: str = "CPU") -> None:
    """Let a worker of an earlier run have used a device for so long."""
    run.study.ledger.record_usage("worker/earlier", device=device, share=1.0, seconds=seconds)


@both
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]])
def test_interrupted(commands: Callable[..., Commands], command: str, signals: list[int]):
    """By Ctrl-C, once or twice, or by SIGTERM; whatever is complete, a script does not go on."""
    run = commands()

    def interrupt(trial: int, fold: int, epoch: int) -> None:
        assert summarise(run.study.ledger).state == "running"
        if (trial, fold, epoch) == (1, 0, 1):
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.5)

    run.script = Script(good, on_epoch=interrupt)
    check(run(command), 130, "nothing is lost; the same command continues")
    assert summarise(run.study.ledger).state == "interrupted"
    check(run(command), 0)


@both
def test_a_run_that_begins_is_not_interrupted(commands: Callable[..., Commands], command: str):
    """Before any process has a role of its own; and the study ends as what it is."""
    run = commands()
    seen = []

    def spawn() -> LocalWorker:
        seen.append((summarise(run.study.ledger).state, run.study.ledger.live_roles("coordinator")))
        return run.thread()

    run.spawn = spawn
    check(run(command), 0)
    assert seen == [("running", [])]
    assert (summarise(run.study.ledger).state, run.study.ledger.live_roles("")) == ("finished", [])


@both
def test_a_run_is_announced_until_a_coordinator_leads(commands: Callable[..., Commands], command: str):
    """Not longer: when all of it is killed, nothing says for a minute that it still runs."""
    run = commands()
    seen = []
    run.script = Script(good, on_epoch=lambda *_: seen.append(run.study.ledger.live_roles("run/")))
    spawn = run.spawn
    run.spawn = lambda: (seen.append(run.study.ledger.live_roles("run/")), spawn())[1]
    check(run(command), 0)
    assert len(seen[0]) == 1
    assert seen[-1] == []


def test_interrupted_before_any_worker_begins(commands: Callable[..., Commands]):
    """While the data is read, say."""
    run = commands()

    def interrupted(*_: object, **__: object) -> OpenStudy:
        raise KeyboardInterrupt

    run.monkeypatch.setattr(fold_search.search.study.beginning, "begin", interrupted)
    check(run("run"), 130, "interrupted")


@both
def test_a_worker_cannot_work(commands: Callable[..., Commands], command: str):
    """What it says is the user's to correct: no encoder, a full disk."""
    run = commands()
    run.spawn = lambda: dead(2, "encoder 'none': no such folder")
    check(run(command), ExitCode.USER_ERROR, "error: encoder 'none': no such folder")


@both
def test_workers_die(commands: Callable[..., Commands], command: str):
    """That is no user's error, and may pass."""
    run = commands()
    run.spawn = lambda: dead(-9)
    check(run(command), ExitCode.WORKERS_DIE, "11 worker processes died within 10 minutes, the last with exit code -9")


def dead(exitcode: int, message: str = "") -> LocalWorker:
    """A worker process that has ended so."""
    errors, sender = Pipe(duplex=False)
    sender.send(message)
    process = SimpleNamespace(exitcode=exitcode, is_alive=lambda: False, kill=lambda: None, join=lambda: None)
    return LocalWorker(process=process, owner="dead", stop=SimpleNamespace(send=list), errors=errors, heard=errors)


@both
def test_the_database_stays_away(commands: Callable[..., Commands], command: str, monkeypatch: pytest.MonkeyPatch):
    """For longer than a run waits; at the start it is an input that may be wrong, and exit code 2."""
    run = commands()
    calls, real = count(), Coordinator.step

    def step(coordinator: Coordinator) -> bool:
        if next(calls) > 2:
            run.study.stop.set()
            raise StorageUnavailable("sqlite: the database is locked")
        return real(coordinator)

    monkeypatch.setattr(Coordinator, "step", step)
    monkeypatch.setattr(fold_search.search.running.run, "PATIENCE_SECONDS", 0.1)
    run.script = Script(good, on_epoch=lambda *_: time.sleep(0.2))
    check(
        run(command),
        ExitCode.DATABASE_AWAY,
        "the database is locked; gave up after 0 s; the same command continues the study",
    )


def test_no_gain_is_expected(commands: Callable[..., Commands], monkeypatch: pytest.MonkeyPatch):
    """That is an end like another; the next time nothing is opened again, unless the whole budget is asked for."""
    run = commands(budget={"trials": 4, "until": "no-expected-gain"})
    monkeypatch.setattr(
        "fold_search.search.racing.policy.gain_is_within_noise", lambda matrix: len(matrix.numbers) >= 2
    )
    check(run("run"), 0)
    sequence = run.study.ledger.last_sequence()
    check(run("run"), 0, "less than the noise between folds; `search run --set budget.until=used` runs the rest")
    assert run.study.ledger.last_sequence() == sequence
    check(run("run", "--set", "budget.until=used"), 0)
    assert len(run.study.ledger.trials()) == 4


def test_a_grid_is_through(commands: Callable[..., Commands]):
    """Though the budget has more trials than the grid has combinations, nothing is opened again."""
    run = commands(study={"sampler": "grid"}, space={"loss": ["cross_entropy", "focal"]}, budget={"trials": 10})
    check(run("run"), 0)
    check(run("run"), 0, "is finished: 2 of 2 trials; its grid has no more combinations")
    kinds = [event.kind for event in run.study.ledger.events(after=0, limit=1000)]
    assert (kinds.count(EventKind.STUDY_REOPENED), kinds.count(EventKind.STUDY_FINISHED)) == (0, 1)


def test_the_database_is_away_when_the_run_begins(commands: Callable[..., Commands]):
    """Its URL may be wrong: an input."""
    run = commands()

    def unavailable(*_: object, **__: object) -> OpenStudy:
        raise StorageUnavailable("postgresql://nowhere: connection refused")

    run.monkeypatch.setattr(fold_search.search.study.beginning, "begin", unavailable)
    check(run("run"), ExitCode.USER_ERROR, "error: postgresql://nowhere: connection refused")


@both
def test_bad_input(commands: Callable[..., Commands], command: str):
    """Before anything is written."""
    run = commands()
    check(run(command, "--set", "training.epochs=none"), ExitCode.USER_ERROR, "training.epochs")
    assert list_studies(run.study.ledger.engine)[0].state is StudyState.RUNNING
