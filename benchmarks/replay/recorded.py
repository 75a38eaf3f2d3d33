"""Recorded curves as a replay reads them: the first folds alone, larger is better, and what each epoch costs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from fold_search.search.exporting.curves import Curves, load_curves
from fold_search.search.study.parameters import Choices, Range
from fold_search.search.study.space import position

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
    params: FloatArray  # (trials, parameters): where each lies in the space, see `search.space.position`
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
        params=positions(curves.params),
        sign=curves.sign,
        curves=curves,
    )


def positions(params: Sequence[Mapping[str, Any]]) -> FloatArray:
    """Where the trials lie in the space that they show, (trials, parameters that differ)."""
    space = {name: domain for name in sorted({*chain(*params)}) if (domain := _domain(name, params)) is not None}
    return np.array([position(space, sampled) for sampled in params]).reshape(len(params), len(space))


def _domain(name: str, params: Sequence[Mapping[str, Any]]) -> Range | Choices | None:
    """The range or the choices of one parameter's values, the range on the scale that spreads them more evenly."""
    values = list(dict.fromkeys(sampled[name] for sampled in params if name in sampled))
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(numbers) <= 2:
        return Choices(choices=tuple(values)) if len(values) > 1 else None
    low, high, middle = min(numbers), max(numbers), float(np.median(numbers))
    log = low > 0 and abs(np.log(middle / low) / np.log(high / low) - 0.5) < abs((middle - low) / (high - low) - 0.5)
    return Range(low=low, high=high, log=log)


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
