"""How right the time left is: studies replayed from recorded curves, and what was foretold of them on the way.

`python -m benchmarks.time_left` prints a line for each of five studies and each moment of it: the epochs that were
foretold and those that were then trained; at 0% what is foretold of any such study before it begins. `--all` replays
every set on which nothing was tuned, in both orders, with K = 3, 5 and 10 and 10 and 30 trials, by one worker (every
other seed: four), and prints how many forecasts were right within a factor.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from benchmarks.replay.orders import Order, RandomOrder, TpeOrder, pool_of
from benchmarks.replay.policies import RacePolicy
from benchmarks.replay.recorded import Recorded, read_sets, recorded
from benchmarks.replay.simulator import Replay, replay
from fold_search.search.exporting.curves import Curves
from fold_search.search.racing.matrix import Matrix
from fold_search.search.racing.verdicts import Choice, Verdict
from fold_search.search.racing.work_left import Range, epochs_left, expected_work
from fold_search.search.reporting.lines import counted
from fold_search.search.study.sections import RaceConfig

CURVES = Path(__file__).parent / "replay" / "curves"
MOMENTS = (0.0, 0.1, 0.25, 0.5, 0.75)  # shares of the epochs that the study trains in the end
RIGHT = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Which recorded set is replayed, and how."""

    name: str
    folds: int
    trials: int
    order: str
    workers: int = 1
    seed: int = 0


FIVE = (
    Study(name="docs20", folds=5, trials=30, order="random"),
    Study(name="kev_cwe", folds=10, trials=30, order="tpe"),
    Study(name="r52", folds=3, trials=20, order="tpe"),
    Study(name="bccd", folds=5, trials=80, order="random", workers=4),
    Study(name="top12", folds=5, trials=50, order="tpe", workers=2),
)
UNTUNED = ("docs20", "kev_cwe", "r52", "bccd", "top12", "docs20_full", "kev_full")


@dataclass(slots=True, kw_only=True)
class Watched:
    """The race, which notes what is foretold once so many epochs are trained."""

    key: str  # of the study, in the draw of audits
    moments: Sequence[int] = ()
    every_epoch: bool = True
    forecasts: list[tuple[int, Range]] = field(default_factory=list)  # with the epochs trained by then
    race: RacePolicy = field(default_factory=lambda: RacePolicy(RaceConfig()))

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """As the race."""
        return self.race.verdict(self._look(matrix, trials_left), trial=trial, fold=fold, trials_left=trials_left)

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """As the race."""
        return self.race.next_fold_run(self._look(matrix, trials_left), trials_left=trials_left)

    def _look(self, matrix: Matrix, trials_left: int) -> Matrix:
        matrix, trained = replace(matrix, audit_key=self.key), int(matrix.num_epochs.sum())
        if len(self.forecasts) < len(self.moments) and trained >= self.moments[len(self.forecasts)]:
            usual = float(matrix.lengths.mean())
            left = epochs_left(matrix, settings=self.race.settings, trials_left=trials_left, num_epochs=usual)
            self.forecasts.append((trained, left))
        return matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """A forecast and what came of it, in epochs."""

    study: Study
    moment: float
    forecast: Range
    truth: int

    @property
    def ratio(self) -> float:
        """The middle of the range against the truth."""
        low, high = self.forecast
        return math.sqrt(low * high) / self.truth

    @property
    def is_right(self) -> bool:
        """Whether the middle is right within a factor of 1.5."""
        return 1 / RIGHT <= self.ratio <= RIGHT


def foretell(study: Study, sets: dict[str, list[Curves]]) -> Iterator[Foretold]:
    """Replay the study twice: to know how many epochs it trains, and to ask at each moment of that."""
    enough = [curves for curves in sets[study.name] if curves.standing.shape[1] >= study.folds]
    curves = min(enough, key=lambda curves: curves.standing.shape[1])
    of = recorded(curves, name=study.name, num_folds=study.folds, seed=study.seed)
    key = f"{study.name}/{study.seed}"
    total = _replay(study, of, curves, Watched(key=key)).epochs
    asked = Watched(key=key, moments=[math.ceil(total * moment) for moment in MOMENTS[1:]])
    drawn = _replay(study, of, curves, asked).drawn
    in_full = float(of.planned[list(drawn)].mean()) * study.trials * study.folds
    low, high = expected_work(num_trials=study.trials, num_folds=study.folds, num_workers=study.workers)
    asked.forecasts.insert(0, (0, (low * in_full, high * in_full)))
    for moment, (trained, forecast) in zip(MOMENTS, asked.forecasts, strict=True):
        yield Foretold(study=study, moment=moment, forecast=forecast, truth=total - trained)


def _replay(study: Study, of: Recorded, curves: Curves, policy: Watched) -> Replay:
    order: Order = RandomOrder(len(of.final), study.seed)
    if study.order == "tpe":
        order = TpeOrder(pool_of(curves.params), study.seed)
    return replay(of, policy=policy, order=order, workers=study.workers, num_trials=study.trials)


def show_five(sets: dict[str, list[Curves]]) -> str:
    """A line for each moment of each of the five studies."""
    rows = [["study", "at", "foretold epochs", "trained epochs", "middle / truth", "within 1.5"]]
    for study in FIVE:
        workers = counted(study.workers, "worker")
        words = f"{study.name}, K = {study.folds}, {study.trials} trials, {study.order}, {workers}"
        for found in foretell(study, sets):
            low, high = found.forecast
            right = "yes" if found.is_right else "**no**"
            at = f"{found.moment:.0%}"
            rows.append([words, at, f"{low:.0f} to {high:.0f}", str(found.truth), f"{found.ratio:.2f}", right])
    return _table(rows)


def show_all(sets: dict[str, list[Curves]], *, seeds: int) -> str:
    """How many forecasts of many studies were right, at each moment; and how far the share that is known before is."""
    studies = [
        Study(name=name, folds=folds, trials=trials, order=order, workers=1 + 3 * (seed % 2), seed=seed)
        for name, folds, trials, order, seed in product(UNTUNED, (3, 5, 10), (10, 30), ("random", "tpe"), range(seeds))
        if any(len(c.epochs) >= trials and c.standing.shape[1] >= folds for c in sets[name])
    ]
    found = [foretold for study in studies for foretold in foretell(study, sets)]
    rows = [["at", "studies", "within 1.5", "within 2", "middle / truth: median, 5% to 95%", "truth in the range"]]
    for moment in MOMENTS:
        here = [foretold for foretold in found if foretold.moment == moment]
        ratios = sorted(foretold.ratio for foretold in here)
        at = [ratios[int(share * (len(ratios) - 1))] for share in (0.5, 0.05, 0.95)]
        inside = sum(f.forecast[0] <= f.truth <= f.forecast[1] for f in here) / len(here)
        shares = [sum(1 / most <= ratio <= most for ratio in ratios) / len(ratios) for most in (RIGHT, 2.0)]
        spread = f"{at[0]:.2f}, {at[1]:.2f} to {at[2]:.2f}"
        rows.append([f"{moment:.0%}", str(len(here)), *(f"{s:.0%}" for s in shares), spread, f"{inside:.0%}"])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the header."""
    header, *lines = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *lines))


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="many studies, a line for each moment")
    parser.add_argument("--seeds", type=int, default=1, help="with --all, studies of each setting")
    arguments = parser.parse_args()
    sets = read_sets(CURVES, role=None, names=list(UNTUNED))
    print(show_all(sets, seeds=arguments.seeds) if arguments.all else show_five(sets))


if __name__ == "__main__":
    main()
