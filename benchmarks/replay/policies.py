"""What a replay asks of a rule, and the race as one."""

from dataclasses import dataclass
from typing import Protocol

from fold_search.search.racing.matrix import Matrix
from fold_search.search.racing.policy import next_fold_run, verdict
from fold_search.search.racing.verdicts import Choice, Verdict
from fold_search.search.study.sections import RaceConfig


class Policy(Protocol):
    """A rule in one study; the matrix holds what was trained by now and changes after the call: nothing may keep it."""

    @property
    def every_epoch(self) -> bool:
        """Whether it is asked after every epoch, not at the ends of folds alone."""

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Judge a trial after an epoch of `fold`, which is RUNNING, or after that fold's end, when it is DONE."""

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """Choose what a free worker trains."""


@dataclass(frozen=True, slots=True)
class RacePolicy:
    """The race as users run it."""

    settings: RaceConfig

    @property
    def every_epoch(self) -> bool:
        """Every rule but none looks at epochs."""
        return self.settings.rule != "none"

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """See search.race."""
        return verdict(matrix, trial=trial, fold=fold, settings=self.settings, trials_left=trials_left)

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """See search.race."""
        return next_fold_run(matrix, settings=self.settings, trials_left=trials_left)
