"""The local engine: which workers it replaces."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from objectives import cores
from search.engines import local
from search.engines.local import LEFT, MAX_DEATHS, LocalEngine, _Process
from search.objective import share_cores


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
    assert "workers died within 10 minutes, the last with exit code -9" in engine.error


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


def listen(job: Any, stop: Any, errors: Any) -> None:
    """A worker that only listens."""
    errors.send("listening")
    leave = threading.Event()
    local._watch(stop, leave, [], os.getppid())
    assert leave.is_set()
