"""`search` and its workers as processes that are forked from one that has imported everything.

A process that imports torch and transformers has used six seconds of a CPU before it does anything, and `search run`
starts two besides itself. The forked ones are processes of their own all the same: session, folder, environment,
signals, exit code; what a test kills is killed.
"""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

IMPORTED = [
    *(
        f"fold_search.search.{name}"
        for name in (
            "study.beginning",
            "cli",
            "exporting.curves",
            "exporting.export",
            "running.objective",
            "exporting.predict",
            "reporting.tables",
            "running.run",
        )
    ),
    *("sklearn.neighbors", "transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
]


class Forked(ForkServerProcess):
    """Begins in the folder of the process that starts it."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)
        self._folder = os.getcwd()

    def run(self) -> None:
        os.chdir(self._folder)
        super().run()


class WarmContext(ForkServerContext):
    """In the place of the context of spawned processes."""

    Process = Forked


@cache
def warm_context() -> WarmContext:
    """The context; its server is started once, and computes nothing: a process with threads must not fork."""
    before = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    try:
        multiprocessing.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return WarmContext()


class WarmSearch:
    """A forked `search`; used as a subprocess.Popen with text is."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        context = warm_context()
        output, written = context.Pipe(duplex=False)
        self._process = context.Process(target=_search, args=(list(arguments), str(cwd), dict(env), written))
        self._process.start()
        written.close()
        self.stdout = os.fdopen(os.dup(output.fileno()))
        output.close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("search", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        output = "" if self.stdout.closed else self.stdout.read()
        self.stdout.close()
        self.wait(timeout)
        return output, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _search(arguments: list[str], folder: str, environment: dict[str, str], output: Connection) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    # New ones: those of the server were made for a file, and would look for their place in the pipe.
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True, errors="backslashreplace")
    sys.argv = ["search", *arguments]
    _fork_workers()
    from fold_search.search.cli import main

    main()


def _fork_workers() -> None:
    """Let this process's own workers be forked: by a server that is forked now, while there is but one thread."""
    util.spawnv_passfds = _fork_server
    multiprocessing.set_forkserver_preload([])
    forkserver.ensure_running()
    context = multiprocessing.get_context("forkserver")
    multiprocessing.get_context = lambda kind: context


def _fork_server(path: str, arguments: list[str], passed: list[int]) -> int:
    """Run the code of `python -c CODE` in a forked process; returns its id."""
    if process := os.fork():
        return process
    try:
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in passed:
                with suppress(OSError):
                    os.close(descriptor)
        exec(arguments[-1], {})
    finally:
        os._exit(0)
