"""Curves written down by hand, and scripted policies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.replay.policies import RacePolicy
from fold_search.search.exporting.curves import Curves
from fold_search.search.racing.matrix import Matrix
from fold_search.search.racing.verdicts import Choice, Decision, Verdict
from fold_search.search.study.sections import RaceConfig

CONTINUE = Verdict(decision=Decision.CONTINUE)


def curves_of(
    trials: Sequence[Sequence[Sequence[float]]], *, direction: str = "maximize", seconds: float = 1.0
) -> Curves:
    """Curves of trials x folds x epochs; fold runs may differ in length. The test score is the final one less 0.1."""
    lengths = np.array([[len(fold) for fold in folds] for folds in trials], np.int16)
    standing = np.full((*lengths.shape, lengths.max()), np.nan, np.float32)
    for trial, folds in enumerate(trials):
        for fold, curve in enumerate(folds):
            standing[trial, fold, : len(curve)] = curve
    last = np.array([[fold[-1] for fold in folds] for folds in trials])
    return Curves(
        numbers=np.arange(len(trials)),
        standing=standing,
        lengths=lengths,
        epochs=np.full(len(trials), lengths.max()),
        seconds=np.full(lengths.shape, seconds, np.float32),
        final=last.mean(axis=1),
        test_folds=(last - 0.1).astype(np.float32),
        test_ensemble=(last.mean(axis=1) - 0.1).astype(np.float32),
        params=tuple({"x": float(trial)} for trial in range(len(trials))),
        about={"direction": direction},
    )


@dataclass
class Listed:
    """Draws the trials as they are recorded, or as `rows` says."""

    learns: bool = False
    rows: tuple[int, ...] | None = None
    seen: list[list[int]] = field(default_factory=list)

    def draw(self, drawn: Sequence[int], ranking: Sequence[int]) -> int:
        self.seen.append(list(ranking))
        return len(drawn) if self.rows is None else self.rows[len(drawn)]


@dataclass
class Scripted:
    """Says what `rule` says of (matrix, trial, fold), and trains trial by trial; a log of what it was asked."""

    rule: Callable[[Matrix, int, int], Verdict] = lambda matrix, trial, fold: CONTINUE
    every_epoch: bool = True
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        self.asked.append((trial, fold, int(matrix.num_epochs[trial, fold])))
        self.left.append(trials_left)
        return self.rule(matrix, trial, fold)

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        return RacePolicy(RaceConfig(rule="none")).next_fold_run(matrix, trials_left=trials_left)
