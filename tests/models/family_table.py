"""Writes docs/encoders.md by `python -m tests.models.family_table`: which family can do what, as it is measured."""

import importlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs/encoders.md"
KINDS = {"Text": "tests.models.text_families", "Images": "tests.models.image_families"}
INTRODUCTION = """\
# Which encoders can be used

Written by `python -m tests.models.family_table`; the tests measure it again. Every family that `AutoModel` of
transformers {version} knows was tried: a tiny model of random weights, through the functions that a study uses. The
name of a family is `model_type` in an encoder's `config.json`.

Before a study begins, the same is tried with a tiny model of the configuration that the study names. That takes about a
second and reads no weights. What the encoder cannot do is refused there: in one line that names the family and the
reason, before anything is written. A newer transformers may know more families. They are tried in the same way.
"""
REFUSED = """\
These were tried with the configuration that transformers gives the family where nothing else is said. For a few
families that one is incomplete, or cannot be made tiny. An encoder of theirs is tried with its own configuration first,
and what is said of that counts.\
"""


def kinds() -> Iterator[tuple[str, Any]]:
    """Yield the heading and the module of each kind of families."""
    for heading, name in KINDS.items():
        if importlib.util.find_spec(name) is not None:
            yield heading, importlib.import_module(name)


def line(name: str, row: dict[str, str]) -> str:
    """Return a family's line in the page: what holds for each column, or of a refused one the reason alone."""
    values = list(row.values()) if _is_usable(row) else [next(iter(row.values())).removeprefix("no: ")]
    return " | ".join((f"| `{name}`", *(value.replace("|", "\\|") for value in values))) + " |"


def _is_usable(row: dict[str, str]) -> bool:
    return next(iter(row.values())) == "yes"


def measured(module: Any, names: tuple[str, ...], folder: Path) -> dict[str, dict[str, str]]:
    """Return the row of each family."""
    rows = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as in the tests
        for name in names:
            own = folder / name
            own.mkdir()
            rows[name] = module.try_family(name, own)
    return rows


def stale_lines(module: Any, names: tuple[str, ...], folder: Path) -> list[str]:
    """Return the lines of these families that the page has not, or has otherwise."""
    page = set(PATH.read_text(encoding="utf-8").splitlines())
    found = [line(name, row) for name, row in measured(module, names, folder).items()]
    return [text for text in found if text not in page]


def section(heading: str, columns: Collection[str], rows: dict[str, dict[str, str]]) -> str:
    """Return one kind's part of the page; `columns` may map each column to what it means."""
    usable = {name: row for name, row in rows.items() if _is_usable(row)}
    refused = {name: row for name, row in rows.items() if name not in usable}
    lines = [f"## {heading}", "", f"{len(usable)} of {len(rows)} families can be used.", ""]
    if isinstance(columns, Mapping):
        lines += [f"- **{name}**: {meaning}." for name, meaning in columns.items()]
    lines += ["", f"| family | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [line(name, row) for name, row in usable.items()]
    lines += ["", f"### {heading}: refused", "", REFUSED, "", "| family | the reason |", "|---|---|"]
    lines += [line(name, row) for name, row in refused.items()]
    return "\n".join([*lines, ""])


def write() -> None:
    """Measure all families and write the page."""
    import transformers

    parts = [INTRODUCTION.format(version=transformers.__version__)]
    for heading, module in kinds():
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(module, module.FAMILIES, Path(folder))
        parts.append(section(heading, module.COLUMNS, rows))
    PATH.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
