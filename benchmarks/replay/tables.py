"""Outcomes as Markdown tables: one line a rule, and what rules stated against what was observed."""

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from benchmarks.replay.outcomes import Claimed, Outcome, Setting

LEVEL = 0.95
NUM_DRAWS = 10_000
BINS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
HEADER = ("rule", "work", "speed-up", "best lost", "validation regret", "test regret", "studies")

FloatArray = NDArray[np.float64]


def comparison(outcomes: Sequence[Outcome], *, per_set: bool = False) -> str:
    """Return a table for every number of folds, order and number of workers, one line a rule; regrets in hundredths.

    Speed-up: the geometric mean over the sets, each counted alike, of the time to the full-CV best without a race over
    the rule's, studies that never complete it counted at their end or the end without a race, whichever is later.
    Intervals: bootstrap over the sets; Clopper-Pearson over the studies for the share in which the best was lost.
    """
    parts = []
    for (folds, order, workers, *names), group in _grouped(outcomes, lambda setting: _place(setting, per_set)):
        title = f"K = {folds}, {order} order, {workers} worker{'s' if workers > 1 else ''}"
        parts.append(
            f"### {', '.join([title, *names])}\n\n{_table(HEADER, [_line(*rule) for rule in _by_rule(group)])}"
        )
    return "\n\n".join(parts)


def calibration(outcomes: Sequence[Outcome]) -> str:
    """Return, for every rule that states chances, what it stated of the trials it ended against how many were best."""
    parts = []
    for rule, group in _by_rule(outcomes):
        claims = [claim for found in group for claim in found.claims]
        ended = [claim for claim in claims if claim.kind != "audited" and claim.chance is not None]
        if not ended:
            continue
        stated, observed = _sums(ended)
        lines = [_bin_line(ended, low, high) for low, high in pairwise(BINS)]
        parts.append(
            f"### {rule}: {stated:.1f} of the ended trials expected to be the best, {observed} were "
            f"({len(group)} studies: {stated / len(group):.3f} and {observed / len(group):.3f} a study)\n\n"
            f"{_table(('stated chance', 'trials', 'expected', 'observed', 'observed share'), [*filter(None, lines)])}"
            f"{_audits([claim for claim in claims if claim.kind == 'audited'])}"
        )
    return "\n\n".join(parts)


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def bootstrap(values: FloatArray) -> tuple[float, float, float]:
    """Return the mean and its percentile interval over the sets, whose values these are (Efron 1979)."""
    drawn = np.random.default_rng(0).choice(values, (NUM_DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values.mean()), float(low), float(high)


def _line(rule: str, outcomes: Sequence[Outcome]) -> list[str]:
    lost = sum(found.lost for found in outcomes)
    low, high = clopper_pearson(lost, len(outcomes))
    speedup = np.exp(bootstrap(_by_set(outcomes, lambda found: float(np.log(found.speedup)))))
    return [
        rule,
        f"{_by_set(outcomes, lambda found: found.share).mean():.3f}",
        f"{speedup[0]:.2f} ({speedup[1]:.2f} to {speedup[2]:.2f})",
        f"{lost / len(outcomes):.1%} ({low:.1%} to {high:.1%})",
        _hundredths(_by_set(outcomes, lambda found: found.validation_regret)),
        _hundredths(_by_set(outcomes, lambda found: found.test_regret)),
        str(len(outcomes)),
    ]


def _hundredths(values: FloatArray) -> str:
    """Sets without test scores are left out."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "-"
    mean, low, high = 100 * np.array(bootstrap(known))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _by_set(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> FloatArray:
    """The mean of each set, (sets,)."""
    found: dict[str, list[float]] = {}
    for one in outcomes:
        found.setdefault(one.setting.set_name, []).append(value(one))
    return np.array([np.mean(values) for values in found.values()])


def _bin_line(claims: Sequence[Claimed], low: float, high: float) -> list[str] | None:
    inside = [claim for claim in claims if low <= _chance(claim) < high or _chance(claim) == high == 1]
    if not inside:
        return None
    stated, observed = _sums(inside)
    least, most = clopper_pearson(observed, len(inside))
    share = f"{observed / len(inside):.2%} ({least:.2%} to {most:.2%})"
    return [f"{low:g} to {high:g}", str(len(inside)), f"{stated:.1f}", str(observed), share]


def _audits(claims: Sequence[Claimed]) -> str:
    if not claims:
        return ""
    stated, observed = _sums(claims)
    low, high = clopper_pearson(observed, len(claims))
    return (
        f"\n\n{len(claims)} audited: {stated:.1f} expected to be the best, {observed} were "
        f"({observed / len(claims):.2%}, {low:.2%} to {high:.2%})"
    )


def _sums(claims: Sequence[Claimed]) -> tuple[float, int]:
    return sum(_chance(claim) for claim in claims), sum(claim.best for claim in claims)


def _chance(claim: Claimed) -> float:
    return claim.chance if claim.chance is not None else 0.0


def _place(setting: Setting, per_set: bool) -> tuple[Any, ...]:
    place = (setting.folds, setting.order, setting.workers)
    return (*place, setting.set_name) if per_set else place


def _grouped(
    outcomes: Sequence[Outcome], key: Callable[[Setting], tuple[Any, ...]]
) -> list[tuple[tuple[Any, ...], list[Outcome]]]:
    ordered = sorted(outcomes, key=lambda found: key(found.setting))
    return [(place, list(group)) for place, group in groupby(ordered, key=lambda found: key(found.setting))]


def _by_rule(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """In the order in which the rules were given."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.rule, []).append(one)
    return list(found.items())


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
