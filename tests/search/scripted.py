"""A scripted curve in place of a network, and scripted verdicts in place of a rule."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.errors import TrialError
from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.policy import next_fold_run
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.study.sections import RaceConfig
from fold_search.storage.records import Claim


@dataclass
class ScriptedTraining:
    """Yields the scores of `curve`; an exception in it is raised at its place."""

    curve: list[float | Exception]
    epoch: int = 0
    log: list[int] = field(default_factory=list)
    within_epoch: bool = False

    @property
    def sample(self) -> LeakProof:
        rows, counts = np.arange(6), np.array([4, 2])
        return LeakProof(
            rows_in=rows,
            rows_out=rows,
            counts_before=counts,
            counts_after=counts,
            num_synthetic=0,
            num_validation_rows_used=0,
        )

    @property
    def finished(self) -> bool:
        return self.epoch >= len(self.curve)

    @property
    def best(self) -> EpochScore:
        seen = [score for score in self.curve[: self.epoch] if isinstance(score, float)]
        return self._score(seen.index(max(seen)) + 1)

    @property
    def best_predictions(self) -> NDArray[np.float32]:
        return np.full((2, 2), self.best.score, dtype=np.float32)

    @property
    def best_weights(self) -> bytes:
        return str(self.best.score).encode()

    def epochs(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochScore]:
        while self.epoch < len(self.curve) and not stop():
            score = self.curve[self.epoch]
            if isinstance(score, Exception):
                raise score
            self.epoch += 1
            self.log.append(self.epoch)
            yield self._score(self.epoch)

    def save(self) -> bytes:
        return json.dumps(self.epoch).encode()

    def restore(self, checkpoint: bytes) -> None:
        try:
            self.epoch = json.loads(checkpoint)
        except ValueError:
            raise TrialError("the checkpoint is damaged") from None

    def _score(self, epoch: int) -> EpochScore:
        value = self.curve[epoch - 1]
        assert isinstance(value, float)
        best = max(score for score in self.curve[:epoch] if isinstance(score, float))
        metrics = {"train_loss": 1.0, "val_loss": 1.0}
        return EpochScore(epoch=epoch, score=value, standing=best, metrics=metrics, seconds=0.1)


@dataclass
class Script:
    """An objective: what each (trial, fold) will score, and a log of every epoch that was really trained."""

    curves: Callable[[int, int], list[float | Exception]]
    trained: list[tuple[int, int, int]] = field(default_factory=list)
    on_epoch: Callable[[int, int, int], None] = lambda trial, fold, epoch: None

    def __call__(self, claim: Claim) -> "LoggedTraining":
        return LoggedTraining(curve=self.curves(claim.trial, claim.fold), claim=claim, script=self)


@dataclass(kw_only=True)
class LoggedTraining(ScriptedTraining):
    """A scripted training that tells its script which epochs it trained."""

    claim: Claim
    script: Script

    def epochs(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochScore]:
        for score in super().epochs(stop):
            self.script.trained.append((self.claim.trial, self.claim.fold, score.epoch))
            self.script.on_epoch(self.claim.trial, self.claim.fold, score.epoch)
            yield score


def waits(matrix: Matrix) -> Choice | None:
    """Nothing more once something is paused: the test says when that goes on."""
    return Choice(action=Action.WAIT) if (matrix.states == RunState.PAUSED).any() else None


def least_trained(matrix: Matrix) -> Choice | None:
    """What has the fewest epochs of all that may run."""
    free = np.isin(matrix.states, (RunState.WAITING, RunState.PAUSED)) & matrix.open[:, None]
    if not free.any():
        return None
    row, fold = np.unravel_index(int(np.where(free, matrix.num_epochs, 1000).argmin()), free.shape)
    return Choice(action=Action.RUN, trial=int(matrix.numbers[row]), fold=int(fold))


@dataclass(kw_only=True)
class ScriptedRace:
    """A race whose verdicts are written down by (trial, fold, epochs), and that chooses as without a race.

    `choose` may answer before that; `asked` are the (trial, fold, epochs, done) of all verdicts.
    """

    verdicts: Mapping[tuple[int, int, int], Verdict] = field(default_factory=dict)
    choose: Callable[[Matrix], Choice | None] = lambda matrix: None
    asked: list[tuple[int, int, int, bool]] = field(default_factory=list)

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, settings: RaceConfig, trials_left: int = 0) -> Verdict:
        row = matrix.row(trial)
        epochs = int(matrix.num_epochs[row, fold])
        self.asked.append((trial, fold, epochs, bool(matrix.done[row, fold])))
        return self.verdicts.get((trial, fold, epochs), Verdict(decision=Decision.CONTINUE))

    def next_fold_run(self, matrix: Matrix, *, settings: RaceConfig, trials_left: int) -> Choice:
        chosen = self.choose(matrix)
        return chosen or next_fold_run(matrix, settings=RaceConfig(rule="none"), trials_left=trials_left)
