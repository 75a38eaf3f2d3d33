"""Small files that would make much of themselves are refused with one line, in bounded time and memory."""

import gzip
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.data.dataset import read_chunks, read_dataset
from fold_search.objectives.data.image_files import check_images
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError
from tests.tiny_images import picture

pytestmark = pytest.mark.timeout(60)
MOST_MEMORY = 500 * 2**20  # 64 MiB may be unpacked of any file, as four bytes a character


@pytest.fixture(autouse=True)
def in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process does not grow by more than the limit while the test runs."""
    monkeypatch.chdir(tmp_path)
    forget_peak()
    before = peak_memory()
    yield
    assert peak_memory() < before + MOST_MEMORY


def forget_peak() -> None:
    """Let the peak be what there is now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most bytes of memory that the process had."""
    [kibibytes] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kibibytes) * 1024


def parquet(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content, compression="zstd", use_dictionary=["label"])
    return content.getvalue()


def packed(start: bytes, million: bytes, times: int) -> bytes:
    """Zip what is long without ever holding it."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb") as file:
        file.write(start)
        for _ in range(times):
            file.write(million)
    return content.getvalue()


def many_keys() -> bytes:
    return b"\n".join(b'{"text": "x", "label": "a", "key%d": 1}' % row for row in range(4000))


BOMBS = {
    "d.csv.gz": (lambda: packed(b"text,label\n", b"x" * 10**6, 100), "unpacks to more than 100 times its size"),
    "d.jsonl.gz": (lambda: packed(b'{"text": "', b"x" * 10**6, 100), "unpacks to more than 100 times its size"),
    "columns.csv": (lambda: b"text,label," + b",".join(b"c%d" % n for n in range(200_000)), "has 200,002 columns"),
    "columns.jsonl": (
        lambda: b"{" + b",".join(b'"c%d":1' % n for n in range(200_000)) + b"}",
        "has 200,000 columns, expected at most 10,000",
    ),
    "keys.jsonl": (many_keys, "4,000 rows of 4,002 columns in so small a file, expected fewer columns"),
    "quote.csv": (lambda: b'text,label\nx,a\n"y, z,b\n' + b"y,b\n" * 3_000_000, "field larger than field limit"),
    "long.parquet": (
        lambda: parquet(pa.table({"text": ["x" * 100_000_000, "y"], "label": ["a", "b"]})),
        "unpacks to more than 100 times its size",
    ),
    "rows.parquet": (
        lambda: parquet(
            pa.table({"text": pa.nulls(2 * 10**7, pa.string()), "label": pa.nulls(2 * 10**7, pa.string())})
        ),
        "20,000,000 rows of 2 columns in so small a file",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_tables_that_are_bombs_are_refused(name: str):
    """Whether they are read at once or in parts."""
    build, expected = BOMBS[name]
    Path(name).write_bytes(build())
    forget_peak()
    spec = DataSpec(path=Path(name), label="label", text=("text",))
    with pytest.raises(DataError, match=expected):
        read_dataset(spec)
    if name != "keys.jsonl":  # of which a part has few rows
        with pytest.raises(DataError, match=expected):
            list(read_chunks(spec, rows=1000))


def test_text_that_packs_well_is_read():
    """As tables of few different words do."""
    rows = b"text,label\n" + b"win a prize now,spam\nsee you at home,ham\n" * 50_000
    content = gzip.compress(rows)
    assert len(rows) > 50 * len(content)
    Path("d.csv.gz").write_bytes(content)
    assert len(read_dataset(DataSpec(path=Path("d.csv.gz"), label="label", text=("text",))).texts) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", [b",", b"\t"])
def test_a_stray_quote_takes_no_memory(delimiter: bytes):
    """Of the rows that it could hold, one part is held at a time, and none is lost."""
    path = Path("d.csv" if delimiter == b"," else "d.tsv")
    row = b"y" * 100 + delimiter + b"b\n"
    path.write_bytes(b"text" + delimiter + b"label\nx" + delimiter + b'a\n"' + row + row * 300_000)
    spec = DataSpec(path=path, label="label", text=("text",))
    assert sum(len(chunk.table) for chunk in read_chunks(spec, rows=1000)) == 300_002


@pytest.mark.slow
def test_the_encoding_of_a_large_file_is_found_in_little_memory():
    """Though the first byte that is not UTF-8 comes late, in a file of 200 MB."""
    with Path("d.csv").open("wb") as file:
        file.write(b"text,label\n")
        for _ in range(200):
            file.write((b"some words " * 1000 + b",a\n") * 90)
        file.write("한국어 문장입니다,b\n".encode("cp949"))
    with pytest.raises(DataError, match=r"line 18002; data\.encoding cp949 reads '한국어 문장입니다,b'"):
        for _ in read_chunks(DataSpec(path=Path("d.csv"), label="label", text=("text",)), rows=1000):
            pass


def png(width: int, height: int) -> bytes:
    """An image that says how large it is, and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def zipped(members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile("d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Path("d.zip")


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_images_of_too_many_pixels_are_refused(width: int, height: int):
    """Before one of them is decoded."""
    path = zipped({"a/1.png": png(width, height), "b/2.png": picture("red")})
    with pytest.raises(DataError, match=r"data row 1: the image 'a/1\.png' under d\.zip cannot be read: Image size"):
        check_images(read_dataset(DataSpec(path=path, image="file", label="folder")))


@pytest.mark.parametrize("name", ["a/../../1.png", "/etc/1.png", ".."])
def test_a_zip_file_leads_nowhere_else(name: str):
    """Nothing is unpacked to disk either way."""
    path = zipped({name: picture("red"), "a/2.png": picture("red"), "b/3.png": picture("red")})
    with pytest.raises(DataError, match=r"d\.zip: .* leads outside"):
        check_images(read_dataset(DataSpec(path=path, image="file", label="folder")))


def test_a_link_in_a_zip_file_is_no_image():
    """What it points to is not looked at."""
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    path = zipped({"b/2.png": picture("red")})
    Path("target.png").write_bytes(picture("red"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(Path("target.png").absolute()))
    with pytest.raises(DataError, match=r"'a/link\.png' under d\.zip is no image"):
        check_images(read_dataset(DataSpec(path=path, image="file", label="folder")))


def test_an_image_that_unpacks_to_too_much_is_refused():
    """By the size that the zip file says; what it does not say is never read."""
    with zipfile.ZipFile("d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a/1.bmp", "w") as file:
            file.write(b"BM")
            for _ in range(600):
                file.write(bytes(10**6))
        archive.writestr("b/2.png", picture("red"))
    with pytest.raises(DataError, match="unpacks to 600,000,002 bytes, expected at most 536,870,912"):
        check_images(read_dataset(DataSpec(path=Path("d.zip"), image="file", label="folder")))


def test_devices_and_pipes_are_refused():
    """Reading them would never end."""
    os.mkfifo("pipe.csv")
    Path("zeros.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zeros.csv"):
        with pytest.raises(DataError, match=f"{name}: is no plain file"):
            read_dataset(DataSpec(path=Path(name), label="label", text=("text",)))


def test_arrays_that_are_bombs_are_refused():
    """Curves and the like: by what the zip file says, and by an array's own header."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("standing.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (40_000_000,)})
        for _ in range(320):
            file.write(bytes(10**6))
    with pytest.raises(ValueError, match="unpack to 320,000,128 bytes"):
        read_arrays(content.getvalue())
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with pytest.raises(ValueError, match="no readable"):
        read_arrays(lying.getvalue())
