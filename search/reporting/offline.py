"""`search neptune show`: what the Neptune client recorded offline, for people and as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from fold_search.search.errors import ConfigError
from fold_search.search.reporting.lines import show
from fold_search.storage.trackers.neptune_offline import OfflineRun, read_offline


def render_offline(directory: Path) -> RenderableType:
    """Every run as a table of its fields and of its series, each with the number of points and the last one."""
    return Group(*(_render(run) for run in _read(directory)))


def offline_as_json(directory: Path) -> list[dict[str, Any]]:
    """Every run's fields and series with plain types."""
    return [{"id": run.id, "fields": run.fields, "series": run.series} for run in _read(directory)]


def _read(directory: Path) -> Sequence[OfflineRun]:
    runs = read_offline(directory)
    if not runs:
        raise ConfigError(f"{directory}: found no offline run, expected the folder of trackers.neptune.directory")
    return runs


def _render(run: OfflineRun) -> Table:
    table = Table("field", "value", title=f"run {run.id}", title_justify="left")
    for path, value in sorted(run.fields.items()):
        table.add_row(path, show(value))
    table.add_section()
    for path, points in sorted(run.series.items()):
        step, value = list(points.items())[-1]
        table.add_row(path, f"{len(points)} points, the last {show(value)} at step {show(step)}")
    return table
