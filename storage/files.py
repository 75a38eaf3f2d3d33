"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends, that file becomes `path`.

    So a reader sees all of the old file or all of the new one, and the new one is on the disk, not only in a buffer.
    If the block raises (Ctrl-C too), nothing is left. Raises OSError.
    """
    # In the same folder, where a rename is atomic. Hidden, and each writer has a name of its own.
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
