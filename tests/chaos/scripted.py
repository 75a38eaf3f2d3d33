"""`search` with scripted trainings and short leases, its workers forked from a process that has imported everything.

With CHAOS_TRAINING=real the trainings are real ones, of a tiny encoder.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

import fold_search.search.running.coordinator
import fold_search.search.running.worker
import fold_search.search.study.beginning
import fold_search.storage.database
from fold_search.objectives.jobs import EpochScore
from fold_search.search.cli import main
from fold_search.search.running import worker_process
from fold_search.search.running.engines import local
from fold_search.search.study.rows import StudyRows
from fold_search.storage.records import Claim
from tests.chaos.study import BUSY_SECONDS, EPOCH_SECONDS, LEASE_SECONDS, LOG
from tests.search.scripted import ScriptedTraining

REAL = os.environ.get("CHAOS_TRAINING") == "real"
WARM = [
    f"fold_search.search.{name}"
    for name in ("study.beginning", "running.coordinator", "cli", "study.rows", "racing.live", "running.worker")
]
WARM_REAL = [
    *WARM,
    "fold_search.search.running.objective",
    "transformers.models.bert.modeling_bert",
    "sklearn.neighbors",
]


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

    def epochs(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochScore]:
        scores = super().epochs()
        while not self.finished and not stop():
            _log(self.claim, self.epoch + 1)
            time.sleep(EPOCH_SECONDS)
            yield next(scores)

    def save(self) -> bytes:
        return super().save() + b" " * 4096


class ScriptedObjective:
    """In the place of `search.running.objective.Objective`."""

    def __init__(self, rows: StudyRows, **_: object) -> None:
        self._rows = rows

    def __call__(self, claim: Claim) -> ChaosTraining:
        num_epochs = self._rows.config.training.epochs
        curve: list[float | Exception] = [_score(claim, epoch) for epoch in range(1, num_epochs + 1)]
        num_rows = int((self._rows.assignments == claim.fold).sum())
        return ChaosTraining(curve=curve, claim=claim, num_rows=num_rows)


def _log(claim: Claim, epoch: int) -> None:
    with open(LOG, "a") as log:
        log.write(f"{claim.token} {claim.trial} {claim.fold} {epoch}\n")


def _log_real_epochs() -> None:
    """Let real trainings write their epochs into the log, and compute on one core wherever they are continued."""
    from torch import set_num_threads

    from fold_search.search.running import objective

    begin = objective.Objective.__call__

    def logged(self: objective.Objective, claim: Claim) -> "objective.FoldTraining":
        training = begin(self, claim)
        steps = training.passes.steps

        def logged_steps(epoch: int) -> object:
            _log(claim, epoch)
            return steps(epoch)

        training.passes.steps = logged_steps
        return training

    objective.Objective.__call__ = logged
    objective.share_cores = lambda num_workers: set_num_threads(1)


def _score(claim: Claim, epoch: int) -> float:
    rate = math.log10(float(str(claim.params["learning_rate"])))
    level = 0.6 - 0.1 * (rate + 3) ** 2 + 0.02 * claim.fold - 0.2 * 0.5**epoch
    return level + 0.03 * _number(claim.params, claim.fold, epoch)


def _number(*key: object) -> float:
    """A number from 0 to 1 that looks random and is always the same for the same key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _forked(job: worker_process.WorkerJob, *arguments: object) -> None:
    # Else the server that forks outlives a killed `search run`, and its workers would not see that it is gone.
    os.close(forkserver._forkserver._forkserver_alive_fd)
    if REAL:
        _log_real_epochs()
    _run_worker(job, *arguments)


def shorten() -> None:
    """Make leases and waits short, and let workers die as often as they are killed."""
    local.MAX_DEATHS = 1_000_000
    fold_search.search.running.worker.Worker = partial(
        fold_search.search.running.worker.Worker, lease_seconds=LEASE_SECONDS
    )
    fold_search.search.running.coordinator.ROLE_SECONDS = LEASE_SECONDS
    fold_search.storage.database.BUSY_SECONDS = BUSY_SECONDS


def fork() -> None:
    """Let workers be forked."""
    worker_process.run_worker = _forked
    local.multiprocessing = ModuleType("multiprocessing")
    local.multiprocessing.get_context = lambda kind: multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(WARM_REAL if REAL else WARM)


def script() -> None:
    """Put scripted trainings in."""
    replaced = ModuleType("fold_search.search.running.objective")
    replaced.Objective, replaced.choose_device = ScriptedObjective, lambda index: "cpu"
    replaced.device_name, replaced.device_share = lambda device: "CPU", lambda index, num_workers: 1.0
    replaced.share_cores = replaced.limit_memory = lambda number: None
    sys.modules["fold_search.search.running.objective"] = replaced
    fold_search.search.study.beginning.check_encoders = lambda config: {}
    fold_search.search.study.beginning.check_disk = lambda *_, **__: []


faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
_run_worker = worker_process.run_worker
shorten()
fork()
if not REAL:
    script()
if __name__ == "__main__":
    main()
