"""Draw what the race states against what is observed: `python -m benchmarks.replay.calibration FOLDER OUT.png`.

Stated is the sum of the chances of all trials that a study leaves unfinished, observed the share of studies in which
the best was among them, at several risks: on the reporting sets, and on synthetic curves that break the assumptions.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.replay.outcomes import Outcome, Studies, compare
from benchmarks.replay.recorded import read_sets
from benchmarks.replay.rules import rule_of
from benchmarks.replay.synthetic import KINDS, synthetic
from benchmarks.replay.tables import clopper_pearson
from fold_search.search.exporting.curves import Curves

RISKS = (0.02, 0.05, 0.1, 0.2, 0.5)
NUM_SYNTHETIC = 10  # sets of each kind
NUM_TRIALS = 80

Point = tuple[float, float, float, float]  # stated, observed, and the interval of that


def main() -> None:
    """Replay, print a line for each group and risk, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--studies", type=int, default=10, help="of each recorded set; a fifth of each synthetic one")
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    recorded = read_sets(arguments.folder, role="reporting", names=None)
    groups: dict[str, list[Point]] = {}
    for folds in (5, 3):
        groups[f"recorded, K = {folds}"] = replayed(recorded, folds, arguments.studies, arguments.processes)
    for kind in KINDS[1:]:
        sets = {f"{kind} {seed}": [synthetic(kind=kind, seed=seed)] for seed in range(NUM_SYNTHETIC)}
        groups[f"{kind}, K = 5"] = replayed(sets, 5, max(1, arguments.studies // 5), arguments.processes)
    for name, points in groups.items():
        for risk, (stated, observed, low, high) in zip(RISKS, points, strict=True):
            print(f"{name}, risk {risk:g}: stated {stated:.3f}, observed {observed:.3f} ({low:.3f} to {high:.3f})")
    draw(groups, arguments.out)


def replayed(sets: Mapping[str, Sequence[Curves]], folds: int, num_studies: int, processes: int | None) -> list[Point]:
    """Replay the studies at every risk; what was stated of them a study, and the share that lost the best."""
    studies = Studies(sets=sets, folds=[folds], num_studies=num_studies, num_trials=NUM_TRIALS, shuffle_folds=True)
    rules = [f"paired:risk={risk},audit=0" for risk in RISKS]
    found: dict[str, list[Outcome]] = {rule: [] for rule in rules}
    for outcome in compare(studies, {rule: rule_of(rule) for rule in rules}, processes=processes):
        found[outcome.rule].append(outcome)
    points = []
    for outcomes in found.values():
        stated = np.mean([sum(claim.chance or 0.0 for claim in outcome.claims) for outcome in outcomes])
        lost = sum(outcome.lost for outcome in outcomes)
        points.append((float(stated), lost / len(outcomes), *clopper_pearson(lost, len(outcomes))))
    return points


def draw(groups: Mapping[str, Sequence[Point]], out: Path) -> None:
    """Draw a line for each group, the diagonal where what is stated is true."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    least, most = 0.0, 1.0
    axes.plot([least, most], [least, most], color="0.8", zorder=0)
    for index, (name, points) in enumerate(groups.items()):
        stated, observed, low, high = np.array(points).T
        bars = [observed - low, high - observed]
        axes.errorbar(
            stated, observed, bars, fmt=f"{'osD^v'[index]}-", label=name, markersize=4, linewidth=0.8, capsize=2
        )
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    ticks = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5]
    axes.set(xlim=(0, 0.5), ylim=(0, 0.6), xticks=ticks, yticks=ticks)
    axes.set(xlabel="stated: chances of what a study leaves unfinished", ylabel="observed: studies that lost the best")
    axes.legend(fontsize=7)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
