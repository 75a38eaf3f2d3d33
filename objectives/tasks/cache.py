"""What is computed once a study: arrays in a folder named by what decides them, mapped into every process's memory."""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.encoders import resolve_encoder

Arrays = dict[str, NDArray[Any]]


def cached(folder: Path, compute: Callable[[], Arrays]) -> Arrays:
    """Map the arrays of `folder`, computed first if it is not there; raises OSError that names it.

    Of two processes at once, the first one's arrays stay.
    """
    if not folder.is_dir():
        arrays = compute()
        publish(folder, lambda complete: _save(complete, arrays))
    return mapped(folder)


def publish(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder`, whole or not at all, of what `fill` writes to the folder it is given.

    Of two processes at once, the first one's folder stays. Raises OSError that names it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            complete = Path(scratch, folder.name)
            complete.mkdir()
            fill(complete)
            try:
                complete.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


def mapped(folder: Path) -> Arrays:
    """Map the arrays of `folder`, by the names of their files."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}


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
        # By way of the memory, as numpy does not say why it cannot write to a file.
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        (folder / f"{name}.npy").write_bytes(content.getbuffer())


@lru_cache(maxsize=32)
def _digest_file(path: Path, version: tuple[int, int]) -> str:
    # Every fold run asks, and reading the weights takes longer than training a head; a file of another version is new.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
