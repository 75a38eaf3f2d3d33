"""Reads arrays from bytes that may hold anything: no pickles, and no more memory than MOST_BYTES."""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**28  # of a file's arrays together, unpacked


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by their names, that of an .npy file as ""; else raises ValueError."""
    # numpy and zipfile raise almost anything for bytes that are not theirs.
    try:
        if content.startswith(np.lib.format.MAGIC_PREFIX):
            return {"": np.load(io.BytesIO(content), allow_pickle=False)}
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
        if num_bytes <= MOST_BYTES:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                # What is no array in the zip file comes as bytes.
                return {name: _checked(stored[name]) for name in stored.files}
    except Exception as error:
        raise ValueError(f"no readable .npz or .npy file ({len(content)} bytes: {type(error).__name__})") from error
    raise ValueError(f"its arrays unpack to {num_bytes:,} bytes, expected at most {MOST_BYTES:,}")


def _checked(found: Any) -> NDArray[Any]:
    if not isinstance(found, np.ndarray):
        raise TypeError
    return found
