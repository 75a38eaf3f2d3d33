"""The local engine: which workers it replaces."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from fold_search.objectives import cores
from fold_search.search.errors import ConfigError
from fold_search.search.running.engines import local
from fold_search.search.running.engines.local import LEFT, MAX_DEATHS, LocalEngine, _Process
from fold_search.search.running.objective import share_cores
from fold_search.search.running.run import run_study
from fold_search.search.study.environment import Secrets
from fold_search.search.study.opened import find
from tests.search.conftest import ScriptedStudy


def worker(exitcode: int | None) -> Any:
    return _Process(
        process=SimpleNamespace(exitcode=exitcode), owner="one", stop=SimpleNamespace(send=list), errors=None
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """An engine whose new workers live for ever."""
    monkeypatch.setattr(LocalEngine, "_spawn", lambda self, index: worker(None))
    return LocalEngine(url="", study="", config=None, num_workers=1)


@pytest.mark.parametrize("exitcode", [LEFT, -9])
def test_a_worker_that_is_gone_is_replaced_unless_all_are_to_leave(engine: LocalEngine, exitcode: int):
    """Whether it was told to leave or was killed; without one the run would wait for ever."""
    engine._workers[0] = worker(exitcode)
    assert engine.tend() == ["one"]
    assert engine._workers[0].process.exitcode is None
    engine.stop()
    engine._workers[0] = worker(exitcode)
    assert engine.tend() == ["one"]
    assert not engine._workers


def test_only_deaths_that_follow_one_another_end_the_run(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    """Days of rare deaths do not; too many within minutes do."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for _ in range(2 * MAX_DEATHS):
        now += 300
        engine._workers[0] = worker(-9)
        engine.tend()
    assert engine.error is None
    for _ in range(MAX_DEATHS):
        engine._workers[0] = worker(-9)
        engine.tend()
    assert engine.error
    assert "worker processes died within 10 minutes, the last with exit code -9" in engine.error


def test_a_worker_that_was_killed_while_it_listened_holds_nobody_up(monkeypatch: pytest.MonkeyPatch):
    """The engine can still ask all to leave; the living one does, and a second time nobody is there."""
    monkeypatch.setattr(local, "_main", listen)
    engine = LocalEngine(url="", study="", config=None, num_workers=2)
    engine.start()
    processes = [worker.process for worker in engine._workers.values()]
    for process, worker in zip(processes, engine._workers.values(), strict=True):
        assert worker.errors.poll(60), process
    processes[0].kill()
    processes[0].join()
    engine.stop()
    processes[1].join(timeout=60)
    assert processes[1].exitcode == 0
    engine.stop()
    engine.kill()


def test_workers_share_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    """Six of the machine's cores, three workers, two threads each; before they start, for libraries read it once."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores._SETTLED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    started: list[str] = []
    monkeypatch.setattr(LocalEngine, "_spawn", lambda self, index: started.append(os.environ["OMP_NUM_THREADS"]))
    LocalEngine(url="", study="", config=None, num_workers=3).start()
    assert started == ["2", "2", "2"]
    before = torch.get_num_threads()
    try:
        share_cores(3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_cannot_be_started_ends_the_run_and_those_that_were(
    scripted_study: Callable[..., ScriptedStudy], monkeypatch: pytest.MonkeyPatch
):
    """One line that says so; the first worker, which would train for ever, is gone, and so is the publisher."""
    study, started = scripted_study(trackers={"mlflow": False}), []
    monkeypatch.setattr(local, "_main", wait_for_ever)
    start = type(local.multiprocessing.get_context("spawn")).Process.start

    def start_one(process: Any) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(type(local.multiprocessing.get_context("spawn")).Process, "start", start_one)
    opened = find("scripted", url=study.url)
    expected = r"^--workers: worker 2 of 3 cannot be started: Resource temporarily unavailable; expected fewer"
    with pytest.raises(ConfigError, match=expected):
        run_study(opened, study.config, owner="run", num_workers=3, secrets=Secrets(), console=Console(quiet=True))
    [process] = started
    assert process.exitcode == -signal.SIGKILL
    assert not study.ledger.live_roles("")


def wait_for_ever(job: Any, stop: Any, errors: Any) -> None:
    """A worker that nothing but a signal ends."""
    threading.Event().wait()


def listen(job: Any, stop: Any, errors: Any) -> None:
    """A worker that only listens."""
    errors.send("listening")
    leave = threading.Event()
    local._watch(stop, leave, [], os.getppid())
    assert leave.is_set()
