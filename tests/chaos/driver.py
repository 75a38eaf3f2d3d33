"""Faults at random upon a study; the same seed draws the same ones."""

import math
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.faults import Kind, Mend, possible
from tests.chaos.invariants import Found, check, left_over, outcome
from tests.chaos.servers import Disk, Postgres
from tests.chaos.study import LEASE_SECONDS, LOG, REAL, SCRIPTED, Study, write_rows, write_trainable
from tests.trackers.mlflow_server import MlflowServer

GAP_SECONDS = (0.1, 1.0)

ALONE = {"sampler": "random", "baselines": False}  # so that all processes train


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A study that came through, and what it came through; `outcome` as in `invariants.outcome`."""

    struck: "Counter[str]"
    found: Found
    restarts: int
    left_over: list[str]
    outcome: dict[str, Any]


def run_round(
    folder: Path,
    *,
    rule: str,
    num_trials: int,
    num_faults: int,
    seed: int,
    training: str = "scripted",
    postgres: Postgres | None = None,
    tracker: MlflowServer | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Round:
    """Run a study of scripted or real trainings under fire, let it end, and check what has to hold of it.

    Every proposal is a function of the study's seed and the trial's number (the random sampler), every score one of
    params, fold and epoch: without a race the outcome is that of an undisturbed run, however many workers there were
    and in whatever order they finished. Raises AssertionError.
    """
    basis, write = {"scripted": (SCRIPTED, write_rows), "real": (REAL, write_trainable)}[training]
    write(folder)
    sections = basis | {"study": ALONE, "race": {"rule": rule}, "budget": {"trials": num_trials}}
    disk = None
    if num_faults and postgres is None:  # whoever sees the small disk may not enter the server's folder
        with suppress(OSError):
            disk = Disk(folder / "small")
    study = Study(folder=folder, sections=sections, postgres=postgres, tracker=tracker, disk=disk, training=training)
    try:
        struck = strike(study, num_faults=num_faults, chance=random.Random(seed), say=say)
        study.finish(seconds=600)
        time.sleep(LEASE_SECONDS + 1)  # the roles of those that were killed lapse
        if tracker:
            study.publish()
        found = check(study, complete=rule == "none")
        return Round(
            struck=struck,
            found=found,
            restarts=sum(study.endings.values()),
            left_over=left_over(study),
            outcome=outcome(study.ledger()),
        )
    finally:
        study.end()
        if disk:
            disk.end()


def strike(
    study: Study, *, num_faults: int, chance: random.Random, say: Callable[[str], None] = lambda line: None
) -> "Counter[str]":
    """Strike until the study is finished or has had so many faults, and mend everything; how often each fault struck.

    Nothing strikes before the first epoch nor while no worker lives, nor twice at once what there is once.
    """
    kinds = possible(study)
    open_faults: list[tuple[float, Kind, Mend]] = []
    struck: Counter[str] = Counter()
    try:
        while struck.total() < num_faults and not study.finished():
            study.tend()
            time.sleep(chance.uniform(*GAP_SECONDS))
            open_faults = _mend(open_faults, until=time.monotonic())
            [kind] = chance.choices(kinds, weights=[kind.weight for kind in kinds])
            pending = kind.target is not None and any(kind.target == other.target for _, other, _ in open_faults)
            if pending or not study.workers() or not (study.folder / LOG).exists():
                continue
            # Nobody is there any more, or somebody holds the lock already.
            with suppress(IndexError, psutil.NoSuchProcess, sqlite3.OperationalError):
                mend = kind.strike(study, chance)
                struck[kind.strike.__name__] += 1
                say(f"{struck.total()} {kind.strike.__name__}")
                if mend:
                    open_faults.append((time.monotonic() + mend.seconds, kind, mend))
    finally:
        _mend(open_faults, until=math.inf)
    return struck


def _mend(open_faults: list[tuple[float, Kind, Mend]], *, until: float) -> list[tuple[float, Kind, Mend]]:
    for due, _, mend in open_faults:
        if due <= until:
            with suppress(psutil.NoSuchProcess):
                mend.action()
    return [fault for fault in open_faults if fault[0] > until]
