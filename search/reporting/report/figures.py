"""What the charts of a report share: plotly's figures in plain JSON, their colours, and words to hover over.

`theme:ink` and `theme:blue` are colours that the page's script knows. Text is escaped, since plotly reads markup in it.
"""

import textwrap
from html import escape
from typing import Any

from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.parts import short
from fold_search.search.study.wording import without_password
from fold_search.search.terminal import visible
from fold_search.storage.records import TrialRecord

Chart = dict[str, Any]  # data and layout, as plotly takes them

INK = "theme:ink"
# Okabe and Ito's, which everybody can tell apart.
BLUE, ORANGE, GREEN, SKY, VIOLET, YELLOW = "theme:blue", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00"
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
WIDTH_OF_HOVER = 60  # letters


def trial_words(facts: Facts, trial: TrialRecord) -> str:
    """A trial in words: its state, its score or what is expected of it, and why it ended."""
    score = f", {trial.score:.4f} ± {trial.std or 0.0:.4f}" if trial.score is not None else ""
    expected = facts.expected.get(trial.number)
    if trial.score is None and expected is not None:
        score = f", expected {expected:.4f}"
    audit = "; an audit: the race would have stopped it" if trial.audited else ""
    reason = f": {trial.reason}" if trial.reason and not trial.audited else ""
    return f"trial {trial.number} ({facts.states[trial.number]}{score}){audit}{reason}"


def hover(words: str) -> str:
    """Words in lines, since plotly breaks none."""
    text = short(visible(without_password(words)), 400)
    return "<br>".join(map(escape, textwrap.wrap(text, WIDTH_OF_HOVER, break_on_hyphens=False)))
