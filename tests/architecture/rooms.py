"""The project's source files, room by room."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
ROOMS = ("search", "objectives", "models", "storage")


def modules() -> Iterator[Path]:
    """Every module of the ground floor and of every room, relative to the repository."""
    yield from sorted(file.relative_to(REPOSITORY) for file in (REPOSITORY / "fold_search").glob("*.py"))
    for room in ROOMS:
        yield from sorted(file.relative_to(REPOSITORY) for file in (REPOSITORY / room).rglob("*.py"))


@cache
def syntax(module: Path) -> ast.Module:
    return ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
