"""What a replayed study came to, against the same study without a race; and many studies at once."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from benchmarks.replay.orders import Order, Pool, RandomOrder, TpeOrder, pool_of
from benchmarks.replay.policies import Policy, RacePolicy
from benchmarks.replay.recorded import TIE, Recorded, Unit, recorded
from benchmarks.replay.simulator import Replay, Stated, replay
from fold_search.search.exporting.curves import Curves
from fold_search.search.study.sections import RaceConfig

OrderName = Literal["random", "tpe"]
Rules = Mapping[str, Callable[[], Policy]]  # a new policy for each study


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One study: which set, how many of its folds, in which order, by how many workers."""

    set_name: str
    folds: int
    order: OrderName
    workers: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A chance that a rule stated of a trial, and whether that trial was the best after all its folds."""

    chance: float | None
    best: bool
    kind: Literal["stopped", "left", "audited"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One study under one rule; regrets are in the metric's unit, above 0 where the rule chose worse."""

    rule: str
    setting: Setting
    share: float  # of the work of all trials in full
    speedup: float  # time until the best that either study drew is complete: without a race, over the rule's
    censored: bool  # it was never complete
    lost: bool  # the best of the trials was not complete at the end
    validation_regret: float
    test_regret: float  # NaN where there are no test scores
    claims: tuple[Claimed, ...]


def no_race() -> Policy:
    """Every trial in full, one after the other."""
    return RacePolicy(RaceConfig(rule="none"))


def outcome(found: Replay, reference: Replay, *, of: Recorded, rule: str, setting: Setting) -> Outcome:
    """Compare a study with the same one without a race.

    The best are the trials with the best mean over all folds, several where they tie. TPE, told other scores, may draw
    others than without a race: the speed-up is then to the best that either study drew, so that none is favoured by
    having drawn it, and all else is about what the study itself drew. Which of the two never completes it is taken to
    have done so when the later of them ended.
    """
    # In the order in which they were drawn: of several that tie the first is chosen.
    rows = np.array(reference.drawn if {*found.drawn} <= {*reference.drawn} else found.drawn)
    best = float(of.final[rows].max())
    target = float(of.final[[*found.drawn, *reference.drawn]].max())
    reached, needed = _reached(found, of, target), _reached(reference, of, target)
    end = max(found.end, reference.end)
    chosen = found.drawn[found.chosen]
    winner = int(rows[of.final[rows].argmax()])
    return Outcome(
        rule=rule,
        setting=setting,
        share=found.work / float(of.work[rows].sum()),
        speedup=min(needed, end) / min(reached, end),
        censored=bool(np.isinf(reached)),
        lost=bool(np.isinf(_reached(found, of, best))),
        validation_regret=best - float(of.final[chosen]),
        test_regret=float(of.test[winner] - of.test[chosen]),
        claims=tuple(_claim(stated, found, of, best) for stated in found.stated),
    )


def _reached(found: Replay, of: Recorded, target: float) -> float:
    """When the first trial that is as good as the target was complete; infinity if never."""
    good = of.final[list(found.drawn)] >= target - TIE
    return float(found.completed[good].min(initial=np.inf))


def _claim(stated: Stated, found: Replay, of: Recorded, best: float) -> Claimed:
    is_best = bool(of.final[found.drawn[stated.trial]] >= best - TIE)
    return Claimed(chance=stated.chance, best=is_best, kind=stated.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """All studies of a comparison: every set with every number of folds that it has, order, workers and seed.

    A set may have been recorded with several numbers of folds; the fewest that are enough are taken.
    """

    sets: Mapping[str, Sequence[Curves]]
    folds: Sequence[int]
    orders: Sequence[OrderName] = ("random",)
    workers: Sequence[int] = (1,)
    num_studies: int = 50  # of each setting
    num_trials: int | None = None
    unit: Unit = "epoch"
    shuffle_folds: bool = False  # by seed: each study then has another first fold, and of K = 3 of 5 other folds

    def settings(self) -> list[Setting]:
        """All settings, seed by seed."""
        grid = product(range(self.num_studies), self.sets, self.folds, self.orders, self.workers)
        return [
            Setting(set_name=name, folds=folds, order=order, workers=workers, seed=seed)
            for seed, name, folds, order, workers in grid
            if self.curves(name, folds) is not None
        ]

    def curves(self, name: str, folds: int) -> Curves | None:
        """The set's curves with the fewest folds that are at least so many; None if it has not so many."""
        enough = [curves for curves in self.sets[name] if curves.standing.shape[1] >= folds]
        return min(enough, key=lambda curves: curves.standing.shape[1], default=None)


def compare(studies: Studies, rules: Rules, *, processes: int | None = None) -> Iterator[Outcome]:
    """Yield the outcome of every setting under every rule, in the settings' order."""
    settings = studies.settings()
    work = _Comparison(studies, rules)
    if processes == 1:
        for setting in settings:
            yield from work.outcomes(setting)
        return
    _Comparison.current = work
    # Forked, so that rules may be any callables and the curves are there once.
    with multiprocessing.get_context("fork").Pool(processes or os.cpu_count()) as pool:
        for outcomes in pool.imap(_outcomes, settings, chunksize=4):
            yield from outcomes


class _Comparison:
    """The sets as they are replayed, prepared once."""

    current: "_Comparison"

    def __init__(self, studies: Studies, rules: Rules) -> None:
        self._studies, self._rules = studies, rules
        self._recorded: dict[tuple[str, int], Recorded] = {}
        self._pools: dict[tuple[str, int], Pool] = {}
        for name, folds in product(studies.sets, studies.folds):
            curves = studies.curves(name, folds)
            if curves is not None:
                self._recorded[name, folds] = recorded(curves, name=name, num_folds=folds, unit=studies.unit)
                self._pools[name, folds] = pool_of(curves.params)

    def outcomes(self, setting: Setting) -> list[Outcome]:
        """Replay one setting under every rule."""
        of = self._recorded[setting.set_name, setting.folds]
        if self._studies.shuffle_folds:
            unit = self._studies.unit
            of = recorded(of.curves, name=of.name, num_folds=setting.folds, unit=unit, seed=setting.seed)
        reference = self._replay(of, setting, no_race())
        return [
            outcome(self._replay(of, setting, make()), reference, of=of, rule=rule, setting=setting)
            for rule, make in self._rules.items()
        ]

    def _replay(self, of: Recorded, setting: Setting, policy: Policy) -> Replay:
        order: Order
        if setting.order == "tpe":
            order = TpeOrder(self._pools[setting.set_name, setting.folds], setting.seed)
        else:
            order = RandomOrder(len(of.final), setting.seed)
        return replay(of, policy=policy, order=order, workers=setting.workers, num_trials=self._studies.num_trials)


def _outcomes(setting: Setting) -> list[Outcome]:
    return _Comparison.current.outcomes(setting)
