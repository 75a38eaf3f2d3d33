"""Which trials are tied with the best one: not different from it by their fold scores; pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """A complete trial, its difference to the best one, `difference` >= 0, and the p-value of that difference."""

    trial: int
    score: float
    difference: float
    p_value: float


def tied_with(best: int, scores: Mapping[int, Sequence[float]]) -> list[Tie]:
    """Return the trials tied with the best, the nearest first; `scores` are the complete trials', one for each fold.

    A trial differs from the best if the corrected resampled t-test over the same folds says so, at 5% after Holm's
    correction over all trials. Few folds tell little about the noise of one difference, so the noise is pooled over the
    better half of the trials. A trial with a score that is not finite is never tied.
    """
    tested = tested_against(best, scores)
    different = holm(np.array([tie.p_value for tie in tested]), alpha=ALPHA)
    return [tie for tie, told in zip(tested, different, strict=True) if not told]


def tested_against(best: int, scores: Mapping[int, Sequence[float]]) -> list[Tie]:
    """Return all trials with finite scores, the nearest first, tested against the best as `tied_with` does.

    The p-values are not corrected for how many they are.
    """
    others = [trial for trial, own in scores.items() if trial != best and all(map(math.isfinite, own))]
    if not others:
        return []
    values = np.array([scores[trial] for trial in others], dtype=np.float64)
    differences = np.array(scores[best], dtype=np.float64) - values
    variance, degrees = _noise(differences)
    p_values = resampled_t_test(differences, variance=variance, degrees=degrees)
    tested = [
        Tie(trial=trial, score=float(own.mean()), difference=abs(float(gap.mean())), p_value=float(p))
        for trial, own, gap, p in zip(others, values, differences, p_values, strict=True)
    ]
    return sorted(tested, key=lambda tie: (tie.difference, tie.trial))


def _noise(differences: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of one fold's difference to the best, and its degrees of freedom: the trial x fold residual's, twice.

    From the better half of the trials, the best included; `differences` is (other trials, folds).
    """
    num_others, num_folds = differences.shape
    nearest = np.argsort(np.abs(differences.mean(axis=1)), kind="stable")[: (num_others + 1) // 2]
    scores = np.vstack([np.zeros(num_folds), -differences[nearest]])  # up to the best's own, which are in all of them
    residual = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    degrees = (len(scores) - 1) * (num_folds - 1)
    return 2 * float((residual**2).sum()) / degrees, degrees


def resampled_t_test(
    differences: ArrayLike, *, variance: float | None = None, degrees: int | None = None
) -> NDArray[np.float64]:
    """Return the two-sided p-values of mean differences, (...), of per-fold differences, (..., folds).

    The folds' training rows overlap, for which the variance is corrected (Nadeau and Bengio 2003, Machine Learning 52):
    times 1/K + 1/(K - 1) in place of 1/K. It is each difference's own unless it is given with its degrees of freedom.
    Differences without any variance have p 0, or 1 where they are 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    num_folds, means = values.shape[-1], np.abs(values.mean(axis=-1))
    spread = values.var(axis=-1, ddof=1) if variance is None else np.full(means.shape, variance)
    error = np.sqrt(spread * (1 / num_folds + 1 / (num_folds - 1)))
    ratios = np.divide(means, error, out=np.where(means > 0, np.inf, 0.0), where=error > 0)
    found: NDArray[np.float64] = 2 * student.sf(ratios, degrees or num_folds - 1)
    return found


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for how many they are (Holm 1979): below alpha is what `holm` rejects."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def holm(p_values: NDArray[np.float64], *, alpha: float) -> NDArray[np.bool_]:
    """Return which hypotheses are rejected at `alpha`, the family-wise error held (Holm 1979)."""
    order = np.argsort(p_values)
    passes = p_values[order] * np.arange(len(p_values), 0, -1) < alpha
    num_passed = len(passes) if passes.all() else int(passes.argmin())
    rejected = np.zeros(len(p_values), dtype=np.bool_)
    rejected[order[:num_passed]] = True
    return rejected
