"""Engines that are closed after the test."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from fold_search.storage.database import connect


@pytest.fixture
def open_engine() -> Iterator[Callable[[str], Engine]]:
    """`connect`, and the engine is closed after the test."""
    engines: list[Engine] = []

    def open_one(url: str) -> Engine:
        engines.append(connect(url))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.dispose()
