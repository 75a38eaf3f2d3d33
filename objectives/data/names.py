"""Names of classes: which look alike, and how they are shown so that people can tell them apart."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from fold_search.objectives.data.same_text import INVISIBLE, canonical, without_invisible
from fold_search.words import listed, nearest

_LONGEST = 60
_MOST_NAMED = 5
_NUMBER = re.compile(r"[+-]?(\d{1,100}\.?\d{0,100}|\.\d{1,100})(e[+-]?\d{1,3})?", re.ASCII)
_TRUTH = {"true": "1", "false": "0"}


def quoted(name: str) -> str:
    """Return the name in quotes, with escapes for what cannot be seen or is easily confused; cut in the middle."""
    # A name in another Unicode form looks the same, so it is shown with escapes.
    text = repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)
    text = INVISIBLE.sub(lambda sign: ascii(sign[0])[1:-1], text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[3 - _LONGEST // 2 :]}"


def class_name(name: str) -> str:
    """Return the name as it is; in quotes if people could not see what it is, as with blanks at its end."""
    return name if name == without_invisible(name) and name.isprintable() and name else quoted(name)


def which_label(name: str, label_names: Iterable[str]) -> str:
    """Advice for a name that is not a label: the nearest label, or the first labels."""
    close = nearest(name, label_names)
    return f"did you mean {quoted(close)}?" if close else f"there are {listed(map(quoted, label_names))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Names that differ only in `ways`, such as case or blanks."""

    names: tuple[str, ...]
    ways: tuple[str, ...]

    def describe(self, counts: Mapping[str, int]) -> str:
        """Say so on one line, with the rows of each name."""
        rows = {name: f"{counts[name]:,} {'row' if counts[name] == 1 else 'rows'}" for name in self.names[:_MOST_NAMED]}
        listed = [f"{quoted(name)} ({count})" for name, count in rows.items()]
        more = f" and {len(self.names) - _MOST_NAMED} more" if len(self.names) > _MOST_NAMED else ""
        return f"{', '.join(listed)}{more} differ in {' or '.join(self.ways)} only"


def alike_names(names: Iterable[str]) -> list[Alike]:
    """Return groups of names that probably mean the same, in the order of their first names; others are left out."""
    groups: dict[str | Decimal, list[str]] = {}
    for name in names:
        groups.setdefault(_as_number(canonical(name)), []).append(name)
    return [Alike(names=tuple(group), ways=_ways(group)) for group in groups.values() if len(group) > 1]


def _as_number(name: str) -> str | Decimal:
    name = _TRUTH.get(name, name)
    return Decimal(name) if _NUMBER.fullmatch(name) else name


_WAYS: dict[str, Callable[[str], str | Decimal]] = {
    "invisible characters": lambda name: INVISIBLE.sub("", name),
    "white space": lambda name: " ".join(name.split()),
    "Unicode form": lambda name: unicodedata.normalize("NFKC", name),
    "case": str.casefold,
    "the writing of a number or truth value": _as_number,
}


def _ways(names: list[str]) -> tuple[str, ...]:
    """Return the ways in which all names must be made equal; if any one of several ways is enough, all of these."""
    needed = tuple(way for way in _WAYS if len({_without(name, other=way) for name in names}) > 1)
    return needed or tuple(way for way, form in _WAYS.items() if len(set(map(form, names))) < len(names))


def _without(name: str, *, other: str) -> str | Decimal:
    """Return the name without its differences in all ways but the other."""
    form: str | Decimal = name
    for way, made in _WAYS.items():
        form = made(form) if way != other and isinstance(form, str) else form
    return form
