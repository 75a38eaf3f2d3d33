"""What is done to a study: each fault is one function that strikes and says what is to be mended when."""

import random
import signal
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

import psutil

from tests.chaos.study import BUSY_SECONDS, LEASE_SECONDS, Study


class Mend(NamedTuple):
    """What ends a fault, and after how many seconds."""

    seconds: float
    action: Callable[[], None]


Fault = Callable[[Study, random.Random], Mend | None]


def kill_worker(study: Study, chance: random.Random) -> Mend | None:
    """SIGKILL: no word to anybody."""
    chance.choice(study.workers()).kill()
    return None


def terminate_worker(study: Study, chance: random.Random) -> Mend | None:
    """SIGTERM: it may finish the epoch in hand."""
    chance.choice(study.workers()).terminate()
    return None


def pause_worker(study: Study, chance: random.Random) -> Mend | None:
    """SIGSTOP, and SIGCONT before its lease is out."""
    return _pause([chance.choice(study.workers())], chance.uniform(0.1, LEASE_SECONDS / 3))


def oversleep_worker(study: Study, chance: random.Random) -> Mend | None:
    """SIGSTOP, and SIGCONT when somebody else has its lease."""
    return _pause([chance.choice(study.workers())], LEASE_SECONDS + chance.uniform(1, 3))


def oversleep_run(study: Study, chance: random.Random) -> Mend | None:
    """SIGSTOP of a coordinator (or its stand-in) past its role's lease; its workers go on."""
    return _pause([_any(study, chance)], LEASE_SECONDS + chance.uniform(1, 3))


def oversleep_machine(study: Study, chance: random.Random) -> Mend | None:
    """SIGSTOP of a command with all its workers past all leases, as if its machine slept."""
    process = _any(study, chance)
    return _pause([process, *process.children(recursive=True)], LEASE_SECONDS + chance.uniform(1, 3))


def kill_run(study: Study, chance: random.Random) -> Mend | None:
    """SIGKILL of `search run` or `search worker` itself; its workers are orphans."""
    _any(study, chance).kill()
    return None


def interrupt_run(study: Study, chance: random.Random) -> Mend | None:
    """SIGTERM or Ctrl-C; now and then twice."""
    process = _any(study, chance)
    number = chance.choice([signal.SIGTERM, signal.SIGINT])
    process.send_signal(number)
    return Mend(0.5, lambda: process.send_signal(number)) if chance.random() < 0.3 else None


def refuse_writes(study: Study, chance: random.Random) -> Mend | None:
    """No file of a worker may grow: its checkpoints and, on SQLite, its database writes fail."""
    worker = chance.choice(study.workers())
    limit = worker.rlimit(psutil.RLIMIT_FSIZE)
    worker.rlimit(psutil.RLIMIT_FSIZE, (0, limit[1]))
    return Mend(chance.uniform(0.2, 2), lambda: worker.rlimit(psutil.RLIMIT_FSIZE, limit))


def fill_disk(study: Study, chance: random.Random) -> Mend | None:
    """The disk with the artifacts is full for a while."""
    assert study.disk
    room = ExitStack()
    room.enter_context(study.disk.full())
    return Mend(chance.uniform(0.2, 1.5), room.close)


def lock_database(study: Study, chance: random.Random) -> Mend | None:
    """Somebody holds SQLite's write lock, now and then for longer than writers wait."""
    connection = sqlite3.connect(study.folder / "search.db", timeout=0, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    seconds = BUSY_SECONDS * chance.choice([0.2, 0.5, 0.8, 2])

    def unlock() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return Mend(seconds, unlock)


def crash_database(study: Study, chance: random.Random) -> Mend | None:
    """PostgreSQL goes away in the middle of whatever it does, and comes back."""
    assert study.postgres
    study.postgres.stop()
    return Mend(chance.uniform(0, 4), study.postgres.start)


def read_only_database(study: Study, chance: random.Random) -> Mend | None:
    """PostgreSQL refuses writes, as it does for a moment when another server takes over."""
    postgres = study.postgres
    assert postgres

    def set_to(value: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        postgres.execute("SELECT pg_reload_conf()")

    set_to("on")
    return Mend(chance.uniform(0.2, 3), lambda: set_to("off"))


def cut_connections(study: Study, chance: random.Random) -> Mend | None:
    """Every connection to PostgreSQL breaks, whatever is in the middle of a transaction."""
    assert study.postgres
    study.postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    )
    return None


def stop_tracker(study: Study, chance: random.Random) -> Mend | None:
    """MLflow's server is killed and started again later."""
    assert study.tracker
    study.tracker.stop()
    return Mend(chance.uniform(1, 10), study.tracker.start)


def hang_tracker(study: Study, chance: random.Random) -> Mend | None:
    """MLflow's server takes connections and says nothing."""
    tracker = study.tracker
    assert tracker
    tracker.send(signal.SIGSTOP)
    return Mend(chance.uniform(0.5, 5), lambda: tracker.send(signal.SIGCONT))


def _any(study: Study, chance: random.Random) -> psutil.Popen:
    """A command that works: whoever is killed while it starts loses nothing."""
    return study.running[chance.choice([index for index in sorted(study.running) if study.workers(index)])]


def _pause(processes: list[psutil.Process], seconds: float) -> Mend:
    for process in processes:
        _send(process, signal.SIGSTOP)
    return Mend(seconds, lambda: [_send(process, signal.SIGCONT) for process in processes] and None)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class Kind(NamedTuple):
    """A fault, how often it is drawn in relation to the others, and what of it there is once: `target`."""

    strike: Fault
    weight: float
    target: str | None = None


# A restart of `search run` or of MLflow's server costs seconds, the death of a worker nearly nothing.
KINDS = (
    Kind(kill_worker, 22),
    Kind(terminate_worker, 8),
    Kind(pause_worker, 14),
    Kind(oversleep_worker, 14),
    Kind(oversleep_run, 5),
    Kind(oversleep_machine, 3),
    Kind(kill_run, 3),
    Kind(interrupt_run, 2),
    Kind(refuse_writes, 2),
    Kind(fill_disk, 2, "disk"),
    Kind(stop_tracker, 1, "tracker"),
    Kind(hang_tracker, 5, "tracker"),
    Kind(lock_database, 12, "sqlite"),
    Kind(crash_database, 5, "postgresql"),
    Kind(cut_connections, 8, "postgresql"),
    Kind(read_only_database, 2, "postgresql"),
)


def possible(study: Study) -> list[Kind]:
    """The faults that can be done to a study."""
    there = {None, "postgresql" if study.postgres else "sqlite"}
    there |= {"disk"} if study.disk else set()
    there |= {"tracker"} if study.tracker else set()
    return [kind for kind in KINDS if kind.target in there]
