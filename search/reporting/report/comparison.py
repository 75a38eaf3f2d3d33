"""The best trials and the baselines side by side, each tested against the best; also as a table for LaTeX."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fold_search.search.racing.ties import ALPHA, holm_adjusted, resampled_t_test, tested_against
from fold_search.search.reporting.baselines import is_beaten, is_better
from fold_search.search.reporting.summary import Best, Summary
from fold_search.storage.records import TrialRecord, TrialState

MOST_TRIALS = 10

_LETTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A trial or a baseline. `difference` is how much worse than the best trial it is, below 0 if it is better.

    `p_value` is that of the two-sided corrected resampled t-test of this difference. For trials it is the test that
    finds ties: the noise is pooled over the trials, and Holm's correction is over all complete ones. For a baseline
    the noise is that of its own differences. `differs` is whether the difference is more than the noise, as ties and
    baselines are judged everywhere. All three are None for the best trial itself.
    """

    name: str
    score: float
    std: float
    pooled: float | None
    difference: float | None
    p_value: float | None
    differs: bool | None


def compare(summary: Summary, trials: Sequence[TrialRecord]) -> list[Compared]:
    """Compare the best trial with the next best ones and with the baselines; `trials` come by rank."""
    best = summary.best
    if best is None:
        return []
    scores = {t.number: _scores(t) for t in trials if t.state is TrialState.COMPLETE}
    tested = tested_against(best.trial, {number: own.tolist() for number, own in scores.items()})
    p_values = holm_adjusted([tie.p_value for tie in tested])
    by_number = {trial.number: trial for trial in trials}
    first = Compared(
        name=f"trial {best.trial} (best)",
        score=best.score,
        std=best.std,
        pooled=best.pooled,
        difference=None,
        p_value=None,
        differs=None,
    )
    others = [
        Compared(
            name=f"trial {tie.trial}",
            score=tie.score,
            std=by_number[tie.trial].std or 0.0,
            pooled=by_number[tie.trial].pooled,
            difference=tie.difference,
            p_value=p_value,
            differs=p_value < ALPHA,
        )
        for tie, p_value in zip(tested, p_values, strict=True)
    ]
    return [first, *others[: MOST_TRIALS - 1], *_baselines(summary, best)]


def _baselines(summary: Summary, best: Best) -> Iterator[Compared]:
    sign = 1 if summary.direction == "maximize" else -1
    for found in summary.baselines:
        if found.score is None or not np.isfinite(found.fold_scores).all():
            continue
        fold_scores = best.fold_scores
        gaps = [sign * (own - other) for own, other in zip(fold_scores, found.fold_scores, strict=True)]
        yield Compared(
            name=found.label,
            score=found.score,
            std=found.std or 0.0,
            pooled=found.pooled,
            difference=fmean(gaps),
            p_value=float(resampled_t_test(gaps)),
            differs=is_beaten(found, fold_scores, summary.direction)
            or is_better(found, fold_scores, summary.direction),
        )


def latex(summary: Summary, compared: Sequence[Compared]) -> str:
    """The comparison as a LaTeX table for `booktabs`, with the caption that says how it was made."""
    arrow = "higher" if summary.direction == "maximize" else "lower"
    folds = 0 if summary.best is None else len(summary.best.fold_scores)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(summary.metric, folds=folds, better=arrow)}}}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        rf" & {escape(summary.metric)} & pooled & difference & $p$ \\",
        r"\midrule",
        *(_row(row) for row in compared),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_LETTERS.get(letter, letter) for letter in " ".join(text.split()))


def _caption(metric: str, *, folds: int, better: str) -> str:
    return (
        f"Mean and standard deviation of {escape(metric)} over {folds} folds ({better} is better), and the same metric "
        "of all rows pooled. Difference: how much worse than the best trial. $p$: two-sided corrected resampled "
        "$t$-test of that difference over the folds (Nadeau and Bengio, 2003). Between trials the variance of the "
        "differences is pooled over the better half of the trials, and $p$ is adjusted for the number of trials (Holm, "
        "1979). Each fold is scored at its best epoch, and the best trial was chosen by these scores, so its score is "
        "optimistic."
    )


def _row(row: Compared) -> str:
    pooled = "--" if row.pooled is None else f"{row.pooled:.4f}"
    difference = "--" if row.difference is None else f"${row.difference:.4f}$"
    p_value = "--" if row.p_value is None else p_words(row.p_value).replace("<", "$<$")
    return rf"{escape(row.name)} & ${row.score:.4f} \pm {row.std:.4f}$ & {pooled} & {difference} & {p_value} \\"


def p_words(p_value: float) -> str:
    """A p-value for people."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _scores(trial: TrialRecord) -> NDArray[np.float64]:
    return np.array([np.nan if score is None else score for score in trial.fold_scores])
