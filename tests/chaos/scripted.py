"""`search` with scripted trainings and short leases, its workers forked from a process that has imported everything.

`python -m tests.chaos.scripted run --study ...` does what `search run --study ...` does: the same command line, study
file, coordinator, workers, ledger, artifacts and publisher. A killed worker then costs milliseconds, not the seconds
in which a spawned one imports its libraries. Every epoch that is begun is a line in `epochs.log`, outside the database.
"""

import faulthandler
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

import search.beginning
import search.coordinator
import search.worker
import storage.database
from objectives.jobs import EpochScore
from search.cli import main
from search.engines import local
from search.rows import StudyRows
from storage.records import Claim
from tests.chaos.study import BUSY_SECONDS, EPOCH_SECONDS, LEASE_SECONDS, LOG
from tests.search.scripted import ScriptedTraining

WARM = [f"search.{name}" for name in ("beginning", "coordinator", "cli", "rows", "scores", "worker")]


@dataclass(kw_only=True)
class ChaosTraining(ScriptedTraining):
    """Scores are a function of params, fold and epoch; each epoch takes a while and is written into the log."""

    claim: Claim
    num_rows: int

    @property
    def best_predictions(self) -> NDArray[np.float32]:
        best = self.best.epoch
        share = [_number(self.claim.params, self.claim.fold, best, row) for row in range(self.num_rows)]
        return np.array([[value, 1 - value] for value in share], dtype=np.float32)

    def epochs(self) -> Iterator[EpochScore]:
        scores = super().epochs()
        while not self.finished:
            with open(LOG, "a") as log:
                log.write(f"{self.claim.token} {self.claim.trial} {self.claim.fold} {self.epoch + 1}\n")
            time.sleep(EPOCH_SECONDS)
            yield next(scores)

    def save(self) -> bytes:
        return super().save() + b" " * 4096


class ScriptedObjective:
    """In the place of `search.objective.Objective`."""

    def __init__(self, rows: StudyRows, **_: object) -> None:
        self._rows = rows

    def __call__(self, claim: Claim) -> ChaosTraining:
        num_epochs = self._rows.config.training.epochs
        curve: list[float | Exception] = [_score(claim, epoch) for epoch in range(1, num_epochs + 1)]
        num_rows = int((self._rows.assignments == claim.fold).sum())
        return ChaosTraining(curve=curve, claim=claim, num_rows=num_rows)


def _score(claim: Claim, epoch: int) -> float:
    rate = math.log10(float(str(claim.params["learning_rate"])))
    level = 0.6 - 0.1 * (rate + 3) ** 2 + 0.02 * claim.fold - 0.2 * 0.5**epoch
    return level + 0.03 * _number(claim.params, claim.fold, epoch)


def _number(*key: object) -> float:
    """A number from 0 to 1 that looks random and is always the same for the same key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _forked(job: local.WorkerJob, *arguments: object) -> None:
    # Else the server that forks outlives a killed `search run`, and its workers would not see that it is gone.
    os.close(forkserver._forkserver._forkserver_alive_fd)
    _run_worker(job, *arguments)


def shorten() -> None:
    """Make leases and waits short, and let workers die as often as they are killed."""
    local.MAX_DEATHS = 1_000_000
    search.worker.Worker = partial(search.worker.Worker, lease_seconds=LEASE_SECONDS)
    search.coordinator.ROLE_SECONDS = LEASE_SECONDS
    storage.database.BUSY_SECONDS = BUSY_SECONDS


def script() -> None:
    """Put scripted trainings and forked workers in."""
    replaced = ModuleType("search.objective")
    replaced.Objective, replaced.choose_device = ScriptedObjective, lambda index: "cpu"
    replaced.share_cores = replaced.limit_memory = lambda number: None
    sys.modules["search.objective"] = replaced
    search.beginning._check_encoders = lambda config: {}
    search.beginning.check_disk = lambda *_, **__: []
    local.run_worker = _forked
    local.multiprocessing = ModuleType("multiprocessing")
    local.multiprocessing.get_context = lambda kind: multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(WARM)


faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
_run_worker = local.run_worker
shorten()
if os.environ.get("CHAOS_TRAINING") != "real":
    script()
if __name__ == "__main__":
    main()
