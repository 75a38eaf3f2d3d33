"""Image files as pixels. All are checked before anything is trained, and decoded once per study."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from fold_search.objectives.cores import num_threads
from fold_search.objectives.data.dataset import Content, Dataset
from fold_search.objectives.data.image_root import DAMAGES, ImageFiles, first_line
from fold_search.objectives.errors import DataError

Pixels = NDArray[np.uint8]

ROWS_PER_CHUNK = 256
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# What turns an image upright, by EXIF's number for how the camera was held.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF
# A PNG names the transparent colour at its own depth; Pillow's pixels have 8 bits.
UNITS_OF_TRANSPARENCY = {"L;2": 255 / 3, "L;4": 255 / 15, "RGB;16B": 1 / 256}
# Not EPS: Pillow would run Ghostscript, which runs the program that stands in the file.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
UNNAMED = "is not named: the cell is empty"

# Pillow's warnings about damaged notes in a file help nobody, and would stand between the lines of a run.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Pillow only warns of an image of more than 89 million pixels. Set here and not in a function: several threads decode.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def check_images(content: Content) -> None:
    """Look at the beginning of every row's image; raises DataError for a file that is missing or not an image."""
    wrong = [(row, found) for row, found in enumerate(look_at_images(content)) if isinstance(found, str)]
    if wrong:
        row, reason = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError(f"{_place(content, row)} {reason}{more}")


def look_at_images(content: Content) -> Iterator[tuple[int, int] | str]:
    """Yield the width and height of every row's image, or what is wrong with it. Only each file's beginning is read."""
    files = ImageFiles(content.spec.image_root)
    for path in content.texts:
        yield _look_at(files, path)


def stamps(content: Content) -> list[str]:
    """Return a mark for every row's image that changes when the file does; raises DataError if one is missing."""
    files = ImageFiles(content.spec.image_root)
    try:
        return [files.stamp(path) for path in content.texts]
    except (OSError, KeyError):
        check_images(content)
        raise


def decode_images(content: Content, *, size: int, first: int = 0) -> Iterator[Pixels]:
    """Yield the images of row `first` and all after it, (some rows, size, size, 3), squeezed to squares; DataError."""
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
        for start in range(first, len(content.texts), ROWS_PER_CHUNK):
            rows = range(start, min(start + ROWS_PER_CHUNK, len(content.texts)))
            yield np.stack(list(pool.map(decode, rows)))


def _as_square(image: Any, size: int) -> Pixels:
    """Return the image as it is meant to be seen, (size, size, 3): upright, and white where it is transparent.

    `image` is an opened file. Raises ValueError if the file does not say which of its values are black and white.
    """
    _check_depth(image)
    transparent = _transparent_colour(image)
    image.load()
    if image.mode in (*DEEP_MODES, "I"):
        seen = _in_eight_bits(image, transparent=transparent)
    else:
        seen = image
        if transparent is not None:
            seen.info["transparency"] = transparent
    if (turn := TURNS.get(_orientation(image))) is not None:
        seen = seen.transpose(turn)
    if seen.has_transparency_data:
        seen = seen.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    squeezed: Any = seen.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(squeezed, np.uint8)


def _check_depth(image: Any) -> None:
    """Raise ValueError for values of 32 bits, whose range depends on who wrote them; those of a PPM have 16 bits."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "whole" if image.mode == "I" else "floating point"
        raise ValueError(f"its pixels are {kind} numbers of 32 bits; expected at most 16 bits a colour")


def _in_eight_bits(image: Any, *, transparent: Any) -> Image.Image:
    """Return a grey image of 16 bits as one of 8 bits. Pillow's own conversion would cut off what is above 255."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    grey = np.asarray(image)
    eight = (grey.astype(np.float32) * (255 / white)).round().clip(0, 255).astype(np.uint8)
    seen = Image.fromarray(~eight if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else eight)
    if transparent is not None:
        seen.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    return seen


def _transparent_colour(image: Any) -> Any:
    """Return the transparent colour or palette entries, at the depth of Pillow's pixels; None if there are none."""
    colour = image.info.get("transparency")
    unit = UNITS_OF_TRANSPARENCY.get(str(image.tile[0].args)) if image.format == "PNG" and image.tile else None
    if unit is None or colour is None:
        return colour
    return tuple(int(part * unit) for part in colour) if isinstance(colour, tuple) else round(colour * unit)


def _orientation(image: Any) -> int:
    """Return EXIF's number for the orientation; 1 (upright) if there is none, or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*DAMAGES, TypeError):
        return 1


def _look_at(files: ImageFiles, path: str) -> tuple[int, int] | str:
    if not path.strip():
        return UNNAMED
    try:
        with files.open(path) as file, Image.open(file, formats=FORMATS) as image:
            _check_depth(image)
            width, height = image.size
            # TIFF's size is that of the upright image; to look for EXIF at its end, a PNG would be decoded.
            is_told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            return (height, width) if is_told and _orientation(image) in SIDEWAYS else (width, height)
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
