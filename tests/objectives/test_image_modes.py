"""Every kind of pixels that Pillow opens is seen alike: upright, on white, from black to white in eight bits."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.image_files import FORMATS, check_images, decode_images, look_at_images
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError

SIZE = 16
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
OF_32_BITS = {"I", "F"}
# Of formats that blur, which AVIF and JPEG do most, and of palettes.
MOST_OFF = 16.0  # a scene that is turned wrongly is 30 off and more, or 13 in black and white, which nothing blurs


def scene(mode: str) -> Image.Image:
    """24 x 16 pixels that look different from every side; a black part at the top on the left."""
    across, down = np.meshgrid(np.linspace(40, 255, 24), np.linspace(255, 60, 16))
    colours = np.stack([across, down, (across + down) / 3], axis=-1).astype(np.uint8)
    colours[:8, :8] = 0
    image = Image.fromarray(colours)
    if mode in GREY:
        image = image.convert("L")
    return (image.point(lambda value: 255 * (value > 150)) if mode == "1" else image).convert("RGB")


def in_mode(mode: str) -> Image.Image:
    """The scene in one of Pillow's modes."""
    image = scene(mode)
    if mode.startswith("I;16") or mode == "I":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        if mode == "I":
            return Image.fromarray(deep.astype(np.int32))
        return Image.frombytes(mode, image.size, deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    between = {"1": "L", "La": "LA", "PA": "P", "RGBa": "RGBA", "LA": "L"}.get(mode)
    return (image.convert(between) if between else image).convert(mode)


def saved(image: Image.Image, file_format: str, orientation: int = 1, **settings: Any) -> bytes | None:
    """The file's content; None where Pillow does not write that kind, or drops how the camera was held."""
    content, exif = io.BytesIO(), Image.Exif()
    if orientation > 1:
        exif[0x0112] = orientation
        settings["exif"] = exif
    try:
        image.save(content, file_format, **settings)
        with Image.open(io.BytesIO(content.getvalue()), formats=FORMATS) as opened:
            told = opened.getexif().get(0x0112, 1)
    except (OSError, KeyError, ValueError):
        return None
    return content.getvalue() if told == orientation else None


def kinds() -> Iterator[tuple[str, str]]:
    """Each mode with each format that Pillow opens in it; a deep PPM opens as whole numbers."""
    for mode in Image.MODES:
        for file_format in FORMATS:
            if (content := saved(in_mode(mode), file_format)) is not None:
                with Image.open(io.BytesIO(content)) as opened:
                    if opened.mode == mode or (mode, file_format) == ("I;16", "PPM"):
                        yield mode, file_format


KINDS = list(kinds())
READ = [kind for kind in KINDS if kind[0] not in OF_32_BITS]


def seen(folder: Path, *contents: bytes) -> np.ndarray:
    """Return what is trained on of these files, (files, SIZE, SIZE, 3)."""
    dataset = table(folder, *contents)
    check_images(dataset)
    return np.concatenate(list(decode_images(dataset, size=SIZE)))


def table(folder: Path, *contents: bytes) -> Any:
    for number, content in enumerate(contents):
        (folder / f"{number}").write_bytes(content)
    lines = ["file,label", *(f"{number},{number % 2}" for number in range(len(contents))), "0,0", "0,1"]
    (folder / "rows.csv").write_text("\n".join(lines))
    return read_dataset(DataSpec(path=folder / "rows.csv", image="file", label="label"))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    content = saved(image, "PNG", orientation)
    assert content is not None
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content)))


def as_seen(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float64)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).mean())


def test_all_modes_of_files_are_tried():
    """Those that no format holds are Pillow's own, in memory."""
    assert {mode for mode, _ in KINDS} == set(Image.MODES) - {"HSV", "I;16L", "I;16N", "La", "RGBX", "RGBa"}
    assert {file_format for _, file_format in KINDS} == set(FORMATS)


@pytest.mark.parametrize(("mode", "file_format"), READ)
def test_every_mode_is_upright(tmp_path: Path, mode: str, file_format: str):
    """However the camera was held, and `search init` looks at the same width and height."""
    orientations = [turn for turn in range(1, 9) if saved(in_mode(mode), file_format, turn) is not None]
    contents = [saved(in_mode(mode), file_format, turn) for turn in orientations]
    expected = [upright(scene(mode), turn) for turn in orientations]
    found = seen(tmp_path, *filter(None, contents))
    for pixels, image in zip(found, expected, strict=False):
        assert off(pixels, as_seen(image)) < (8 if mode == "1" else MOST_OFF)
    sizes = list(look_at_images(table(tmp_path, *filter(None, contents))))[: len(expected)]
    # Pillow makes an icon smaller when it writes one.
    assert sizes == [(16, 11) if file_format == "ICO" else image.size for image in expected]


@pytest.mark.parametrize(("mode", "file_format"), [kind for kind in KINDS if kind[0] in OF_32_BITS])
def test_numbers_of_unknown_range_are_refused_before_anything_is_trained(tmp_path: Path, mode: str, file_format: str):
    """Nobody says which of them is black; a PPM does."""
    content = saved(in_mode(mode), file_format)
    assert content is not None
    rows = table(tmp_path, content, content)
    if (mode, file_format) == ("I", "PPM"):
        check_images(rows)
        return
    with pytest.raises(DataError, match=r"data row 1: .* numbers of 32 bits; expected at most 16 bits a colour"):
        check_images(rows)


@pytest.mark.parametrize(("mode", "file_format", "transparent"), [
    ("1", "PNG", 0), ("L", "PNG", 0), ("I;16", "PNG", 0), ("RGB", "PNG", (0, 0, 0)), ("P", "PNG", None),
    ("P", "GIF", None), ("LA", "PNG", None), ("LA", "TIFF", None), ("PA", "TIFF", None), ("RGBA", "PNG", None),
    ("RGBA", "TIFF", None), ("RGBA", "WEBP", None), ("RGBA", "TGA", None), ("LA", "TGA", None),
    ("RGBA", "JPEG2000", None), ("LA", "JPEG2000", None), ("RGBA", "AVIF", None),
])  # fmt: skip
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, file_format: str, transparent: Any):
    """By a colour, a palette's entry, or a channel, turned or not."""
    image, settings = in_mode(mode), {} if transparent is None else {"transparency": transparent}
    if mode == "P":
        settings["transparency"] = image.getpixel((0, 0))
    elif transparent is None:
        image.putalpha(scene("RGB").convert("L").point(lambda value: 255 * (value > 0)))
    shown = np.asarray(scene(mode)).copy()
    shown[:8, :8] = 255
    if mode == "1":
        shown[:] = 255  # all that is not transparent is white as it is
    contents = {turn: saved(image, file_format, turn, **settings) for turn in (1, 6)}
    written = {turn: content for turn, content in contents.items() if content is not None}
    assert 1 in written  # not all formats say how the camera was held
    found = seen(tmp_path, *written.values(), *written.values())
    for pixels, turn in zip(found, written, strict=False):
        assert off(pixels, as_seen(upright(Image.fromarray(shown), turn))) < MOST_OFF


def tiff(values: list[int], *, bits: int, photometric: int) -> bytes:
    """A TIFF file of one row, of a depth that Pillow does not write."""
    data = np.array(values, "<u2").tobytes()
    if bits == 12:
        pairs = zip(values[::2], values[1::2], strict=True)
        data = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    longs = {256: len(values), 257: 1, 273: 8, 278: 1, 279: len(data)}
    shorts = {258: bits, 259: 1, 262: photometric, 277: 1}
    tags = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
    tags |= {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    listed = struct.pack("<H", len(tags)) + b"".join(tags[tag] for tag in sorted(tags)) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + listed


def png(row: bytes, *, bits: int, colour: int, transparent: bytes) -> bytes:
    """A PNG file of one row of two pixels."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0),
        b"tRNS": transparent,
        b"IDAT": zlib.compress(b"\0" + row),
        b"IEND": b"",
    }
    written = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
               for name, data in chunks.items())  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_depths_go_from_black_to_white(tmp_path: Path):
    """12 bits, and those of which zero is white, as much as 16."""
    ends = {12: 4095, 16: 65535}
    files = [tiff([0, end] * 2, bits=bits, photometric=1) for bits, end in ends.items()]
    files += [tiff([65535, 0] * 2, bits=16, photometric=0)]
    assert [pixels[0, [0, -1], 0].tolist() for pixels in seen(tmp_path, *files)[:3]] == [[0, 255]] * 3


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent"),
    [
        (2, 0, b"\x90", b"\0\2"),
        (4, 0, b"\xa5", b"\0\x0a"),
        (8, 0, b"\xa0\x50", b"\0\xa0"),
        (16, 0, b"\xa1\xa2\xa1\xa3", b"\xa1\xa2"),
        (8, 2, b"\xa0\xb0\xc0\x10\x20\x30", b"\0\xa0\0\xb0\0\xc0"),
        (16, 2, b"\xa0\1\xb0\1\xc0\1\x10\2\x20\2\x30\2", b"\xa0\1\xb0\1\xc0\1"),
    ],
)
def test_a_transparent_colour_is_of_the_files_depth(
    tmp_path: Path, bits: int, colour: int, row: bytes, transparent: bytes
):
    """The first of two pixels is; the second is not."""
    content = png(row, bits=bits, colour=colour, transparent=transparent)
    pixels = seen(tmp_path, content, content)[0]
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, -1].max() < 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("notes", [b"nonsense", b"MM\0*\0\0\0\x08\xff\xff nonsense"])
def test_damaged_exif_turns_nothing(tmp_path: Path, notes: bytes):
    """An image whose notes cannot be read is seen as it is stored."""
    content = io.BytesIO()
    scene("RGB").save(content, "JPEG", exif=b"Exif\0\0" + notes)
    assert off(seen(tmp_path, content.getvalue(), content.getvalue())[0], as_seen(scene("RGB"))) < MOST_OFF
