"""Which parameters matter: the length scales of a process fitted to each recorded set, nothing known beforehand.

`python -m benchmarks.replay.length_scales FOLDER [--role tuning]` prints them by parameter; those that are short
everywhere are the usual ones of `search.space`.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.replay.recorded import Recorded, read_sets, recorded
from search.racing.beliefs import FLOOR
from search.racing.surrogate import fit, square_distances

KNOWN_WITH = 1e-6  # of the levels' variance: all their folds are trained


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="recorded curves")
    parser.add_argument("--role", default="tuning", help="of the sets, in sets.yaml")
    arguments = parser.parse_args()
    sets = [
        recorded(curves, name=f"{name}-{curves.standing.shape[1]}")
        for name, each in read_sets(arguments.folder, role=arguments.role, names=None).items()
        for curves in each
    ]
    scales = [fitted(of) for of in sets]
    print("| parameter | " + " | ".join(of.name for of in sets) + " |")
    print("|---" * (len(sets) + 1) + "|")
    for name in sorted({name for each in scales for name in each}):
        print(f"| {name} | " + " | ".join(f"{each[name]:.2f}" if name in each else "" for each in scales) + " |")


def fitted(of: Recorded) -> dict[str, float]:
    """The length scale of every parameter."""
    center = float(np.quantile(of.final, 0.75))
    levels = np.maximum(of.final, center - FLOOR * (of.final.max() - center))
    y = (levels - levels.mean()) / levels.std()
    squares = square_distances(of.params.tobytes(), of.params.shape, np.arange(len(y)).tobytes())
    nothing = np.full(len(of.parameters), np.nan)
    _, _, weights = fit(squares, y, np.full(len(y), KNOWN_WITH), nothing, iterations=100)
    return dict(zip(of.parameters, (weights**-0.5).tolist(), strict=True))


if __name__ == "__main__":
    main()
