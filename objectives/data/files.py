"""Opens data files, zipped or not. A small file cannot unpack to more than a bound."""

import contextlib
import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fold_search.objectives.errors import DataError

MOST_TIMES = 100  # its own size that a file may unpack to; text seldom exceeds 20
FREE_BYTES = 2**26  # that any file may unpack to


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is being read."""

    content: "io.BufferedReader[Any]"  # unzipped
    _file: IO[bytes]
    _num_bytes: int

    @property
    def share_read(self) -> float:
        """How much of the file is read."""
        return self._file.tell() / self._num_bytes


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[OpenFile]:
    """Open a file, unzipped if its name ends in .gz.

    Raises DataError if it is missing, empty or not a plain file, and later where a damaged place is read.
    """
    num_bytes = size(path)
    try:
        with path.open("rb") as file:
            content = io.BufferedReader(_Unzipped(path, file)) if path.suffix == ".gz" else file
            yield OpenFile(content, file, num_bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def size(path: Path) -> int:
    """Return how many bytes a file has; raises DataError if it has none or cannot be read."""
    try:
        status = path.stat()
        # A device or a pipe may never end, or begin.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DataError(f"{path}: is no plain file")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not status.st_size:
        raise DataError(f"{path}: the file is empty")
    return status.st_size


class _Unzipped(io.RawIOBase):
    """The bytes of a gzip file; raises DataError as soon as there are more than any text unpacks to."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = gzip.GzipFile(fileobj=file)
        self._left = max(FREE_BYTES, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        num_bytes = self._file.readinto(buffer)
        self._left -= num_bytes
        if self._left < 0:
            raise DataError(f"{self._path}: unpacks to more than {MOST_TIMES} times its size, which no text does")
        return num_bytes
