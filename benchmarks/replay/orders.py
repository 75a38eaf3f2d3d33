"""In which order a study draws its trials from the recorded ones: at random, or as TPE would choose among them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr

FloatArray = NDArray[np.float64]

NUM_STARTUP = 10
NUM_CANDIDATES = 24


class Order(Protocol):
    """Draws one recorded trial after the other, none twice."""

    @property
    def learns(self) -> bool:
        """Whether it looks at what it is told."""

    def draw(self, drawn: Sequence[int], ranking: Sequence[int]) -> int:
        """Return the next one; `ranking` are indices into `drawn`, best first, of those of which something is known."""


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """A permutation by seed."""

    num_trials: int
    seed: int
    _permutation: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._permutation.extend(np.random.default_rng(self.seed).permutation(self.num_trials).tolist())

    @property
    def learns(self) -> bool:
        """It does not."""
        return False

    def draw(self, drawn: Sequence[int], ranking: Sequence[int]) -> int:
        """Return the next one of the permutation."""
        return self._permutation[len(drawn)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The recorded parameters as points: numbers scaled to [0, 1], choices as indices."""

    numbers: FloatArray  # (trials, numeric parameters)
    choices: NDArray[np.int64]  # (trials, others)
    num_choices: NDArray[np.int64]  # (others,)


def pool_of(params: Sequence[dict[str, Any]]) -> Pool:
    """Scale the parameters; one that never changes is left out, and a missing value is a choice of its own."""
    names = sorted({name for trial in params for name in trial})
    numbers, choices = [], []
    for name in names:
        values = [trial.get(name) for trial in params]
        different = {repr(value) for value in values}
        if len(different) == 1:
            continue
        if (
            all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            and len(different) > 2
        ):
            numbers.append(_scaled(np.array(values, np.float64)))
        else:
            known = sorted(different)
            choices.append([known.index(repr(value)) for value in values])
    num_trials = len(params)
    return Pool(
        numbers=np.array(numbers, np.float64).reshape(-1, num_trials).T,
        choices=np.array(choices, np.int64).reshape(-1, num_trials).T,
        num_choices=np.array([max(column) + 1 for column in choices], np.int64),
    )


def _scaled(values: FloatArray) -> FloatArray:
    """Scale to [0, 1], by the logarithm where that spreads the values more evenly."""
    forms = [values, np.log(values)] if values.min() > 0 else [values]
    scaled = [(form - form.min()) / (form.max() - form.min()) for form in forms]
    return min(scaled, key=lambda form: abs(float(np.median(form)) - 0.5))


@dataclass(frozen=True, slots=True)
class TpeOrder:
    """Chooses among the recorded trials as Optuna's multivariate TPE does among all points (Bergstra et al. 2011).

    Of 24 trials that are left, drawn by the density l of the best tenth, the one with the largest l / g is next, g the
    density of all others; trials of which nothing is known yet count among these (constant liar). The kernels are
    Optuna's: a truncated normal as wide as the gap to the next point, a smoothed choice, and one flat prior.
    """

    pool: Pool
    seed: int
    _random: list[np.random.Generator] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random.append(np.random.default_rng((self.seed, 1)))

    @property
    def learns(self) -> bool:
        """It does."""
        return True

    def draw(self, drawn: Sequence[int], ranking: Sequence[int]) -> int:
        """Return the next one, at random while fewer than 10 are ranked."""
        [random] = self._random
        left = np.setdiff1d(np.arange(len(self.pool.numbers)), drawn)
        if len(ranking) < NUM_STARTUP:
            return int(random.choice(left))
        best = np.sort(ranking[: min(math.ceil(0.1 * len(ranking)), 25)])
        points = np.array(drawn)
        others = np.delete(points, best)
        good = log_density(self.pool, points[best], left)
        candidates = np.argsort(-(good + random.gumbel(size=len(left))))[:NUM_CANDIDATES]
        ratio = good[candidates] - log_density(self.pool, others, left[candidates])
        return int(left[candidates[ratio.argmax()]])


def log_density(pool: Pool, observed: NDArray[np.int64], at: NDArray[np.int64]) -> FloatArray:
    """Return the logarithm of the Parzen density of the trials `observed`, oldest first, at the trials `at`, (at,)."""
    num_kernels = len(observed) + 1
    weights = _weights(len(observed))
    total = np.tile(np.log(weights / weights.sum()), (len(at), 1))
    if pool.numbers.shape[1]:
        centres, widths = _kernels(pool.numbers[observed])
        distances = (pool.numbers[at][:, None, :] - centres) / widths
        inside = _log_mass(-centres / widths, (1 - centres) / widths)
        total += (-0.5 * distances**2 - np.log(widths * math.sqrt(2 * math.pi)) - inside).sum(axis=2)
    for column, size in enumerate(pool.num_choices.tolist()):
        chances = np.full((num_kernels, size), 1.0 / num_kernels)
        chances[np.arange(len(observed)), pool.choices[observed, column]] += 1
        chances /= chances.sum(axis=1, keepdims=True)
        total += np.log(chances[:, pool.choices[at, column]]).T
    density: FloatArray = logsumexp(total, axis=1)
    return density


def _weights(num_points: int) -> FloatArray:
    """What each kernel counts, (points + 1,): the last 25 and the prior in full, older ones the less."""
    ramp = np.linspace(1 / max(num_points, 1), 1, max(num_points - 25, 0))
    return np.concatenate([ramp, np.ones(min(num_points, 25) + 1)])


def _kernels(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return centres and widths, (points + 1, parameters), the last one the prior; as Optuna's magic clip has them."""
    num_points, num_parameters = points.shape
    order = np.argsort(points, axis=0)
    edges = np.zeros((1, num_parameters))
    ranked = np.concatenate([edges, np.take_along_axis(points, order, axis=0), edges + 1])
    gaps = np.diff(ranked, axis=0)
    wide = np.maximum(gaps[:-1], gaps[1:])
    if num_points >= 2:  # the ends of the range are no neighbours
        wide[0], wide[-1] = gaps[1], gaps[-2]
    widths = np.empty_like(points)
    np.put_along_axis(widths, order, wide, axis=0)
    widths = np.clip(widths, 1 / min(100.0, 2.0 + num_points), 1.0)
    return np.concatenate([points, edges + 0.5]), np.concatenate([widths, edges + 1])


def _log_mass(low: FloatArray, high: FloatArray) -> FloatArray:
    """The logarithm of the standard normal mass between the two, low <= 0 <= high."""
    mass: FloatArray = np.log(ndtr(high) - ndtr(low))
    return mass
