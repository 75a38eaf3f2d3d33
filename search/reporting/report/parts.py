"""What a page is made of: parts with sentences, tables and a chart or a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from fold_search.search.reporting.diagnosis.sections import Table

LONGEST_CELL = 300  # characters of a name or a value; a label may be as long as the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the page below its own heading.

    `charts` and `picture` are names; `quote` is to be copied, `text` is shown as it is. A `folded` part shows its title
    alone until somebody opens it.
    """

    anchor: str
    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[str] = ()
    picture: str | None = None
    quote: str = ""
    text: str = ""
    parts: Sequence["Part"] = ()
    folded: bool = False


def short(text: str, most: int = LONGEST_CELL) -> str:
    """The text, or its two ends: names that begin alike often end differently."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"


def pairs(**rows: str | None) -> Table:
    """A table of names and what is known of each; `_` stands for a blank, None for nothing to say."""
    known = [(name.replace("_", " "), value) for name, value in rows.items() if value]
    return Table(columns=("", ""), rows=known, words=("",))
