"""A cache folder: which processes use it, and which of its entries may be deleted."""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Names, as regular expressions: of what was computed, of scratch folders, and of what is only half computed.
ENTRY = r"(?!unfinished-)[a-z-]+-[0-9a-f]{32}(\.npy)?"
TEMPORARY = r"tmp[a-z0-9_]{8}"
UNFINISHED = r"unfinished-[0-9a-f]{8}-[a-z-]+-[0-9a-f]{32}"
SCRATCH_SECONDS = 3600.0  # without a write: its process has died


class Hold:
    """Says, for as long as this process lives or until `close`, that the folder is in use; raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process on this machine holds the folder. If so, none can hold it until this ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def entries(folder: Path) -> list[Path]:
    """The entries that were computed for studies, and unfinished ones of processes that died; no other files."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if not path.is_symlink() and (_is_entry(path) or _is_scratch(path))]


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(part.lstat().st_size for part in (path, *path.rglob("*")) if part.is_file())


def remove(path: Path) -> None:
    """Remove one of the `entries`. Meanwhile other processes see all of it or nothing. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, suppress(FileNotFoundError):
        path.rename(Path(scratch, path.name))


def _is_entry(path: Path) -> bool:
    return re.fullmatch(ENTRY, path.name) is not None


def _is_scratch(path: Path) -> bool:
    """Whether a process left it when it died. One on another machine, whose locks are not seen, may still write."""
    if re.fullmatch(f"{TEMPORARY}|{UNFINISHED}", path.name) is None or not path.is_dir():
        return False
    with suppress(FileNotFoundError):  # it was being written, and is complete now
        last = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
        is_ours = re.fullmatch(UNFINISHED, path.name) or all(map(_is_known, path.iterdir()))
        return bool(is_ours) and last < time.time() - SCRATCH_SECONDS
    return False


def _is_known(path: Path) -> bool:
    return re.fullmatch(f"{ENTRY}|{TEMPORARY}|{UNFINISHED}", path.name) is not None
