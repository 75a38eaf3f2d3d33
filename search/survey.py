"""What `search init` finds in a data file: classes, imbalance, text lengths, duplicates, what is missing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.table import Table

from objectives.data import DataSpec, group_texts, join_text, read_table, require_columns
from objectives.errors import DataError

_FEW_ROWS = 5
_MOST_NAMED = 6
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A text length at the median, at 95% of the rows, and the largest."""

    median: int
    most: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One data file, as counts."""

    spec: DataSpec
    num_rows: int
    classes: dict[str, int]  # rows of each class, the largest class first; rows without a label are in none
    distinct: dict[str, int]  # rows of each class with equal texts counted once
    characters: Lengths
    words: Lengths
    tokens: Lengths  # estimated
    num_duplicates: int  # rows whose text stands in an earlier row
    num_conflicts: int  # texts that have several labels
    missing: dict[str, int]  # empty cells of the label column and of each text column

    @property
    def imbalance(self) -> float:
        """How many times the largest class has the rows of the smallest."""
        counts = list(self.classes.values())
        return counts[0] / counts[-1]

    def smaller_than(self, num_rows: int) -> list[str]:
        """The classes with fewer distinct rows."""
        return [name for name, count in self.distinct.items() if count < num_rows]


def survey(spec: DataSpec) -> Survey:
    """Read the file and count; raises DataError if it cannot be read, lacks a column or has fewer than two classes."""
    table = read_table(spec)
    require_columns(table, (spec.label, *spec.text), spec=spec)
    texts, labels = join_text(table, spec), [str(label) for label in table[spec.label]]
    groups = [int(group) for group in group_texts(texts)]
    labelled = {(group, label) for group, label in zip(groups, labels, strict=True) if label.strip()}
    classes = Counter(label for label in labels if label.strip())
    if len(classes) < 2:
        raise DataError(f"{spec.path}: column {spec.label!r} has {len(classes)} classes, expected at least two")
    words = [len(text.split()) for text in texts]
    return Survey(
        spec=spec,
        num_rows=len(texts),
        classes=dict(classes.most_common()),
        distinct=dict(Counter(label for _, label in labelled).most_common()),
        characters=_lengths([len(text) for text in texts]),
        words=_lengths(words),
        tokens=_lengths([_estimate_tokens(text, count) for text, count in zip(texts, words, strict=True)]),
        num_duplicates=len(texts) - len(set(groups)),
        num_conflicts=sum(count > 1 for count in Counter(group for group, _ in labelled).values()),
        missing={name: int((table[name].str.strip() == "").sum()) for name in (spec.label, *spec.text)},
    )


def render_table(found: Survey) -> Table:
    """Show what was found and, where it matters, what follows from it."""
    table = Table("", "found", title=escape(str(found.spec.path)), title_justify="left", show_header=False)
    for name, value, *notes in _rows(found):
        table.add_row(name, "\n".join([escape(value), *(f"[yellow]{note}[/]" for note in notes if note)]))
    return table


def _rows(found: Survey) -> Iterator[tuple[str, ...]]:
    counts = list(found.classes.values())
    few = found.smaller_than(_FEW_ROWS)
    cells = ", ".join(f"{readable(name)} {count:,}" for name, count in found.missing.items())
    yield "rows", f"{found.num_rows:,}"
    yield "classes", f"{len(counts):,}, imbalance {found.imbalance:,.1f} : 1"
    yield "largest", f"{_named(found.classes, counts[0])}: {count_rows(counts[0])}"
    yield "smallest", f"{_named(found.classes, counts[-1])}: {count_rows(counts[-1])}"
    yield f"under {_FEW_ROWS} texts", name_some(few) or "none", "a fold may hold no row of them" if few else ""
    for unit, lengths in (("characters", found.characters), ("words", found.words), ("tokens, about", found.tokens)):
        yield unit, f"median {lengths.median:,}, 95% {lengths.most:,}, longest {lengths.largest:,}"
    yield "duplicates", count_rows(found.num_duplicates), "they stay in one fold" if found.num_duplicates else ""
    yield "conflicts", f"{found.num_conflicts:,} texts", "with several labels" if found.num_conflicts else ""
    unlabelled = found.missing[found.spec.label]
    yield "empty cells", cells, "search run refuses rows without a label" if unlabelled else ""


def readable(name: str) -> str:
    """A name from the data as people can read it: printable and not too long."""
    printable = "".join(sign if sign.isprintable() else "?" for sign in name)
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[: _LONGEST_NAME - 3]}..."


def name_some(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    named = ", ".join(map(readable, names[:_MOST_NAMED]))
    return named if len(names) <= _MOST_NAMED else f"{named} and {len(names) - _MOST_NAMED} more"


def count_rows(count: int) -> str:
    """A number of rows in words."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _named(classes: dict[str, int], count: int) -> str:
    return name_some([name for name, rows in classes.items() if rows == count])


def _lengths(values: Sequence[int]) -> Lengths:
    median, most, largest = np.quantile(values, [0.5, 0.95, 1.0])
    return Lengths(median=round(median), most=round(most), largest=round(largest))


def _estimate_tokens(text: str, num_words: int) -> int:
    # Measured with all-MiniLM's tokeniser: 1.5 to 1.8 tokens a word of English; other scripts up to one a character.
    num_others = sum(not sign.isascii() for sign in text)
    return 2 + max(round(1.6 * num_words), len(text) // 5, num_others)
