"""Does a search outlive a database that is gone for minutes? `python -m benchmarks.database_outage --minutes 6`.

A real search (`search run`, a tiny encoder, leases as long as a user's) runs once undisturbed and once with its
PostgreSQL stopped, or its SQLite file write-locked, for so long in the middle of an epoch. It has to lose and repeat no
recorded epoch and to end with the same params, scores and results; whether it went on by itself is printed. One that
gave up, after ten minutes, is started again by the same command.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml

from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind
from tests.chaos.invariants import all_events, check_ledger, outcome
from tests.chaos.servers import Postgres
from tests.chaos.study import NAME, REAL, write_trainable

EPOCHS_BEFORE = 10


def main() -> None:
    """Run the study twice and print what the outage cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--trials", type=int, default=4)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outage-")))
        postgres = Postgres() if arguments.database == "postgresql" else None
        if postgres:
            stack.callback(postgres.end)
        found = []
        for name, minutes in (("calm", 0.0), ("outage", arguments.minutes)):
            (folder := top / name).mkdir()
            url = postgres.create_database() if postgres else f"sqlite:///{folder}/search.db"
            write_study(folder, url, trials=arguments.trials)
            found.append(run(folder, url, postgres, seconds=60 * minutes))
        assert found[0] == found[1], "other params, scores or results than without the outage"
    print("params, scores and results equal those of the undisturbed run")


def write_study(folder: Path, url: str, *, trials: int) -> None:
    """Write the data, the encoder and the study file."""
    write_trainable(folder)
    sections = REAL | {
        "study": {"sampler": "random"},
        "race": {"rule": "none"},
        "budget": {"trials": trials},
        "storage": {"url": url},
        "trackers": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(sections))


def run(folder: Path, url: str, postgres: Postgres | None, *, seconds: float) -> object:
    """Run the study, without its database for so long, and return its outcome; AssertionError if it lost anything."""
    search = start(folder)
    try:
        while (ledger := find(url)) is None or len(ledger.epochs()) < EPOCHS_BEFORE:
            assert search.poll() is None, said(folder)
            time.sleep(0.2)
        if seconds:
            before = children(search)
            with gone(folder, postgres):
                time.sleep(seconds)
            if search.poll() is not None:
                print(f"gave up with exit code {search.returncode}: {said(folder).splitlines()[-1]}")
                search = start(folder)
            at, back = len(ledger.epochs()), time.monotonic()
            while len(ledger.epochs()) == at and search.poll() is None:
                time.sleep(0.2)
            waited = time.monotonic() - back
            print(f"gone for {seconds:.0f} s after {at} epochs; next epoch {waited:.1f} s after its return")
            print("all processes are the same ones" if before == children(search) else "processes were replaced")
        code = search.wait()
    finally:
        for process in [*search.children(recursive=True), search] if search.is_running() else []:
            process.kill()
    assert code == 0, said(folder)
    assert "Traceback" not in said(folder), said(folder)
    events = all_events(ledger)
    check_ledger(ledger, events, complete=True)
    claims = sum(event.kind is EventKind.FOLD_STARTED for event in events)
    print(f"{len(ledger.epochs())} epochs, {len(ledger.fold_runs())} fold runs, {claims} claims of them", flush=True)
    return outcome(ledger)


def start(folder: Path) -> psutil.Popen:
    """Start the search."""
    command = [str(Path(sys.executable).with_name("search")), "run", "--study", NAME, "--config", "study.yaml"]
    with (folder / "log").open("ab") as log:
        return psutil.Popen([*command, "--workers", "2"], cwd=folder, stdout=log, stderr=log, start_new_session=True)


def children(search: psutil.Popen) -> set[int]:
    """The process numbers of all that the search started."""
    return {process.pid for process in search.children(recursive=True)} if search.is_running() else set()


def said(folder: Path) -> str:
    """What the search has printed."""
    return (folder / "log").read_text()


def find(url: str) -> Ledger | None:
    """The study's ledger; None as long as it is not there."""
    try:
        engine = connect(url, create=False)
        record = find_study(engine, NAME)
    except ValueError:
        return None
    return Ledger(engine, record.id) if record else None


@contextmanager
def gone(folder: Path, postgres: Postgres | None) -> Iterator[None]:
    """Stop PostgreSQL without a word to its clients, or hold SQLite's write lock."""
    if postgres:
        postgres.stop()
        try:
            yield
        finally:
            postgres.start()
        return
    connection = sqlite3.connect(folder / "search.db", timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


if __name__ == "__main__":
    main()
