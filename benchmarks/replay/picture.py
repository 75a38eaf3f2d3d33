"""Draw the epochs that the race trains in a replayed study: `python -m benchmarks.replay.picture CURVES.npz OUT`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.replay.orders import RandomOrder
from benchmarks.replay.policies import RacePolicy
from benchmarks.replay.recorded import recorded
from benchmarks.replay.simulator import replay
from fold_search.search.exporting.curves import load_curves
from fold_search.search.racing.matrix import Matrix
from fold_search.search.racing.verdicts import Choice, Verdict
from fold_search.search.study.sections import RaceConfig


@dataclass
class Watched:
    """The race, which notes the trial and the fold of every epoch."""

    race: RacePolicy
    every_epoch: bool = True
    epochs: list[tuple[int, int]] = field(default_factory=list)

    def verdict(self, matrix: Matrix, *, trial: int, fold: int, trials_left: int) -> Verdict:
        """Note the epoch, then ask the race."""
        self.epochs.append((trial, fold))
        return self.race.verdict(matrix, trial=trial, fold=fold, trials_left=trials_left)

    def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
        """Ask the race."""
        return self.race.next_fold_run(matrix, trials_left=trials_left)


def main() -> None:
    """Draw a study with the first seed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    of = recorded(load_curves(source), name=source.stem)
    num_trials, num_folds, num_epochs = of.scores.shape
    watched = Watched(RacePolicy(RaceConfig(audit=0.0)))
    found = replay(of, policy=watched, order=RandomOrder(num_trials, 0))
    trials, folds = np.array(watched.epochs).T
    best = int(of.final[list(found.drawn)].argmax())
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    full = num_folds * num_epochs
    axes.plot([0, num_trials * full], [0, num_trials], color="0.8", label="without a race")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, num_folds))
    for fold in range(num_folds):
        at = np.flatnonzero(folds == fold)
        axes.scatter(at + 1, trials[at], s=3, color=colours[fold], label=f"fold {fold}", linewidths=0)
    axes.annotate(
        f"the best, trial {best}, is complete", (found.completed[best], best), xytext=(15, 10), fontsize=8,
        textcoords="offset points", arrowprops={"arrowstyle": "->"},
    )  # fmt: skip
    axes.axvline(found.end, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"epochs trained in the study (all: {num_trials * full})", ylabel="trial")
    axes.set_title(f"{source.stem}: {found.epochs / (num_trials * full):.0%} of the work", fontsize=9, loc="left")
    axes.legend(markerscale=3, fontsize=7, loc="lower right")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
