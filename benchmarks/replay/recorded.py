"""Recorded curves as a replay reads them: the first folds alone, larger is better, and what each epoch costs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from search.curves import Curves, load_curves

Unit = Literal["epoch", "second"]
FloatArray = NDArray[np.float64]

SETS = Path(__file__).parent / "sets.yaml"
TIE = 1e-6  # means that differ by less are the same: scores are recorded in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The trials of one set, their first folds alone; `sign` times the metric, so that larger is better."""

    name: str
    scores: FloatArray  # (trials, folds, epochs), NaN after a fold run's last epoch
    lengths: NDArray[np.int64]  # (trials, folds): epochs of a fold run
    planned: NDArray[np.int64]  # (trials,): the same before patience ends one
    costs: FloatArray  # (trials, folds): of one epoch
    final: FloatArray  # (trials,): the mean over these folds after the last epoch
    test: FloatArray  # (trials,): the mean of these folds' models on the test file, NaN where there is none
    sign: float
    curves: Curves

    @property
    def work(self) -> FloatArray:
        """What each trial costs in full, (trials,)."""
        total: FloatArray = (self.costs * self.lengths).sum(axis=1)
        return total


def recorded(
    curves: Curves, *, name: str, num_folds: int | None = None, unit: Unit = "epoch", seed: int | None = None
) -> Recorded:
    """Take the first `num_folds` folds of the curves, in a random order by `seed`; ValueError if they have fewer."""
    most = curves.standing.shape[1]
    if not 2 <= (num_folds or most) <= most:
        raise ValueError(f"{name}: found {num_folds} folds, expected 2 to {most}")
    order = np.arange(most) if seed is None else np.random.default_rng((seed, 2)).permutation(most)
    folds = order[:num_folds]
    scores = curves.sign * curves.standing[:, folds].astype(np.float64)
    lengths = curves.lengths[:, folds].astype(np.int64)
    last = np.take_along_axis(scores, lengths[:, :, None] - 1, axis=2)[:, :, 0]
    return Recorded(
        name=name,
        scores=scores,
        lengths=lengths,
        planned=curves.epochs.astype(np.int64),
        costs=np.ones(lengths.shape) if unit == "epoch" else curves.seconds[:, folds].astype(np.float64),
        final=last.mean(axis=1),
        test=curves.sign * curves.test_folds[:, folds].astype(np.float64).mean(axis=1),
        sign=curves.sign,
        curves=curves,
    )


def read_sets(folder: Path | None, *, role: str | None, names: list[str] | None) -> dict[str, list[Curves]]:
    """Read the curves by set; ConfigError where a file cannot be used."""
    if folder is None:
        return {}
    declared = yaml.safe_load(SETS.read_text(encoding="utf-8"))["sets"]
    sets: dict[str, list[Curves]] = {}
    for path in sorted(folder.glob("*.npz")):
        name = re.sub(r"-\d+$", "", path.stem)
        if (names is None or name in names) and (role is None or declared.get(name, {}).get("role") == role):
            sets.setdefault(name, []).append(load_curves(path))
    return sets
