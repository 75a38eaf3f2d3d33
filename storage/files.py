"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file is `path` when the block ends: a reader sees the old bytes or the new.

    The disk has confirmed them by then. Where the block raises, Ctrl-C included, nothing is left. Raises OSError.
    """
    # Beside the final name, since a rename within a folder is atomic; hidden, and a name of its own for each writer.
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield unfinished
        _confirm(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    with suppress(PermissionError):  # of a folder that may be written to and not be read
        _confirm(path.parent)


def _confirm(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
