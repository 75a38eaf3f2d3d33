"""What is computed once per study: arrays in a folder, mapped into the memory of every process.

A folder's name is a digest of everything that decides its content: the same name always means the same arrays. Nobody
changes them, and a folder is published by a rename, whole or not at all. So no process needs a lock.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fold_search.models.encoders import resolve_encoder

Arrays = dict[str, NDArray[Any]]

_SCRATCH: set[Path] = set()
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

    If two processes publish at once, the folder of the first stays. Raises OSError that names it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(folder) as scratch:
            complete = scratch / folder.name
            complete.mkdir()
            fill(complete)
            try:
                complete.rename(folder)
            except OSError:  # another process was first: its folder is not empty
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


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
    """Remove the folders that this process is still filling; for a process that ends without leaving its blocks."""
    for folder in list(_SCRATCH):
        shutil.rmtree(folder, ignore_errors=True)


def write_parts(file: Path, parts: Iterable[NDArray[Any]], *, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write one array part by part, so that it is never in memory as a whole; raises OSError."""
    # Not by numpy, which does not say why it failed. Not through a memory map: on a full disk that ends the process.
    with file.open("wb") as output:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(output, header)
        for part in parts:
            output.write(np.ascontiguousarray(part, dtype).data)


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
        write_parts(folder / f"{name}.npy", [array], shape=array.shape, dtype=array.dtype)


@lru_cache(maxsize=32)
def _digest_file(path: Path, version: tuple[int, int]) -> str:
    # Every fold run asks, and reading the weights takes longer than training a head. A changed file is read again.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
