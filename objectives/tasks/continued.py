"""An array that takes long to compute, part by part: what a process has computed of it outlives that process."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

NOTE_SECONDS = 5.0  # so much of the computing is lost at most


class Continued:
    """An array in a file whose lines are written in any order; the first `done` parts of the work are done already.

    The caller decides what a part is, and does its parts in the same order each time.
    """

    def __init__(self, file: Path, *, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        header = BytesIO()
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._dtype = np.dtype(dtype)
        self._begin, self._line = header.tell(), int(np.prod(shape[1:])) * self._dtype.itemsize
        self._note, self._noted_at = _note_beside(file), time.monotonic()
        size = self._begin + shape[0] * self._line
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        # A note alone, whose array somebody removed, says nothing.
        self.done = _noted(self._note) if os.fstat(self._descriptor).st_size == size else 0
        _write(self._descriptor, header.getvalue(), at=0)
        os.ftruncate(self._descriptor, size)

    def write(self, line: int, array: NDArray[Any]) -> None:
        """Write one line, or several that follow each other; raises OSError, such as of a full disk."""
        # Not through a memory map: on a full disk that ends the process.
        data = np.ascontiguousarray(array, self._dtype).data.cast("B")
        _write(self._descriptor, data, at=self._begin + line * self._line)

    def note(self, done: int) -> None:
        """Say that `done` parts of the work are written. Every few seconds that is made to last."""
        if time.monotonic() - self._noted_at < NOTE_SECONDS:
            return
        os.fsync(self._descriptor)  # a power cut may not leave the note without what it speaks of
        beside = self._note.with_suffix(".new")
        beside.write_text(str(done), encoding="ascii")
        beside.replace(self._note)
        self._noted_at = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@contextmanager
def continued(file: Path, *, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Continued]:
    """Open the array for writing; at the end of the block it is whole."""
    array = Continued(file, shape=shape, dtype=dtype)
    try:
        yield array
    finally:
        array.close()
    _note_beside(file).unlink(missing_ok=True)


def is_noted(file: Path) -> bool:
    """Whether a part of the array in this file is done, and not all of it."""
    return _noted(_note_beside(file)) > 0


def _note_beside(file: Path) -> Path:
    return file.with_suffix(".done")


def _noted(note: Path) -> int:
    with suppress(OSError, ValueError):
        return int(note.read_text(encoding="ascii"))
    return 0


def _write(descriptor: int, data: bytes | memoryview, *, at: int) -> None:
    data = memoryview(data)
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written
