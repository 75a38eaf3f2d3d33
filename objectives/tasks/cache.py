"""What is computed once per study: arrays in a folder, mapped into the memory of every process.

A folder's name is a digest of everything that decides its content: the same name always means the same arrays. Nobody
changes them, and a folder is published by a rename, whole or not at all. So no reader needs a lock.

Until then it is filled beside its place, under a name that is always the same. One process at a time fills it; if that
one dies, the next goes on with what is there (`continued.py`).
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fold_search.models.encoders import resolve_encoder
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.continued import is_noted

Arrays = dict[str, NDArray[Any]]

_SCRATCH: set[Path] = set()
# A place for each machine: on some network file systems a lock is seen on one machine only.
UNFINISHED = f"unfinished-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"
WAIT_SECONDS = 0.2
HANGS_SECONDS = 60.0  # without a write: the process that fills a folder hangs
ATTEMPTS = 100  # to map a folder that is removed each time after it was published


def cached(folder: Path, compute: Callable[[], Arrays]) -> Arrays:
    """As `filled`, for arrays that are computed as a whole."""
    return filled(folder, lambda complete: _save(complete, compute()))


def filled(folder: Path, fill: Callable[[Path], None]) -> Arrays:
    """Map the arrays of `folder`; publish it first if it is not there, and again if it is removed meanwhile.

    If two processes publish at once, the arrays of the first stay. Raises OSError that names the folder.
    """
    for _ in range(ATTEMPTS):  # `search clean` may remove the folder between any two of these lines
        with suppress(FileNotFoundError):
            return mapped(folder)
        publish(folder, fill)
    return mapped(folder)


def publish(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder`, whole or not at all, with the files that `fill` writes into the folder it is given.

    The folder may hold what an earlier process has left there. Where another process of this machine fills it, wait for
    that one. If that one hangs, or the file system has no locks, both fill one of their own; the first that is whole
    stays. Raises OSError that names it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _place_to_fill(folder) as place:
            if folder.is_dir():  # filled by the process that was waited for
                return
            fill(place)
            try:
                place.rename(folder)
            except OSError:  # another process was first: its folder is not empty
                if not folder.is_dir():
                    raise
                _remove(place)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


@contextmanager
def _place_to_fill(folder: Path) -> Iterator[Path]:
    """The unfinished folder if no other process holds it, and else one of this process alone.

    What it holds stays there if this process dies or is interrupted. An error, such as of a full disk, removes it.
    """
    place = folder.with_name(UNFINISHED + folder.name)
    descriptor = _opened(place)
    try:
        if _is_held(descriptor, place):
            _SCRATCH.add(place)
            try:
                yield place
            except BaseException as error:
                if isinstance(error, Exception) or not _is_worth_keeping(place):
                    _remove(place)
                raise
            finally:
                _SCRATCH.discard(place)
        else:
            with scratch_beside(folder) as scratch:
                own = scratch / folder.name
                own.mkdir()
                yield own
    finally:
        os.close(descriptor)


def _opened(place: Path) -> int:
    """Open the folder, made if it is not there; between the two another process may publish it."""
    while True:
        place.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY)


def _is_held(descriptor: int, place: Path) -> bool:
    """Whether this process holds the place alone. It waits for another one that does for as long as that one writes."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), place.stat()):
                return False
            os.utime(place)  # the first write comes when the encoder is loaded
            return True
        except FileNotFoundError:  # it was published by the process that was waited for, or removed
            return False
        except BlockingIOError:
            if time.time() - _last_write(place) > HANGS_SECONDS:
                return False
            with stage("waiting for another process that prepares the rows"):
                time.sleep(WAIT_SECONDS)
        except OSError:  # some network file systems have no locks
            with suppress(OSError):
                place.rmdir()
            return False


def _is_worth_keeping(place: Path) -> bool:
    """Whether the next process can go on with it."""
    return any(is_noted(file) for file in place.glob("*.npy"))


def _last_write(place: Path) -> float:
    with suppress(FileNotFoundError):  # it was published just now
        return max(path.stat().st_mtime for path in (place, *place.iterdir()))
    return time.time()


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is not complete yet; it is removed when the block ends."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        _SCRATCH.add(Path(name))
        try:
            yield Path(name)
        finally:
            _SCRATCH.discard(Path(name))


def remove_scratch() -> None:
    """Remove what this process is still filling; for a process that ends without leaving its blocks."""
    for folder in list(_SCRATCH):
        if not _is_worth_keeping(folder):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder under another name: a thread that would publish it meanwhile finds it gone, and never half."""
    gone = Path(tempfile.mkdtemp(dir=folder.parent))
    with suppress(OSError):
        folder.rename(gone / folder.name)
    shutil.rmtree(gone, ignore_errors=True)


def mapped(folder: Path) -> Arrays:
    """Map the arrays of `folder`, by the names of their files.

    Raises FileNotFoundError if it is not there, OSError that names it if one is damaged.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files = [Path(folder, name) for name in os.listdir(opened) if name.endswith(".npy")]
        arrays: Arrays = {path.stem: np.lib.format.open_memmap(path, mode="r") for path in files}
        # If it was being removed while it was listed, some of its files may be missing.
        if not os.path.samestat(os.fstat(opened), folder.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        return arrays
    except (ValueError, EOFError) as error:
        raise OSError(errno.EIO, "is damaged, and may be removed", str(folder)) from error
    finally:
        os.close(opened)


def digest(parts: Iterable[str]) -> str:
    """Return a name that is the same for the same parts."""
    sha256 = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        sha256.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha256.hexdigest()[:32]


def digest_weights(encoder: str) -> list[str]:
    """Return the sha256 of each of the encoder's weight files; raises EncoderError."""
    files = sorted(resolve_encoder(encoder).glob("*.safetensors"))
    return [_digest_file(path, (path.stat().st_size, path.stat().st_mtime_ns)) for path in files]


def _save(folder: Path, arrays: Arrays) -> None:
    for name, array in arrays.items():
        # Not by numpy, which does not say why it failed.
        with (folder / f"{name}.npy").open("wb") as output:
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_1_0(output, header)
            output.write(np.ascontiguousarray(array).data)


@lru_cache(maxsize=32)
def _digest_file(path: Path, version: tuple[int, int]) -> str:
    # Every fold run asks, and reading the weights takes longer than training a head. A changed file is read again.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
