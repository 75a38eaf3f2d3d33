"""The charts of a report: all of them by name, and those of how the search went."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from fold_search.search.reporting.lines import counted
from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.figures import (
    BLUE,
    GREEN,
    INK,
    LEGEND,
    ORANGE,
    VIOLET,
    YELLOW,
    Chart,
    hover,
    trial_words,
)
from fold_search.search.reporting.report.importance_charts import effects_of, importance_chart
from fold_search.search.reporting.report.matrix_chart import matrix_chart
from fold_search.storage.records import TrialRecord, TrialState

BEST_COLOURS = (BLUE, ORANGE, GREEN, VIOLET, YELLOW)
MOST_CURVES = len(BEST_COLOURS)


def charts(facts: Facts) -> dict[str, Chart]:
    """Every chart that there is something to see on, by name."""
    drawn: dict[str, Chart] = {}
    if has_scores(facts):
        drawn["matrix"] = matrix_chart(facts)
        drawn["curves"] = _curves(facts)
    if has_history(facts):
        drawn["history"] = _history(facts)
    if facts.importance is not None:
        drawn["importance"] = importance_chart(facts.importance)
        drawn |= effects_of(facts.importance, facts.config.space, facts.record.metric)
    return drawn


def has_scores(facts: Facts) -> bool:
    """Whether an epoch of any trial has a score."""
    return bool(np.isfinite(facts.scores).any())


def has_history(facts: Facts) -> bool:
    """Whether it is known when the best trial ended."""
    return facts.summary.best is not None and facts.summary.best.trial in facts.ended


def _curves(facts: Facts) -> Chart:
    """The best trials: thick the mean over the folds as far as all are trained, thin each fold."""
    traces: list[Chart] = []
    shown = [trial for trial in facts.chosen if facts.epochs[trial.number]][:MOST_CURVES]
    for trial, colour in zip(shown, BEST_COLOURS, strict=False):
        by_fold: dict[int, list[float | None]] = {}
        for epoch in facts.epochs[trial.number]:
            by_fold.setdefault(epoch.fold, []).append(epoch.score if math.isfinite(epoch.score) else None)
        name = f"trial {trial.number}"
        common = min(map(len, by_fold.values()))
        columns = list(zip(*(scores[:common] for scores in by_fold.values()), strict=True))
        means = [None if None in column else float(np.mean([s for s in column if s is not None])) for column in columns]
        shared = {"type": "scatter", "legendgroup": name, "mode": "lines"}
        for fold, scores in by_fold.items():
            traces.append(
                shared
                | {
                    "x": list(range(1, len(scores) + 1)),
                    "y": scores,
                    "showlegend": False,
                    "line": {"color": colour, "width": 1},
                    "opacity": 0.45,
                    "hovertemplate": f"{name}, fold {fold}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
                }
            )
        traces.append(
            shared
            | {
                "x": list(range(1, common + 1)),
                "y": means,
                "name": f"{name}, mean of {counted(len(by_fold), 'fold')}",
                "mode": "lines+markers",
                "line": {"color": colour, "width": 3},
                "hovertemplate": f"{name}, mean, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            }
        )
    return {
        "data": traces,
        "layout": {
            "height": 420,
            "xaxis": {"title": {"text": "epoch"}, "dtick": 1 if facts.scores.shape[2] <= 20 else None},
            "yaxis": {"title": {"text": escape(facts.record.metric)}},
            "legend": LEGEND,
        },
    }


def _history(facts: Facts) -> Chart:
    """Every trial that has ended, when it did; and the best score so far."""
    unit, seconds = ("hours", 3600.0) if facts.seconds >= 7200 else ("minutes", 60.0)
    known = [trial for trial in facts.trials if trial.number in facts.ended]
    ended = sorted(known, key=lambda trial: facts.ended[trial.number])
    complete = [t for t in ended if t.state is TrialState.COMPLETE and t.score is not None and math.isfinite(t.score)]
    stopped = [t for t in ended if t.state is TrialState.STOPPED and t.number in facts.expected]
    sign = 1 if facts.record.direction == "maximize" else -1
    best = np.maximum.accumulate([sign * (trial.score or 0.0) for trial in complete])
    times = [facts.ended[trial.number] / seconds for trial in complete]

    def dots(trials: Sequence[TrialRecord], scores: Sequence[float], *, name: str, colour: str, symbol: str) -> Chart:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [facts.ended[trial.number] / seconds for trial in trials],
            "y": scores,
            "text": [hover(trial_words(facts, trial)) for trial in trials],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": colour, "symbol": symbol, "size": 9},
        }

    expected = [facts.expected[trial.number] for trial in stopped]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [*times, facts.seconds / seconds],
                "y": [*(sign * best).tolist(), sign * float(best[-1])],
                "line": {"shape": "hv", "color": INK, "width": 1.5},
                "hoverinfo": "skip",
            },
            dots(stopped, expected, name="stopped: the score it was heading for", colour=ORANGE, symbol="x-thin-open"),
            dots(complete, [t.score or 0.0 for t in complete], name="complete", colour=BLUE, symbol="circle"),
        ],
        "layout": {
            "height": 380,
            "xaxis": {"title": {"text": f"{unit} since the study began"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": escape(facts.record.metric)}},
            "legend": LEGEND,
        },
    }
