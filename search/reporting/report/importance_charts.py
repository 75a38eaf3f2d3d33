"""How important each parameter is, and what its values do, as charts."""

from collections.abc import Mapping
from html import escape

from fold_search.search.racing.importance import Importance, Share
from fold_search.search.reporting.lines import show
from fold_search.search.reporting.report.figures import BLUE, INK, Chart
from fold_search.search.reporting.report.parts import short
from fold_search.search.study.parameters import Domain

MOST_EFFECTS = 6


def importance_chart(found: Importance) -> Chart:
    """The share of each parameter as a bar with its interval, the largest on top."""
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


def effects_of(found: Importance, space: Mapping[str, Domain], metric: str) -> dict[str, Chart]:
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
