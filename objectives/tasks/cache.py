"""What is computed once a study: arrays in a folder named by what decides them, mapped into every process's memory."""

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
ATTEMPTS = 100  # at an entry that goes away as often as it is published


def cached(folder: Path, compute: Callable[[], Arrays]) -> Arrays:
    """As `filled`, with arrays that are computed whole."""
    return filled(folder, lambda complete: _save(complete, compute()))


def filled(folder: Path, fill: Callable[[Path], None]) -> Arrays:
    """Map the arrays of `folder`, published first if it is not there, anew if it goes away meanwhile.

    Of two processes at once, the first one's arrays stay. Raises OSError that names it.
    """
    for _ in range(ATTEMPTS):  # `search clean` may remove the folder between any two of these lines
        with suppress(FileNotFoundError):
            return mapped(folder)
        publish(folder, fill)
    return mapped(folder)


def publish(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder`, whole or not at all, of what `fill` writes to the folder it is given.

    Of two processes at once, the first one's folder stays. Raises OSError that names it.
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
    """A folder beside `path` for what is not whole yet; it is removed in the end."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        _SCRATCH.add(Path(name))
        try:
            yield Path(name)
        finally:
            _SCRATCH.discard(Path(name))


def remove_scratch() -> None:
    """Remove the folders of what this process is in the middle of: it ends without unwinding."""
    for folder in list(_SCRATCH):
        shutil.rmtree(folder, ignore_errors=True)


def write_parts(file: Path, parts: Iterable[NDArray[Any]], *, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write the rows of one array, which is never in memory as a whole; raises OSError."""
    # Neither by numpy, which does not say why it cannot, nor through a map: on a full disk that would be a signal.
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
        # Listed while it was being removed, it may have shown some of its files only.
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
    # Every fold run asks, and reading the weights takes longer than training a head; a file of another version is new.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
