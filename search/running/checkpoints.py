"""The checkpoints of a fold run: the last two while it is trained, one while it is paused, none after its end."""

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median_low
from typing import Protocol

from fold_search.objectives.errors import TrialError
from fold_search.search.study.stored import CHECKPOINT, fold_folder
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Claim

log = logging.getLogger(__name__)


# What takes less is written after every epoch; the writing of others is to take a tenth of the training at most.
CHEAP_SECONDS = 0.5
MOST_SHARE = 0.1


class Restorable(Protocol):
    """A training that can go back to where it was saved."""

    @property
    def epoch(self) -> int:
        """The last epoch that is trained to its end; 0 before the first."""

    @property
    def within_epoch(self) -> bool:
        """Whether an epoch was left in its middle."""

    def save(self) -> bytes:
        """Return a checkpoint of the state after the last step."""

    def restore(self, checkpoint: bytes) -> None:
        """Go back there; raises TrialError, and changes nothing, if the checkpoint is damaged or another training's."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """Decides when a worker writes the next checkpoint, since writing one may take longer than an epoch."""

    trained: float = 0.0  # seconds of training that no checkpoint holds
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=3))  # seconds of the last ones, of all fold runs

    @property
    def due(self) -> bool:
        """Whether to write one now."""
        cost = median_low(self.costs) if self.costs else 0.0  # a disk may be slow for once
        return cost < CHEAP_SECONDS or cost <= MOST_SHARE * self.trained


@dataclass(slots=True, kw_only=True)
class Checkpoints:
    """What one claim reads, writes and removes of its fold run's checkpoints; every method may raise StorageError."""

    ledger: Ledger
    artifacts: Artifacts
    claim: Claim
    pace: Pace = field(default_factory=Pace)
    _generations: list[str] = field(default_factory=list)  # the oldest first; the ledger knows the last

    def restore(self, training: Restorable) -> None:
        """Take the training back to the last recorded epoch that has a whole checkpoint, or leave it at its start.

        A checkpoint that cannot be read is not deleted: perhaps only the connection to it is broken.
        """
        candidates = self._recorded()
        while candidates:
            try:
                training.restore(self.artifacts.get(candidates[-1]))
                break
            except (StorageError, TrialError) as error:
                found = f"trial {self.claim.trial} fold {self.claim.fold}: {error}"
                candidates.pop()
                log.warning(
                    "%s; %s",
                    found,
                    "the checkpoint before it is used" if candidates else "the fold starts again from its first epoch",
                )
        self._generations = candidates

    def save_when_due(self, training: Restorable, *, epoch: int) -> str | None:
        """Store the state after an epoch, if it is time; returns its name, to be recorded with the epoch."""
        return self._save(training, epoch=epoch) if self.pace.due else None

    def save_last(self, training: Restorable, *, epoch: int) -> None:
        """Store and record the state after a recorded epoch that a claim ends with, unless that is done."""
        if not self._generations or _epoch(self._generations[-1]) != epoch:
            self.ledger.record_checkpoint(self.claim, self._save(training, epoch=epoch))

    def save_left(self, training: Restorable) -> None:
        """Store and record where a training is left that goes on later: after an epoch, or in the middle of one."""
        if training.within_epoch:
            self.ledger.record_checkpoint(self.claim, self._save(training, epoch=training.epoch, kind=".left"))
        elif training.epoch:
            self.save_last(training, epoch=training.epoch)
        self.keep(2)

    def keep(self, generations: int) -> None:
        """Remove all but the last few; to be called when the last one is recorded."""
        while len(self._generations) > generations:
            self.artifacts.delete(self._generations[0])
            del self._generations[0]

    def bound_paused(self, most: int) -> None:
        """Remove checkpoints of the study's paused fold runs until there are `most`, the cheapest to train again first.

        Whoever claims one of them meanwhile finds none, and trains its recorded epochs again.
        """
        for name in self.ledger.forget_checkpoints(keep=most):
            self.artifacts.delete(name)

    def _recorded(self) -> list[str]:
        """The checkpoints of recorded epochs, the latest last; the one that the ledger names last of all.

        That one may hold some steps of the next epoch too.
        """
        if self.claim.checkpoint is None:
            return []
        last = self.claim.checkpoint
        epochs = range(1, self.claim.num_epochs + 1)
        found = [name for name in self.artifacts.names(self._folder) if _epoch(name) in epochs and name != last]
        return [*sorted(found, key=_epoch), last]

    def _save(self, training: Restorable, *, epoch: int, kind: str = "") -> str:
        start = time.perf_counter()
        # The token in the name keeps a late writer of an older lease away from this checkpoint.
        name = f"{self._folder}/{CHECKPOINT}{self.claim.token}-{epoch}{kind}.safetensors"
        self.artifacts.put(name, training.save())
        self._generations.append(name)
        self.pace.costs.append(time.perf_counter() - start)
        self.pace.trained = 0.0
        return name

    @property
    def _folder(self) -> str:
        return fold_folder(self.ledger, self.claim)


def _epoch(name: str) -> int:
    """The epoch after which a checkpoint was written; 0 for other names."""
    file = name.rpartition("/")[2]
    if not file.startswith(CHECKPOINT):
        return 0
    epoch = file.partition(".")[0].rpartition("-")[2]
    return int(epoch) if epoch.isdecimal() else 0
