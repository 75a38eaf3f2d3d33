"""Which parameters matter: the variance of the score over the search space, by the race's model of all trials.

::

    levels of all trials --> Gaussian process --> surfaces drawn from it --> each parameter's share on each surface:
    (of stopped ones too)                                                    a mean and an interval

How much of a surface's variance a parameter causes is its total Sobol index; what it causes alone, its first-order
index (Jansen 1999; Saltelli et al. 2010, Computer Physics Communications 181). The indices of surfaces that are drawn
from the process have the spread of what the trials leave open (Le Gratiet, Cannamela and Iooss 2014, SIAM/ASA JUQ 2).
Surfaces are drawn as by Wilson et al. (2020, ICML): random Fourier features, corrected at the trials.

The process itself is taken as it was fitted, so that with few trials the intervals are somewhat too narrow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import qmc

from fold_search.models.params import Scalar
from fold_search.search.racing.beliefs import Levels, known_levels, rows_that_count
from fold_search.search.racing.matrix import BoolArray, FloatArray, Matrix, RunState
from fold_search.search.racing.surrogate import FEWEST_TRIALS, Surface, fit_surface
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS, Choices, Domain

__all__ = ["FEWEST_TRIALS", "Effect", "Importance", "Share", "importance"]

MOST_TRIALS = 200  # that the process rests on, spread evenly over the study
NUM_POINTS = 512  # of each of the two samples of the space
NUM_SURFACES = 100
NUM_FEATURES = 1000
NUM_VALUES = 13  # of a range, at which its effect is shown
POINTS_FOR_EFFECT = 128
INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The score that is expected at one value of a parameter, over all values of the others, with its interval."""

    value: Scalar
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The share of the variance over the space that one parameter causes, with its 90% interval.

    `share` counts what it causes together with others for each of them, so that all shares together may exceed 1.
    `alone` is what it causes whatever the others are.
    """

    name: str
    share: float
    low: float
    high: float
    alone: float
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The parameters, most important first, and what that is known from.

    `explained` is the share of the trials' differences that the others' params and scores predict; at 0 or below,
    params tell nothing yet, and the shares are guesses. `num_trials` were looked at, of which `num_partial` are not
    complete.
    """

    shares: tuple[Share, ...]
    num_trials: int
    num_partial: int
    explained: float


def importance(matrix: Matrix, config: StudyConfig) -> Importance | None:
    """Find out which of the searched parameters matter; None below 8 trials with a score, or with nothing to compare.

    The same matrix gives the same answer.
    """
    matrix = matrix.take(rows_that_count(matrix))
    # To the race a fold run that was stopped says nothing any more; here it counts as far as it was trained.
    matrix = replace(matrix, states=np.where(matrix.states >= RunState.ENDED, RunState.PAUSED, matrix.states))
    if not matrix.params.size or not matrix.done.any():
        return None
    levels = known_levels(matrix)
    rows = np.flatnonzero(levels.seen)
    if len(rows) > MOST_TRIALS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_TRIALS).astype(int)]
    surface = fit_surface(matrix.params[rows], _within_fence(levels.value[rows]), levels.variance[rows])
    if surface is None:
        return None
    space = _Space(config.space, config.fixed)
    shares = _shares(space, _Draws(surface, space, seed=config.study.seed), levels, sign=matrix.sign)
    return Importance(
        shares=tuple(sorted(shares, key=lambda share: (-share.share, share.name))),
        num_trials=len(rows),
        num_partial=int((~matrix.complete[rows]).sum()),
        explained=surface.explained,
    )


def _within_fence(levels: FloatArray) -> FloatArray:
    """Raise levels that are far below all others, as of training that diverged, to Tukey's fence (1977).

    They would be all that the surface shows.
    """
    if not levels.size:
        return levels
    low, high = np.quantile(levels, [0.25, 0.75])
    raised: FloatArray = np.maximum(levels, low - 1.5 * (high - low))
    return raised


def _shares(space: "_Space", draws: "_Draws", levels: Levels, *, sign: float) -> list[Share]:
    num = len(space.domains)
    uniform = qmc.Sobol(2 * num, rng=np.random.default_rng(draws.seed)).random(NUM_POINTS)
    one, other = uniform[:, :num], uniform[:, num:]
    at_one, at_other = draws.at(one), draws.at(other)  # (points, surfaces)
    variance = np.concatenate([at_one, at_other]).var(axis=0)
    variance = np.where(variance > 0, variance, np.inf)  # each param may have one value: all shares are 0
    found = []
    for column, (name, domain) in enumerate(space.domains.items()):
        mixed = one.copy()
        mixed[:, column] = other[:, column]
        at_mixed = draws.at(mixed)
        total = ((at_one - at_mixed) ** 2).mean(axis=0) / 2 / variance
        first = 1 - ((at_other - at_mixed) ** 2).mean(axis=0) / 2 / variance
        low, high = np.quantile(total, INTERVAL)
        found.append(
            Share(
                name=name,
                share=float(total.mean()),
                low=float(low),
                high=float(high),
                alone=float(min(max(first.mean(), 0.0), total.mean())),
                effects=_effects(space, draws, domain, column=column, at=one, levels=levels, sign=sign),
            )
        )
    return found


def _effects(
    space: "_Space", draws: "_Draws", domain: Domain, *, column: int, at: FloatArray, levels: Levels, sign: float
) -> tuple[Effect, ...]:
    points = at[:POINTS_FOR_EFFECT]
    # Where other values switch a parameter off, it has no effect to be shown.
    active = space.active(points)[:, column]
    points = points[active] if active.any() else points
    effects = []
    for place, value in _values(domain):
        mine = points.copy()
        mine[:, column] = place
        reached = sign * (levels.offset + draws.at(mine).mean(axis=0))
        low, high = np.quantile(reached, INTERVAL)
        effects.append(Effect(value=value, mean=float(reached.mean()), low=float(low), high=float(high)))
    return tuple(effects)


def _values(domain: Domain) -> list[tuple[float, Scalar]]:
    """Places from 0 to 1 along a parameter, and the value at each."""
    if isinstance(domain, Choices):
        return [((index + 0.5) / len(domain.choices), value) for index, value in enumerate(domain.choices)]
    places = np.linspace(0, 1, NUM_VALUES).tolist()
    if domain.log:
        return [(place, float(domain.low * (domain.high / domain.low) ** place)) for place in places]
    return [(place, float(domain.low + place * (domain.high - domain.low))) for place in places]


class _Space:
    """The space as a unit cube: parameters are independent there, also those that others switch off."""

    def __init__(self, domains: Mapping[str, Domain], fixed: Mapping[str, object]) -> None:
        self.domains = domains
        self.fixed = fixed

    def active(self, cube: FloatArray) -> BoolArray:
        """Which parameters have an effect at points (n, parameters) of the cube, of the same shape."""
        known: dict[str, BoolArray] = {}
        return np.stack([self._active(name, cube, known) for name in self.domains], axis=1)

    def _active(self, name: str, cube: FloatArray, known: dict[str, BoolArray]) -> BoolArray:
        if name not in known:
            known[name] = np.ones(len(cube), np.bool_)
            for other, allowed in PARAMETERS[name].when.items():
                known[name] &= self._meets(other, allowed, cube) & self._active(other, cube, known)
        return known[name]

    def _meets(self, other: str, allowed: list[str], cube: FloatArray) -> BoolArray:
        domain = self.domains.get(other)
        if not isinstance(domain, Choices):
            return np.full(len(cube), self.fixed[other] in allowed)
        fits = np.array([choice in allowed for choice in domain.choices])
        return np.asarray(fits[_index(cube[:, list(self.domains).index(other)], domain)])

    def positions(self, cube: FloatArray) -> FloatArray:
        """The points as the race sees trials (see `search.study.space.position`)."""
        columns = [
            np.where(active, _index(place, domain), -1.0)
            if isinstance(domain, Choices)
            else np.where(active, 0.9 * place, 0.45)
            for domain, place, active in zip(self.domains.values(), cube.T, self.active(cube).T, strict=True)
        ]
        return np.stack(columns, axis=1)


def _index(place: FloatArray, domain: Choices) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.minimum((place * len(domain.choices)).astype(np.int64), len(domain.choices) - 1)


class _Draws:
    """Surfaces that are drawn from the process, each as likely as the trials leave it."""

    def __init__(self, surface: Surface, space: _Space, *, seed: int) -> None:
        self.surface, self.space, self.seed = surface, space, seed
        rng = np.random.default_rng(seed)
        num_choices = [
            len(domain.choices) + 1 if isinstance(domain, Choices) else 0 for domain in space.domains.values()
        ]
        self._choices = num_choices
        width = sum(count or 1 for count in num_choices)
        # Frequencies of Matern 5/2: Student's t with 5 degrees of freedom.
        normal = rng.standard_normal((width, NUM_FEATURES))
        self._frequencies = normal / np.sqrt(rng.chisquare(5, NUM_FEATURES) / 5)
        self._phases = rng.uniform(0, 2 * np.pi, NUM_FEATURES)
        self._prior = rng.standard_normal((NUM_FEATURES, NUM_SURFACES))
        self._constant = rng.standard_normal(NUM_SURFACES)
        error = np.sqrt(surface.noise)[:, None] * rng.standard_normal((len(surface.points), NUM_SURFACES))
        self._pulls = surface.pulls(surface.levels[:, None] - self._before(surface.points) - error)

    def at(self, cube: FloatArray) -> FloatArray:
        """The levels on every surface at points of the cube, (points, surfaces)."""
        points = self.space.positions(cube)
        drawn = self._before(points) + (self.surface.kernel(points) + 1) @ self._pulls
        return self.surface.center + self.surface.scale * drawn

    def _before(self, points: FloatArray) -> FloatArray:
        """The same before the trials correct it."""
        waves = np.cos(self._embedded(points) @ self._frequencies + self._phases)
        drawn: FloatArray = np.sqrt(2 * self.surface.signal / NUM_FEATURES) * waves @ self._prior + self._constant
        return drawn

    def _embedded(self, points: FloatArray) -> FloatArray:
        """Points whose square distances are those of the kernel; choices are corners, all as far from each other."""
        columns = []
        for place, count, weight in zip(points.T, self._choices, self.surface.weights, strict=True):
            if count:
                corners = np.equal(place[:, None], np.arange(-1, count - 1))
                columns.append(0.5 * np.sqrt(weight) * corners)
            else:
                columns.append(np.sqrt(weight) * place[:, None])
        return np.concatenate(columns, axis=1)
