"""The fold x epoch matrix of all trials as a heat map, with marks where trials were stopped, paused or failed."""

import math
from collections.abc import Mapping
from html import escape

import numpy as np

from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.figures import GREEN, INK, ORANGE, SKY, VIOLET, Chart, hover, trial_words
from fold_search.storage.records import TrialState

MOST_CELLS = 800_000  # about 6 bytes each
MOST_NAMED_CELLS = 40_000  # that say their own fold and epoch
MOST_NAMED_ROWS = 60
ROW_HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 20, 260, 1000  # pixels
SMALLEST_MARK = 3


def num_in_matrix(facts: Facts) -> int:
    """How many of the trials the matrix shows."""
    cells_of_one = int(np.prod(facts.scores.shape[1:]))
    return min(len(facts.trials), max(MOST_CELLS // max(cells_of_one, 1), 1))


def matrix_chart(facts: Facts) -> Chart:
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
        "rows": [hover(trial_words(facts, trial)) for trial in trials],  # the script makes `text` of these
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
            points[kind].append((place, trial.number, trial_words(facts, trial)))
        elif trial.audited:
            points["audited"].append((place, trial.number, trial_words(facts, trial)))
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
            "text": [hover(words) for _, _, words in found],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": looks[kind] | {"size": size, "line": {"width": int(size > SMALLEST_MARK), "color": INK}},
        }
        for kind, found in points.items()
        if found
    ]


def _plain(cells: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[list[float | None]]:
    """Four significant digits; None where there is nothing."""
    return [[float(f"{cell:.4g}") if math.isfinite(cell) else None for cell in row] for row in cells.tolist()]
