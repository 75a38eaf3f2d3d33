"""Image files as pixels: all looked at before anything is trained, and decoded once a study."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from objectives.cores import num_threads
from objectives.data import Content, Dataset
from objectives.errors import DataError
from objectives.image_root import DAMAGES, ImageFiles, first_line

Pixels = NDArray[np.uint8]

ROWS_PER_CHUNK = 256
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Not EPS, for which Pillow runs Ghostscript, which runs what stands in the file.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
UNNAMED = "is not named: the cell is empty"


# Pillow only warns of an image of more than 89 million pixels; not within a function, as several threads decode.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def check_images(content: Content) -> None:
    """Look at the beginning of every row's image; raises DataError for what is missing or no image."""
    wrong = [(row, found) for row, found in enumerate(look_at_images(content)) if isinstance(found, str)]
    if wrong:
        row, reason = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError(f"{_place(content, row)} {reason}{more}")


def look_at_images(content: Content) -> Iterator[tuple[int, int] | str]:
    """Yield the width and the height of every row's image, or what is wrong with it as far as its beginning tells."""
    files = ImageFiles(content.spec.image_root)
    for path in content.texts:
        yield _look_at(files, path)


def stamps(content: Content) -> list[str]:
    """Return of every row's image what changes when the file does; raises DataError if one is missing."""
    files = ImageFiles(content.spec.image_root)
    try:
        return [files.stamp(path) for path in content.texts]
    except (OSError, KeyError):
        check_images(content)
        raise


def decode_images(content: Content, *, size: int) -> Iterator[Pixels]:
    """Yield the rows' images in their order, (some rows, size, size, 3), squeezed to squares; raises DataError."""
    files = ImageFiles(content.spec.image_root)

    def decode(row: int) -> Pixels:
        if not content.texts[row].strip():
            raise DataError(f"{_place(content, row)} {UNNAMED}")
        try:
            with files.open(content.texts[row]) as file, Image.open(file, formats=FORMATS) as image:
                return _as_square(image, size)
        except (*DAMAGES, *BOMBS) as error:
            raise DataError(f"{_place(content, row)} {_reason(error)}") from error

    with ThreadPoolExecutor(num_threads()) as pool:
        for start in range(0, len(content.texts), ROWS_PER_CHUNK):
            rows = range(start, min(start + ROWS_PER_CHUNK, len(content.texts)))
            yield np.stack(list(pool.map(decode, rows)))


def _as_square(image: Image.Image, size: int) -> Pixels:
    """Return the image as it is meant to be seen, (size, size, 3); what is transparent becomes white."""
    if image.mode in DEEP_MODES:
        image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are {'whole' if image.mode == 'I' else 'floating point'} numbers of 32 bits")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    squeezed: Any = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(squeezed, np.uint8)


def _look_at(files: ImageFiles, path: str) -> tuple[int, int] | str:
    if not path.strip():
        return UNNAMED
    try:
        with files.open(path) as file, Image.open(file, formats=FORMATS) as image:
            return image.size
    except (*DAMAGES, *BOMBS) as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, UnidentifiedImageError):
        return "is no image that can be read"
    return f"cannot be read: {first_line(error)}"


def _place(content: Content, row: int) -> str:
    """Name the row's file, its data row there and its image."""
    own = len(content.texts) - (content.num_extra if isinstance(content, Dataset) else 0)
    path = content.spec.path if row < own else content.spec.extra
    return f"{path}: data row {content.rows[row]}: the image {content.texts[row]!r} under {content.spec.image_root}"
