"""Read back what Neptune's client has recorded offline, to show it or to check it; nothing on the disk is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fold_search.storage.trackers.neptune import import_client

if TYPE_CHECKING:
    from neptune.internal.operation import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineRun:
    """One run, merged from the folders of all processes that wrote to it; a series maps a step to its value."""

    id: str
    folders: tuple[Path, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    series: dict[str, dict[float, float]] = field(default_factory=dict)


def read_offline(directory: Path) -> list[OfflineRun]:
    """All runs below a tracker's `directory`, in the order in which they began; [] if there is none.

    Raises StorageError if the client is not installed.
    """
    import_client()
    recorded: dict[str, list[tuple[float, Path, Operation]]] = {}
    for folder in sorted((directory / "offline").glob("run__*")):
        operations = [(at, folder, operation) for at, operation in _operations(folder)]
        if operations:
            identity = _identity(folder, (operation for _, _, operation in operations))
            recorded.setdefault(identity, []).extend(operations)
    runs = {identity: sorted(operations, key=lambda entry: entry[0]) for identity, operations in recorded.items()}
    return [_merge(identity, operations) for identity, operations in sorted(runs.items(), key=lambda run: run[1][0][0])]


def _operations(folder: Path) -> Iterator[tuple[float, Operation]]:
    """When each operation was recorded, and the operation; a last one that is still being written is left out."""
    from neptune.core.components.queue.json_file_splitter import JsonFileSplitter
    from neptune.internal.operation import Operation

    for file in folder.glob("data-*.log"):
        with JsonFileSplitter(file) as records:
            while record := records.get():
                yield record["at"], Operation.from_dict(record["obj"])


def _identity(folder: Path, operations: Iterable[Operation]) -> str:
    """What the run's folders have in common; a foreign run's folder stands alone."""
    ids = {"/".join(operation.path): getattr(operation, "value", None) for operation in operations}
    return str(ids.get("trial/id") or ids.get("study/id") or folder.name)


def _merge(identity: str, operations: Iterable[tuple[float, Path, Operation]]) -> OfflineRun:
    fields: dict[str, Any] = {}
    series: dict[str, dict[float, float]] = {}
    folders: dict[Path, None] = {}
    for _, folder, operation in operations:
        folders[folder] = None
        _apply(operation, fields, series)
    ordered = {path: dict(sorted(points.items())) for path, points in series.items()}
    return OfflineRun(id=identity, folders=tuple(folders), fields=fields, series=ordered)


def _apply(operation: Operation, fields: dict[str, Any], series: dict[str, dict[float, float]]) -> None:
    from neptune.internal import operation as kinds

    path = "/".join(operation.path)
    match operation:
        case kinds.LogFloats():
            series.setdefault(path, {}).update({point.step or 0.0: point.value for point in operation.values})
        case kinds.AddStrings():
            fields[path] = sorted({*fields.get(path, ()), *operation.values})
        case kinds.AssignDatetime():
            fields[path] = operation.value.astimezone(UTC)
        case kinds.AssignBool() | kinds.AssignInt() | kinds.AssignFloat() | kinds.AssignString():
            fields[path] = operation.value
