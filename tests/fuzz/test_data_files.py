"""Data files, arrays, checkpoints and images with damaged bytes: they are read, or refused in one line."""

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.data.class_folders import read_class_folders
from fold_search.objectives.data.dataset import content_of, read_chunks, read_dataset
from fold_search.objectives.data.image_files import check_images, decode_images
from fold_search.objectives.data.relations import read_relations
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError, TrialError
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.curves import Curves, load_curves
from tests.fuzz.strategies import ODD, changed, damaged
from tests.tiny_images import picture

FUZZ = settings.get_profile("fuzz")
ROWS = [{"text": f"row {number}", "label": "ab"[number % 2], "more": number / 2} for number in range(8)]


def parquet() -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), content)
    return content.getvalue()


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", content)
        file.writestr("b/2.png", picture("red"))
    return archive.getvalue()


CSV = "\r\n".join(["text,label,more", *(f'"{row["text"]}",{row["label"]},{row["more"]}' for row in ROWS)]).encode()
JSONL = "\n".join(map(json.dumps, ROWS)).encode()
FILES = {
    "d.csv": CSV,
    "d.tsv": CSV.replace(b",", b"\t"),
    "d.jsonl": JSONL,
    "d.parquet": parquet(),
    "d.csv.gz": gzip.compress(CSV, mtime=0),
    "d.jsonl.gz": gzip.compress(JSONL, mtime=0),
    "d.parquet.gz": gzip.compress(parquet(), mtime=0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(error: Exception) -> None:
    assert str(error)
    assert len(str(error).splitlines()) == 1


def read(path: Path, **settings: str) -> None:
    for task in ("classification", "regression"):
        label = "label" if task == "classification" else "more"
        spec = DataSpec(path=path, label=label, text=("text",), task=task, **settings)
        try:
            dataset = read_dataset(spec)
            assert len(dataset.texts) == len(dataset.labels) == len(dataset.groups)
        except DataError as error:
            check(error)
    try:
        parts = [content_of(chunk.table, spec, first=chunk.first) for chunk in read_chunks(spec, rows=3)]
        rows = np.concatenate([part.rows for part in parts])
        assert rows.tolist() == list(range(1, len(rows) + 1))
        assert sum(len(part.texts) for part in parts) == len(rows)
    except DataError as error:
        check(error)


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_tables(folder: Path, name: str, data: st.DataObject):
    """Of every format, read at once and in parts, with labels that are classes or numbers."""
    (folder / name).write_bytes(data.draw(damaged(FILES[name]) | st.binary(max_size=100)))
    read(folder / name)


QUOTED = b'text,label,more\r\n"a, b",a,1\r\n"say ""no"",\nno",b,2\r\n"x" y,a,3\r\n"open,b,4\r\n27",a,5\r\n'
ENCODINGS = ["utf-8", "cp949", "cp932", "gb18030", "big5", "latin-1", "utf-16", "utf-16-le", "utf-7", "hz", "idna"]


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.csv.gz"])
@FUZZ
@given(
    data=st.data(),
    encodings=st.tuples(st.sampled_from(ENCODINGS[:9]), st.sampled_from(ENCODINGS)),
    quotes=st.sampled_from(["auto", "on", "off"]),
)
def test_text_in_other_encodings(folder: Path, name: str, data: st.DataObject, encodings: tuple[str, str], quotes: str):
    """Written in one, and read as another; with quotes in any place."""
    content = {".jsonl": JSONL, ".tsv": QUOTED.replace(b",", b"\t")}.get(Path(name).suffix, QUOTED)
    content = data.draw(damaged(content.decode().replace("row", "행 ü").encode(encodings[0], "ignore")))
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    read(folder / name, encoding=encodings[1], quotes=quotes)


def test_a_parquet_file_that_says_it_has_no_rows_is_read(folder: Path):
    """Its footer does, though there are eight."""
    spec = DataSpec(path=folder / "d.parquet", label="label", text=("text",))
    spec.path.write_bytes(parquet().replace(b"\x16\x10\x19", b"\x16\x00\x19", 1))
    assert [len(chunk.table) for chunk in read_chunks(spec, rows=3)] == [3, 3, 2]


@FUZZ
@given(rows=changed(ROWS))
def test_jsonl_with_other_values(folder: Path, rows: list):
    """Any value in any place."""
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read(folder / "d.jsonl")


ENTITY = {"text": "Bill", "start": "0", "end": "3", "type": "PER"}
RELATION = {
    "sentence": "Bill was born in Seattle",
    **{f"subject{part}": cell for part, cell in (("", "Bill"), ("_start", "0"), ("_end", "3"), ("_type", "PER"))},
    **{f"object{part}": cell for part, cell in (("", "Seattle"), ("_start", "17"), ("_end", "23"), ("_type", "LOC"))},
    "label": "born",
}


@FUZZ
@given(row=changed(RELATION), form=st.sampled_from(["markers", "typed_markers", "typed_punctuation", "separated"]))
def test_relations(folder: Path, row: dict, form: str):
    """Spans may be any number, or none."""
    (folder / "r.jsonl").write_text("\n".join(map(json.dumps, [row, RELATION | {"label": "other"}])))
    try:
        spec = DataSpec(path=folder / "r.jsonl", label="label", relation=RelationSpec())
        dataset = read_dataset(spec)
        assert len(read_relations(dataset, form=form)) == len(dataset.texts)
    except DataError as error:
        check(error)


IMAGES = [picture("red", file_format=name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]


@pytest.mark.filterwarnings("ignore")  # Pillow warns of metadata that is damaged
@FUZZ
@given(content=st.sampled_from(IMAGES).flatmap(damaged).map(zipped) | damaged(zipped(picture("red"))))
def test_images(folder: Path, content: bytes):
    """The image is damaged, or the zip file that it is in."""
    (folder / "d.zip").write_bytes(content)
    try:
        dataset = read_dataset(DataSpec(path=folder / "d.zip", image="file", label="folder"))
        check_images(dataset)
        assert np.concatenate(list(decode_images(dataset, size=8))).shape == (len(dataset.texts), 8, 8, 3)
    except DataError as error:
        check(error)


def test_a_member_of_a_zip_file_without_a_name_is_no_image(folder: Path):
    """Of the first of two, the name is its comment."""
    content = bytearray(zipped(picture("red")))
    header = content.index(b"PK\1\2")
    content[header + 28 : header + 34] = struct.pack("<3H", 0, 0, len("a/1.png"))
    (folder / "d.zip").write_bytes(content)
    assert read_class_folders(folder / "d.zip")["file"].tolist() == ["b/2.png"]


def arrays() -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, format=np.array(1), standing=np.zeros((1, 2, 3), np.float32), params="[]", about="{}")
    return content.getvalue()


CHECKPOINT = pack({"weight": torch.zeros(2, 3)}, {"epoch": 1, "scores": [0.5]})


@FUZZ
@given(content=damaged(arrays()) | damaged(arrays()[:200]))
def test_arrays(folder: Path, content: bytes):
    """Predictions, sample proofs and curves."""
    (folder / "c.npz").write_bytes(content)
    for read, expected, refusal in (
        (lambda: read_arrays(content), dict, ValueError),
        (lambda: LeakProof.from_bytes(content), LeakProof, DataError),
        (lambda: load_curves(folder / "c.npz"), Curves, ConfigError),
    ):
        try:
            assert isinstance(read(), expected)
        except refusal as error:
            check(error)


@FUZZ
@given(content=damaged(CHECKPOINT))
def test_checkpoints(folder: Path, content: bytes):
    """What fold runs are continued from."""
    try:
        # Signed by a checksum: what is read is what was written.
        assert unpack(content)[1] == {"epoch": 1, "scores": [0.5]}
    except TrialError as error:
        check(error)


@FUZZ
@given(value=ODD)
def test_a_label_may_be_anything(folder: Path, value: object):
    """As JSON has it."""
    (folder / "l.jsonl").write_text("\n".join(json.dumps(row | {"label": value}) for row in ROWS))
    read(folder / "l.jsonl")
