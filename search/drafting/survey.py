"""What `search init` finds in data: classes or numbers, lengths, image sizes, duplicates, empty cells."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from fold_search.objectives.data.dataset import content_of, group_images, grouped_texts, read_table, require_columns
from fold_search.objectives.data.image_files import look_at_images
from fold_search.objectives.data.names import alike_names, class_name
from fold_search.objectives.data.same_text import group_texts
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError

_FEW_ROWS = 5
_MOST_NAMED = 6
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A length at the median, at 95% of the rows, and the largest."""

    median: int
    most: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a numeric label is spread over the rows."""

    num_distinct: int
    mean: float
    deviation: float  # the standard deviation
    quantiles: tuple[float, float, float, float, float]  # smallest, 5%, median, 95%, largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One data file, or one folder of images, as counts; of images a text is the content."""

    spec: DataSpec
    num_rows: int
    num_texts: int  # texts that differ
    spread: Spread | None  # of a numeric label
    classes: dict[str, int]  # rows of each class, the largest class first; rows without a label are in none
    distinct: dict[str, int]  # rows of each class with equal texts counted once; none of a numeric label, as above
    lengths: dict[str, Lengths]  # of texts in characters, words and (estimated) tokens; of images width and height
    num_duplicates: int  # rows whose text stands in an earlier row
    num_conflicts: int  # texts that have several labels
    missing: dict[str, int]  # empty cells of the label column and of each that is read
    unreadable: dict[str, str]  # images by their paths, and what is wrong with them

    @property
    def noun(self) -> str:
        """What the rows are, in words."""
        return "images" if self.spec.kind == "image" else "texts"

    @property
    def imbalance(self) -> float:
        """How many times the largest class has the rows of the smallest."""
        counts = list(self.classes.values())
        return counts[0] / counts[-1]

    def smaller_than(self, num_rows: int) -> list[str]:
        """The classes with fewer distinct rows."""
        return [name for name, count in self.distinct.items() if count < num_rows]


def survey(spec: DataSpec) -> Survey:
    """Read the file and count.

    Raises DataError if it cannot be read, lacks a column, has fewer than two classes or no image that can be read, or,
    where the label is to be a number, holds none or one only.
    """
    table = read_table(spec)
    require_columns(table, (spec.label, *spec.columns), spec=spec)
    content, labels = content_of(table, spec), [str(label) for label in table[spec.label]]
    texts, is_image = content.texts, spec.kind == "image"
    same = group_images(texts, spec=spec) if is_image else group_texts(grouped_texts(content.columns, spec))
    groups = same.tolist()
    looks = list(look_at_images(content)) if is_image else []
    unreadable = {path: look for path, look in zip(texts, looks, strict=False) if isinstance(look, str)}
    sizes = [look for look in looks if not isinstance(look, str)]
    if is_image and not sizes:
        path, reason = next(iter(unreadable.items()))
        raise DataError(f"{spec.path}: no image can be read; the first, {path!r} under {spec.image_root}, {reason}")
    labelled = {(group, label) for group, label in zip(groups, labels, strict=True) if label.strip()}
    spread = _spread(labels, spec=spec) if spec.task == "regression" else None
    classes = Counter(label for label in labels if label.strip() and not spread)
    if len(classes) < 2 and not spread:
        raise DataError(f"{spec.path}: column {spec.label!r} has {len(classes)} classes, expected at least two")
    return Survey(
        spec=spec,
        num_rows=len(texts),
        num_texts=len(set(groups)),
        spread=spread,
        classes=dict(classes.most_common()),
        distinct={} if spread else dict(Counter(label for _, label in labelled).most_common()),
        lengths=_lengths_of_images(sizes) if is_image else _lengths_of_texts(texts),
        num_duplicates=len(texts) - len(set(groups)),
        num_conflicts=sum(count > 1 for count in Counter(group for group, _ in labelled).values()),
        missing={name: int((table[name].str.strip() == "").sum()) for name in (spec.label, *spec.columns)},
        unreadable=unreadable,
    )


def render_table(found: Survey) -> Table:
    """Show what was found, with notes where it matters."""
    table = Table("", "found", title=str(found.spec.path), title_justify="left", show_header=False)
    for name, value, *notes in _rows(found):
        table.add_row(name, Text("\n").join([Text(value), *(Text(note, style="yellow") for note in notes if note)]))
    return table


def _rows(found: Survey) -> Iterator[tuple[str, ...]]:
    cells = ", ".join(f"{readable(name)} {count:,}" for name, count in found.missing.items())
    yield "rows", f"{found.num_rows:,}"
    yield from _rows_of_spread(found.spread) if found.spread else _rows_of_classes(found)
    for unit, lengths in found.lengths.items():
        yield unit, f"median {lengths.median:,}, 95% up to {lengths.most:,}, largest {lengths.largest:,}"
    if found.spec.kind == "image":
        wrong = [f"{path} {reason}" for path, reason in found.unreadable.items()]
        yield "unreadable", name_some(wrong, longest=100) or "none", "search run does not accept them" if wrong else ""
    yield "duplicates", count_rows(found.num_duplicates), "kept in one fold" if found.num_duplicates else ""
    yield "conflicts", f"{found.num_conflicts:,} {found.noun}", "with several labels" if found.num_conflicts else ""
    unlabelled = found.missing[found.spec.label]
    yield "empty cells", cells, "search run does not accept rows without a label" if unlabelled else ""


def _rows_of_classes(found: Survey) -> Iterator[tuple[str, ...]]:
    counts = list(found.classes.values())
    few = found.smaller_than(_FEW_ROWS)
    note = "they are numbers; for a numeric label use --task regression" if _are_fractions(found.classes) else ""
    if 2 * len(counts) > found.num_rows > _FEW_ROWS:
        note = "most rows have a label of their own: is this an id?"
    yield "classes", f"{len(counts):,}, imbalance {found.imbalance:,.1f} : 1", note
    yield "largest", f"{_named(found.classes, counts[0])}: {count_rows(counts[0])}"
    yield "smallest", f"{_named(found.classes, counts[-1])}: {count_rows(counts[-1])}"
    shown = name_some([class_name(name) for name in few])
    yield f"under {_FEW_ROWS} {found.noun}", shown or "none", "some folds may have no rows of them" if few else ""
    if alike := alike_names(found.classes):
        notes = [group.describe(found.classes) for group in alike[:_MOST_NAMED]]
        more = f"and {len(alike) - len(notes):,} more" if len(alike) > len(notes) else ""
        count = sum(len(group.names) for group in alike)
        yield "similar names", f"{count:,} classes", *notes, more, "if they mean the same, give them the same name"


def _rows_of_spread(spread: Spread) -> Iterator[tuple[str, ...]]:
    least, low, median, high, most = spread.quantiles
    yield "numbers", f"{spread.num_distinct:,} different"
    yield "range", f"{least:,.4g} to {most:,.4g}, median {median:,.4g}"
    yield "90% range", f"{low:,.4g} to {high:,.4g}"
    yield "mean", f"{spread.mean:,.4g}, standard deviation {spread.deviation:,.4g}"


def readable(name: str, *, longest: int = _LONGEST_NAME) -> str:
    """A name from the data as people can read it: printable and not too long."""
    printable = "".join(sign if sign.isprintable() else "?" for sign in name)
    return printable if len(printable) <= longest else f"{printable[: longest - 3]}..."


def name_some(names: Sequence[str], *, longest: int = _LONGEST_NAME) -> str:
    """The first few names, and how many more."""
    named = ", ".join(readable(name, longest=longest) for name in names[:_MOST_NAMED])
    return named if len(names) <= _MOST_NAMED else f"{named} and {len(names) - _MOST_NAMED} more"


def count_rows(count: int) -> str:
    """A number of rows in words."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _named(classes: dict[str, int], count: int) -> str:
    return name_some([class_name(name) for name, rows in classes.items() if rows == count])


def _are_fractions(labels: Iterable[str]) -> bool:
    """Whether all are finite numbers, and not just the whole ones that often stand for classes."""
    numbers = pd.to_numeric(pd.Series(list(labels)), errors="coerce").to_numpy(np.float64)
    return bool(np.isfinite(numbers).all() and (numbers % 1 != 0).any())


def _spread(labels: Sequence[str], *, spec: DataSpec) -> Spread:
    """Return the spread of the numbers; rows without a label are left out."""
    labelled = np.array([bool(label.strip()) for label in labels])
    numbers = pd.to_numeric(pd.Series(labels), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(labelled & ~np.isfinite(numbers))
    if len(wrong):
        found = labels[wrong[0]]
        raise DataError(
            f"{spec.path}: column {spec.label!r} in data row {wrong[0] + 1}: found {found!r}, expected a finite number"
        )
    numbers = numbers[labelled]
    num_distinct = len(np.unique(numbers))
    if num_distinct < 2:
        raise DataError(f"{spec.path}: column {spec.label!r} has {num_distinct} numbers, expected at least two")
    least, low, median, high, most = map(float, np.quantile(numbers, [0.0, 0.05, 0.5, 0.95, 1.0]))
    return Spread(
        num_distinct=num_distinct,
        mean=float(np.mean(numbers)),
        deviation=float(np.std(numbers)),
        quantiles=(least, low, median, high, most),
    )


def _lengths_of_texts(texts: Sequence[str]) -> dict[str, Lengths]:
    words = [len(text.split()) for text in texts]
    tokens = [_estimate_tokens(text, count) for text, count in zip(texts, words, strict=True)]
    return {"characters": _lengths(list(map(len, texts))), "words": _lengths(words), "tokens": _lengths(tokens)}


def _lengths_of_images(sizes: Sequence[tuple[int, int]]) -> dict[str, Lengths]:
    return {name: _lengths([size[side] for size in sizes]) for side, name in enumerate(("width", "height"))}


def _lengths(values: Sequence[int]) -> Lengths:
    median, most, largest = np.quantile(values, [0.5, 0.95, 1.0])
    return Lengths(median=round(median), most=round(most), largest=round(largest))


def _estimate_tokens(text: str, num_words: int) -> int:
    # Measured with all-MiniLM's tokeniser: 1.5 to 1.8 tokens a word of English; other scripts up to one a character.
    num_others = sum(not sign.isascii() for sign in text)
    return 2 + max(round(1.6 * num_words), len(text) // 5, num_others)
