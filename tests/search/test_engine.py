"""The local engine: which workers it replaces."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterable
from itertools import repeat
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from fold_search.objectives import cores
from fold_search.search.errors import ConfigError
from fold_search.search.running import worker_process
from fold_search.search.running.engines import local
from fold_search.search.running.engines.local import MAX_DEATHS, LocalEngine, LocalWorker
from fold_search.search.running.objective import device_name, device_share, share_cores
from fold_search.search.running.run import run_study
from fold_search.search.running.worker_process import LEFT, watch
from fold_search.search.study.environment import Secrets
from fold_search.search.study.opened import find
from tests.search.conftest import ScriptedStudy


def worker(exitcode: int | None) -> Any:
    process = SimpleNamespace(exitcode=exitcode, is_alive=lambda: exitcode is None)
    return LocalWorker(process=process, owner="one", stop=SimpleNamespace(send=list), errors=None, heard=Pipe()[0])


class PlannedEngine(LocalEngine):
    """An engine of one worker; `ends` are the exit codes of those that it starts, None for one that lives for ever."""

    def __init__(self, ends: Iterable[int | None]) -> None:
        super().__init__(url="", study="", config=None, num_workers=1)
        self.ends = iter(ends)

    def spawn(self, index: int) -> LocalWorker:
        return worker(next(self.ends))


@pytest.mark.parametrize("exitcode", [LEFT, -9])
def test_a_worker_that_is_gone_is_replaced_unless_all_are_to_leave(exitcode: int):
    """Whether it was told to leave or was killed; without one the run would wait for ever."""
    engine = PlannedEngine([exitcode, None])
    engine.start()
    assert not engine.alive()
    assert engine.tend() == ["one"]
    assert engine.alive()
    engine = PlannedEngine([exitcode])
    engine.start()
    engine.stop()
    assert engine.tend() == ["one"]
    assert engine.tend() == []
    assert not engine.alive()


def test_only_deaths_that_follow_one_another_end_the_run(monkeypatch: pytest.MonkeyPatch):
    """Days of rare deaths do not; too many within minutes do."""
    engine, now = PlannedEngine(repeat(-9)), 0.0
    engine.start()
    monkeypatch.setattr("time.monotonic", lambda: now)
    for _ in range(2 * MAX_DEATHS):
        now += 300
        engine.tend()
    assert engine.error is None
    for _ in range(MAX_DEATHS):
        engine.tend()
    assert engine.error
    assert "worker processes died within 10 minutes, the last with exit code -9" in engine.error


def test_a_worker_that_was_killed_while_it_listened_holds_nobody_up(monkeypatch: pytest.MonkeyPatch):
    """The engine can still ask all to leave; the living one does, and a second time nobody is there."""
    monkeypatch.setattr(worker_process, "main", listen)
    workers: list[LocalWorker] = []
    spawn = LocalEngine.spawn
    monkeypatch.setattr(LocalEngine, "spawn", lambda self, index: workers.append(spawn(self, index)) or workers[-1])
    engine = LocalEngine(url="", study="", config=None, num_workers=2)
    engine.start()
    processes = [worker.process for worker in workers]
    for worker in workers:
        assert worker.errors.poll(60), worker
    processes[0].kill()
    processes[0].join()
    engine.stop()
    processes[1].join(timeout=60)
    assert processes[1].exitcode == 0
    engine.stop()
    engine.kill()


def test_workers_share_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    """Six of the machine's cores, three workers, two threads each; before they start, for libraries read it once."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores.SETTLED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    started: list[str] = []
    monkeypatch.setattr(LocalEngine, "spawn", lambda self, index: started.append(os.environ["OMP_NUM_THREADS"]))
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
    monkeypatch.setattr(worker_process, "main", wait_for_ever)
    start = type(local.multiprocessing.get_context("spawn")).Process.start

    def start_one(process: Any) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(type(local.multiprocessing.get_context("spawn")).Process, "start", start_one)
    opened = find("scripted", url=study.url)
    engine = LocalEngine(url=study.url, study="scripted", config=study.config, num_workers=3)
    expected = r"^--workers: worker 2 of 3 cannot be started: Resource temporarily unavailable; expected fewer"
    with pytest.raises(ConfigError, match=expected):
        run_study(opened, study.config, owner="run", engine=engine, secrets=Secrets(), console=Console(quiet=True))
    [process] = started
    assert process.exitcode == -signal.SIGKILL
    assert not study.ledger.live_roles("")


def wait_for_ever(job: Any, stop: Any, errors: Any, doing: Any) -> None:
    """A worker that nothing but a signal ends."""
    threading.Event().wait()


def listen(job: Any, stop: Any, errors: Any, doing: Any) -> None:
    """A worker that only listens."""
    errors.send("listening")
    leave = threading.Event()
    watch(stop, leave, [], os.getppid())
    assert leave.is_set()


@pytest.mark.parametrize(
    ("num_gpus", "num_workers", "shares"),
    [
        (0, 2, [1.0, 1.0]),
        (1, 1, [1.0]),
        (1, 4, [0.25] * 4),
        (2, 3, [0.5, 1.0, 0.5]),
        (4, 2, [1.0, 1.0]),
    ],
)
def test_workers_share_a_gpu_and_no_hour_counts_twice(
    num_gpus: int, num_workers: int, shares: list[float], monkeypatch: pytest.MonkeyPatch
):
    """Without a GPU each worker's hours count."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert [device_share(index, num_workers) for index in range(num_workers)] == shares
    assert device_name("cpu") == "CPU"
