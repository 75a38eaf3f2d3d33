"""The files under a folder or in a zip file: finds images by their paths, and says which of them are the same."""

import functools
import hashlib
import posixpath
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from fold_search.objectives.errors import DataError

DAMAGES = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
MOST_BYTES = 2**29  # of an image in a zip file; more than the most pixels that are read take
NAMED_IN_UTF8 = 0x800  # the flag of a zip file's member
UNICODE_PATH = 0x7075  # Info-ZIP's extra field with a member's name in UTF-8
# What macOS, Windows and file servers put beside a user's files.
OF_THE_SYSTEM = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


class ImageFiles:
    """The files under a folder, or in a zip file, by their relative paths.

    If everything lies in one outer folder, a path may leave that out. It may also be written in another Unicode form.
    Raises DataError if `root` is neither a folder nor a zip file, or if a file in the zip would lie outside it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._archive: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        if not root.is_dir():
            self._archive, self._members = _open_archive(root)

    def open(self, path: str) -> IO[bytes]:
        """Open one file; raises OSError, or ValueError if something is wrong with its path."""
        _check_inside(path)
        path = self._find(path)
        if self._archive is None:
            file = self._root / path
            # A device or a pipe may never end, or begin.
            if file.exists() and not file.is_file():
                raise ValueError("it is no plain file")
            return file.open("rb")
        try:
            member = self._members[path]
        except KeyError:
            raise FileNotFoundError from None
        if member.file_size > MOST_BYTES:
            raise ValueError(f"it unpacks to {member.file_size:,} bytes, expected at most {MOST_BYTES:,}")
        return self._archive.open(member)

    def stamp(self, path: str) -> str:
        """Return a mark that changes when the file does: its size, and its checksum or the time of its last change.

        Raises OSError or KeyError if it is not there.
        """
        path = self._find(path)
        if self._archive is None:
            status = (self._root / path).stat()
            return f"{status.st_size} {status.st_mtime_ns}"
        member = self._members[path]
        return f"{member.file_size} {member.CRC}"

    def contents(self, paths: Sequence[str]) -> list[str]:
        """Return a name for each file's content; equal files share one. For a file that cannot be read it is the path.

        Only files of equal size are read. Those in a zip file are not, since it has their checksums.
        """
        if self._archive is not None:
            return [self.stamp(path) if self._find(path) in self._members else path for path in paths]
        sizes = {path: self._size(path) for path in paths}
        shared = Counter(sizes.values())
        alone = {path for path, size in sizes.items() if size is None or shared[size] == 1}
        names = {path: path if path in alone else self._digest(path) for path in sizes}
        return [names[path] for path in paths]

    def _find(self, path: str) -> str:
        """Return the path under which the file really lies; the given path if there is no such file."""
        if self._is_there(path):
            return path
        tries = (unicodedata.normalize(form, f"{outer}{path}") for outer in self._outer for form in ("NFC", "NFD"))
        return next(filter(self._is_there, tries), path)

    def _is_there(self, path: str) -> bool:
        return path in self._members if self._archive is not None else (self._root / path).exists()

    @functools.cached_property
    def _outer(self) -> list[str]:
        """Where a path may start: at "", or in each of the folders, one inside the other, that hold all files."""
        if self._archive is not None:
            folders = [posixpath.dirname(name) for name in self._members if not is_of_the_system(name)]
            common = PurePosixPath(posixpath.commonpath(folders) if folders else "")
        else:
            folder = self._root
            while len(inside := [entry for entry in folder.iterdir() if not is_of_the_system(entry.name)]) == 1:
                if not inside[0].is_dir() or inside[0].is_symlink():
                    break
                folder = inside[0]
            common = PurePosixPath(folder.relative_to(self._root).as_posix())
        return ["", *(f"{'/'.join(common.parts[: depth + 1])}/" for depth in range(len(common.parts)))]

    def _size(self, path: str) -> int | None:
        try:
            _check_inside(path)
            return (self._root / self._find(path)).stat().st_size
        except (OSError, ValueError):
            return None

    def _digest(self, path: str) -> str:
        try:
            with self.open(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except (OSError, ValueError):
            return path


def is_of_the_system(path: str) -> bool:
    """Whether a file, or a folder that it lies in, is hidden or was made by the system and not by the user."""
    parts = (part for part in PurePosixPath(path).parts if part != "..")
    return any(part.startswith(".") or part.lower() in OF_THE_SYSTEM for part in parts)


def read_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files in a zip file by their paths.

    Raises ValueError for a name that leads outside, and for a name whose encoding is not known.
    """
    members = ((member, _name_of(member)) for member in archive.infolist() if member.filename and not member.is_dir())
    named = {name: member for member, name in members if name and not name.endswith("/")}
    for name in named:
        _check_inside(name)
    return named


def _name_of(member: zipfile.ZipInfo) -> str:
    """Return the member's path. Python reads names without the flag in DOS's code page, in which few are written."""
    # Some programs on Windows write its separator.
    if member.flag_bits & NAMED_IN_UTF8:
        return member.filename.replace("\\", "/")
    written = member.orig_filename.encode("cp437").partition(b"\0")[0]
    try:
        return (_unicode_path(member.extra, written) or written).decode().replace("\\", "/")
    except UnicodeDecodeError:
        raise ValueError(
            f"the name {written!r} is in an encoding that the file does not tell; expected UTF-8, or the files in a "
            "folder, unpacked by a program that asks for the encoding (such as unzip -O CP949)"
        ) from None


def _unicode_path(extra: bytes, name: bytes) -> bytes | None:
    """Return the name in UTF-8 that stands in the member's extra fields, if it belongs to `name`."""
    for field, content in _extra_fields(extra):
        if field == UNICODE_PATH and content[1:5] == zlib.crc32(name).to_bytes(4, "little"):
            return content[5:]
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        field, size = struct.unpack("<HH", extra[:4])
        yield field, extra[4 : 4 + size]
        extra = extra[4 + size :]


def _open_archive(root: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    try:
        archive = zipfile.ZipFile(root)
        return archive, read_members(archive)
    except FileNotFoundError:
        raise DataError(f"{root}: there is no such folder or zip file; data.images expects one") from None
    except DAMAGES as error:
        raise DataError(f"{root}: not a readable folder or zip file of images: {first_line(error)}") from error


def _check_inside(path: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"the path {path!r} leads outside")


def first_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    lines: Sequence[str] = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__
