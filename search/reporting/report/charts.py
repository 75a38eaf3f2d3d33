"""The charts of a report as plotly's figures in plain JSON; the page's script gives them the colours of its theme.

`theme:ink` and `theme:blue` are its colours. Text is escaped, since plotly reads markup in it.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from fold_search.search.racing.importance import Importance, Share
from fold_search.search.reporting.lines import counted, show
from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.parts import short
from fold_search.search.study.parameters import Domain
from fold_search.search.study.wording import without_password
from fold_search.search.terminal import visible
from fold_search.storage.records import TrialRecord, TrialState

Chart = dict[str, Any]  # data and layout, as plotly takes them

INK = "theme:ink"
# Okabe and Ito's, which everybody can tell apart.
BLUE, ORANGE, GREEN, SKY, VIOLET, YELLOW = "theme:blue", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00"
BEST_COLOURS = (BLUE, ORANGE, GREEN, VIOLET, YELLOW)
MOST_CURVES = len(BEST_COLOURS)
MOST_CELLS = 800_000  # of the matrix: about 6 bytes each
MOST_NAMED_CELLS = 40_000  # that say their own fold and epoch
MOST_NAMED_ROWS = 60
MOST_EFFECTS = 6
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
ROW_HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 20, 260, 1000  # pixels
SMALLEST_MARK = 3
WIDTH_OF_HOVER = 60  # letters


def charts(facts: Facts) -> dict[str, Chart]:
    """Every chart that there is something to see on, by name."""
    drawn: dict[str, Chart] = {}
    if np.isfinite(facts.scores).any():
        drawn["matrix"] = _matrix(facts)
        drawn["curves"] = _curves(facts)
    if facts.summary.best is not None and facts.summary.best.trial in facts.ended:
        drawn["history"] = _history(facts)
    if facts.importance is not None:
        drawn["importance"] = _importance(facts.importance)
        drawn |= _effects(facts.importance, facts.config.space, facts.record.metric)
    return drawn


def num_in_matrix(facts: Facts) -> int:
    """How many of the trials the matrix shows."""
    cells_of_one = int(np.prod(facts.scores.shape[1:]))
    return min(len(facts.trials), max(MOST_CELLS // max(cells_of_one, 1), 1))


def _matrix(facts: Facts) -> Chart:
    """Trials by rank downwards; folds beside each other, a gap between them, with their epochs."""
    num_trials = num_in_matrix(facts)
    scores = facts.scores[:num_trials]
    _, num_folds, num_epochs = scores.shape
    gap = np.full((num_trials, num_folds, 1), np.nan)
    cells = np.concatenate([scores, gap], axis=2).reshape(num_trials, -1)[:, :-1]
    finite = scores[np.isfinite(scores)]
    low, high = np.quantile(finite, 0.05), finite.max()
    if facts.record.direction == "minimize":
        low, high = finite.min(), np.quantile(finite, 0.95)
    trials = facts.trials[:num_trials]
    names = [f"trial {trial.number}" for trial in trials]
    columns = [f"fold {fold}, epoch {epoch}" for fold in range(num_folds) for epoch in range(1, num_epochs + 2)][:-1]
    heat = {
        "type": "heatmap",
        "z": _plain(cells),
        "y": names,
        "zmin": float(low),
        "zmax": float(high),
        "colorscale": "Cividis",
        "reversescale": facts.record.direction == "minimize",
        "colorbar": {"title": {"text": escape(facts.record.metric), "side": "right"}, "thickness": 12},
        "hovertemplate": "%{text}<br>%{z:.4f}<extra></extra>",
        "rows": [_hover(_words(facts, trial)) for trial in trials],  # the script makes `text` of these
        "columns": columns if cells.size <= MOST_NAMED_CELLS else [],
    }
    width = num_epochs + 1
    middle = [fold * width + (num_epochs - 1) / 2 for fold in range(num_folds)]
    return {
        "data": [heat, *_marks(facts, {trial.number: row for row, trial in enumerate(trials)}, width=width)],
        "layout": {
            "height": min(max(ROW_HEIGHT * num_trials + 110, LEAST_HEIGHT), MOST_HEIGHT),
            "margin": {"l": 70, "r": 10, "t": 30, "b": 60},
            "xaxis": {
                "tickvals": middle,
                "ticktext": [f"fold {fold}" for fold in range(num_folds)],
                "side": "top",
                "range": [-0.5, num_folds * width - 0.5],
                "showgrid": False,
                "zeroline": False,
            },
            "yaxis": {
                "autorange": "reversed",
                "showgrid": False,
                "type": "category",
                "dtick": 1 if num_trials <= MOST_NAMED_ROWS else None,
            },
            "showlegend": True,
            "legend": {"orientation": "h", "y": -0.02, "yanchor": "top"},
        },
    }


def _marks(facts: Facts, rows: Mapping[int, int], *, width: int) -> list[Chart]:
    """Where trials were stopped, failed, paused or audited, with the reasons."""
    points: dict[str, list[tuple[float, int, str]]] = {"stopped": [], "failed": [], "paused": [], "audited": []}
    for trial in facts.trials[: len(rows)]:
        runs = [run for run in facts.runs[trial.number] if run.num_epochs]
        last = max(runs, key=lambda run: run.fold, default=None)
        place = -0.5 if last is None else last.fold * width + last.num_epochs - 0.5
        if trial.state in (TrialState.STOPPED, TrialState.FAILED):
            kind = "failed" if trial.failure else "stopped"
            points[kind].append((place, trial.number, _words(facts, trial)))
        elif trial.audited:
            points["audited"].append((place, trial.number, _words(facts, trial)))
    for pause in facts.pauses:
        if pause.trial in rows:
            words = f"trial {pause.trial}, fold {pause.fold}, paused after epoch {pause.epoch}: {pause.reason}"
            points["paused"].append((pause.fold * width + pause.epoch - 0.5, pause.trial, words))
    size = min(max(600 / len(rows), SMALLEST_MARK), 9)
    looks = {
        "stopped": {"symbol": "x", "color": ORANGE},
        "failed": {"symbol": "triangle-up", "color": VIOLET},
        "paused": {"symbol": "circle", "color": SKY},
        "audited": {"symbol": "diamond", "color": GREEN},
    }
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{kind} ({len(found)})",
            "x": [place for place, _, _ in found],
            "y": [f"trial {number}" for _, number, _ in found],
            "text": [_hover(words) for _, _, words in found],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": looks[kind] | {"size": size, "line": {"width": int(size > SMALLEST_MARK), "color": INK}},
        }
        for kind, found in points.items()
        if found
    ]


def _words(facts: Facts, trial: TrialRecord) -> str:
    """A trial in words: its state, its score or what is expected of it, and why it ended."""
    score = f", {trial.score:.4f} ± {trial.std or 0.0:.4f}" if trial.score is not None else ""
    expected = facts.expected.get(trial.number)
    if trial.score is None and expected is not None:
        score = f", expected {expected:.4f}"
    audit = "; an audit: the race would have stopped it" if trial.audited else ""
    reason = f": {trial.reason}" if trial.reason and not trial.audited else ""
    return f"trial {trial.number} ({facts.states[trial.number]}{score}){audit}{reason}"


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
            "text": [_hover(_words(facts, trial)) for trial in trials],
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


def _importance(found: Importance) -> Chart:
    shares = found.shares[::-1]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": [share.share for share in shares],
                "y": [share.name for share in shares],
                "marker": {"color": BLUE},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [max(share.high - share.share, 0.0) for share in shares],
                    "arrayminus": [max(share.share - share.low, 0.0) for share in shares],
                    "color": INK,
                },
                "text": [f"{share.low:.0%} to {share.high:.0%}" for share in shares],
                "textposition": "none",
                "hovertemplate": "%{y}: %{x:.0%} (90% interval %{text})<extra></extra>",
            }
        ],
        "layout": {
            "height": 26 * len(shares) + 80,
            "xaxis": {"tickformat": ".0%", "rangemode": "tozero"},
            "yaxis": {"automargin": True},
            "showlegend": False,
        },
    }


def effect_charts(found: Importance | None) -> list[str]:
    """The names of the charts of what the most important parameters do."""
    return [f"effect-{number}" for number in range(min(len(found.shares), MOST_EFFECTS))] if found else []


def _effects(found: Importance, space: Mapping[str, Domain], metric: str) -> dict[str, Chart]:
    """One chart for each, all over the same scores."""
    shown = found.shares[:MOST_EFFECTS]
    ends = [end for share in shown for effect in share.effects for end in (effect.low, effect.high)]
    room = 0.05 * (max(ends) - min(ends))
    drawn = {}
    for name, share in zip(effect_charts(found), shown, strict=True):
        log = getattr(space[share.name], "log", False)
        kind = "log" if log else "linear" if _is_number(share) else "category"
        drawn[name] = {
            "data": _effect(share),
            "layout": {
                "height": 230,
                "showlegend": False,
                "margin": {"r": 25},
                "xaxis": {"title": {"text": escape(share.name)}, "type": kind, "nticks": 5} | _ticks(share, log=log),
                "yaxis": {"title": {"text": escape(metric)}, "range": [min(ends) - room, max(ends) + room]},
            },
        }
    return drawn


def _ticks(share: Share, *, log: bool) -> Chart:
    """The ends and the middle of a log scale, since plotly names the digits between powers of ten."""
    if not log:
        return {}
    values = [effect.value for effect in share.effects]
    ticks = [values[0], values[len(values) // 2], values[-1]]
    return {"tickvals": ticks, "ticktext": [show(value) for value in ticks]}


def _is_number(share: Share) -> bool:
    return all(isinstance(effect.value, float) for effect in share.effects)


def _effect(share: Share) -> list[Chart]:
    means, lows, highs = ([getattr(effect, end) for effect in share.effects] for end in ("mean", "low", "high"))
    if not _is_number(share):
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [high - mean for high, mean in zip(highs, means, strict=True)],
            "arrayminus": [mean - low for low, mean in zip(lows, means, strict=True)],
            "color": BLUE,
        }
        names = [escape(short(str(effect.value), 24)) for effect in share.effects]
        hover = f"{escape(share.name)} %{{x}}: %{{y:.4f}}<extra></extra>"
        marker = {"color": BLUE, "size": 9}
        return [
            {"type": "scatter", "mode": "markers", "x": names, "y": means, "error_y": bars, "marker": marker}
            | {"hovertemplate": hover}
        ]
    values = [effect.value for effect in share.effects]
    texts = [show(value) for value in values]
    line = {"type": "scatter", "mode": "lines", "x": values}
    band = line | {"line": {"width": 0}, "hoverinfo": "skip"}
    hover = f"{escape(share.name)} %{{text}}: %{{y:.4f}}<extra></extra>"
    return [
        band | {"y": lows},
        band | {"y": highs, "fill": "tonexty", "fillcolor": "rgba(86, 168, 224, 0.3)"},
        line | {"y": means, "text": texts, "line": {"color": BLUE, "width": 2.5}, "hovertemplate": hover},
    ]


def _plain(cells: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[list[float | None]]:
    """Four significant digits; None where there is nothing."""
    return [[float(f"{cell:.4g}") if math.isfinite(cell) else None for cell in row] for row in cells.tolist()]


def _hover(words: str) -> str:
    """Words in lines, since plotly breaks none."""
    text = short(visible(without_password(words)), 400)
    return "<br>".join(map(escape, textwrap.wrap(text, WIDTH_OF_HOVER, break_on_hyphens=False)))
