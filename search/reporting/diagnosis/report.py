"""Where a diagnosis is shown: in the terminal, and in a folder with its pictures and its page."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from fold_search.search.errors import ConfigError
from fold_search.search.reporting.diagnosis.findings import Diagnosis
from fold_search.search.reporting.diagnosis.page import render_page
from fold_search.search.reporting.diagnosis.pictures import pictures
from fold_search.search.reporting.diagnosis.sections import Section, Table, heading, sections

REPORTS = Path("studies/reports")
MOST_ROWS = 20
PAGE = "index.html"
LONGEST_NAME = 80


def render(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis as tables, each cut to its first 20 rows."""
    parts: list[RenderableType] = [Text(line) for line in heading(diagnosis)]
    for section in sections(diagnosis):
        parts += _render_section(section)
    return Group(*parts)


def report_folder(diagnosis: Diagnosis) -> Path:
    """The folder of this trial's report."""
    return REPORTS / f"{safe_name(diagnosis.study)}-trial-{diagnosis.trial}"


def safe_name(study: str) -> str:
    """What a study's files are called, whatever its name holds; no two studies share one."""
    name = re.sub(r"[^a-zA-Z0-9_.-]", "_", study)[:LONGEST_NAME]
    return name if name == study else f"{name}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"


def write_report(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write the page and its pictures, over those of an earlier report; returns the page's path."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = pictures(diagnosis)
        for name, png in drawn.items():
            (folder / f"{name}.png").write_bytes(png)
        page = render_page(heading(diagnosis), sections(diagnosis), drawn)
        (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {folder} cannot be written: {error.strerror}") from None
    return folder / PAGE


def _render_section(section: Section) -> Iterator[RenderableType]:
    yield Text(f"\n{section.title}", style="bold")
    yield from map(Text, section.sentences)
    for table in section.tables:
        yield _render_table(table)
        if len(table.rows) > MOST_ROWS:
            yield Text(f"{len(table.rows) - MOST_ROWS} more in the report")


def _render_table(table: Table) -> Grid:
    grid = Grid()
    for column in table.columns:
        grid.add_column(column, justify="left" if column in table.words else "right", overflow="fold")
    for row in table.rows[:MOST_ROWS]:
        grid.add_row(*map(Text, row))
    return grid
