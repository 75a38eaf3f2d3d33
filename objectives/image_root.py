"""The files under a folder or in a zip file: where images are found by their paths, and which of them are the same."""

import hashlib
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from objectives.errors import DataError

DAMAGES = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
MOST_BYTES = 2**29  # of an image in a zip file; more than the most pixels that are read take


class ImageFiles:
    """The files under a folder, or in a zip file, by their relative paths.

    Raises DataError if `root` is neither, or if a file in the zip would lie outside it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._archive = None if root.is_dir() else _open_archive(root)

    def open(self, path: str) -> IO[bytes]:
        """Open one file; raises OSError, and ValueError that says what is wrong with its path."""
        _check_inside(path)
        if self._archive is None:
            file = self._root / path
            # A device or a pipe may never end, or begin.
            if file.exists() and not file.is_file():
                raise ValueError("it is no plain file")
            return file.open("rb")
        try:
            num_bytes = self._archive.getinfo(path).file_size
        except KeyError:
            raise FileNotFoundError from None
        if num_bytes > MOST_BYTES:
            raise ValueError(f"it unpacks to {num_bytes:,} bytes, expected at most {MOST_BYTES:,}")
        return self._archive.open(path)

    def stamp(self, path: str) -> str:
        """Return what changes when the file does: its size, and its checksum or the time of its last change."""
        if self._archive is None:
            status = (self._root / path).stat()
            return f"{status.st_size} {status.st_mtime_ns}"
        member = self._archive.getinfo(path)
        return f"{member.file_size} {member.CRC}"

    def contents(self, paths: Sequence[str]) -> list[str]:
        """Return a name for each file's content, the same for equal ones; for what cannot be read, the path itself.

        Only files of the same size are read, and none in a zip file, which has their checksums.
        """
        if self._archive is not None:
            return [self.stamp(path) if path in self._archive.NameToInfo else path for path in paths]
        sizes = {path: self._size(path) for path in paths}
        shared = Counter(sizes.values())
        alone = {path for path, size in sizes.items() if size is None or shared[size] == 1}
        names = {path: path if path in alone else self._digest(path) for path in sizes}
        return [names[path] for path in paths]

    def _size(self, path: str) -> int | None:
        try:
            _check_inside(path)
            return (self._root / path).stat().st_size
        except (OSError, ValueError):
            return None

    def _digest(self, path: str) -> str:
        try:
            with self.open(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError:
            return path


def _open_archive(root: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(root)
        for name in archive.namelist():
            _check_inside(name)
    except FileNotFoundError:
        raise DataError(f"{root}: there is no such folder or zip file; data.images expects one") from None
    except DAMAGES as error:
        raise DataError(f"{root}: not a readable folder or zip file of images: {first_line(error)}") from error
    return archive


def _check_inside(path: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"the path {path!r} leads outside")


def first_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    lines: Sequence[str] = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__
