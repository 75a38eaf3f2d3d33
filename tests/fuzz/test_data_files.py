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

from fold_search.objectives.data.arrays import MOST_BYTES, read_arrays
from fold_search.objectives.data.class_folders import read_class_folders
from fold_search.objectives.data.dataset import Dataset, content_of, read_chunks, read_dataset
from fold_search.objectives.data.image_files import check_images, decode_images
from fold_search.objectives.data.relations import read_relations
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError, TrialError
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.curves import load_curves
from tests.fuzz.refusals import check_refusal
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


def check_read(path: Path, **settings: str) -> list[Dataset]:
    """Read a file in parts and at once, with labels that are classes or numbers; return what was not refused."""
    datasets: list[Dataset] = []
    texts: list[str] | None = None
    for task, label in (("classification", "label"), ("regression", "more")):
        spec = DataSpec(path=path, label=label, text=("text",), task=task, **settings)
        try:
            parts = [content_of(chunk.table, spec, first=chunk.first) for chunk in read_chunks(spec, rows=3)]
            texts = [text for part in parts for text in part.texts]
            assert np.concatenate([part.rows for part in parts]).tolist() == list(range(1, len(texts) + 1))
        except DataError as error:
            check_refusal(error, path)
        try:
            datasets.append(read_dataset(spec))
            assert datasets[-1].texts == texts
            assert len(datasets[-1].labels) == len(datasets[-1].groups) == len(texts)
        except DataError as error:
            check_refusal(error, path)
    return datasets


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_tables(folder: Path, name: str, data: st.DataObject):
    """Of every format, read at once and in parts, with labels that are classes or numbers."""
    (folder / name).write_bytes(data.draw(damaged(FILES[name]) | st.binary(max_size=100)))
    check_read(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_undamaged_tables_are_read(folder: Path, name: str):
    """All rows, with labels of both kinds."""
    (folder / name).write_bytes(FILES[name])
    texts = [row["text"] for row in ROWS]
    assert [dataset.texts for dataset in check_read(folder / name)] == [texts, texts]


QUOTED = 'text,label,more\r\n"행 ü, b",a,1\r\n"say ""no"",\nno",b,2\r\n"open,b,4\r\n27",a,5\r\n'
STRAY = 'text,label,more\r\n"행" ü,a,1\r\n5" long,b,2\r\n'  # quotes that are text
ENCODINGS = ["utf-8", "cp949", "cp932", "gb18030", "big5", "latin-1", "utf-16", "utf-16-le", "utf-7", "hz", "idna"]


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.csv.gz"])
@FUZZ
@given(
    data=st.data(),
    text=st.sampled_from([QUOTED, STRAY]),
    encodings=st.tuples(st.sampled_from(ENCODINGS[:9]), st.sampled_from(ENCODINGS)),
    quotes=st.sampled_from(["auto", "on", "off"]),
)
def test_text_in_other_encodings(
    folder: Path, name: str, data: st.DataObject, text: str, encodings: tuple[str, str], quotes: str
):
    """Written in one, and read as another; with quotes in any place."""
    content = data.draw(damaged(text_in(name, text).encode(encodings[0], "ignore")))
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    check_read(folder / name, encoding=encodings[1], quotes=quotes)


def text_in(name: str, text: str) -> str:
    """A file of that name; the text is that of a CSV file."""
    other = {".jsonl": JSONL.decode().replace("row", "행 ü"), ".tsv": text.replace(",", "\t")}
    return other.get(Path(name).suffix, text)


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl"])
@pytest.mark.parametrize(("text", "quotes"), [(QUOTED, "auto"), (QUOTED, "on"), (STRAY, "off")])
@pytest.mark.parametrize("encoding", ENCODINGS[:9])
def test_undamaged_text_is_read_in_its_own_encoding(folder: Path, name: str, text: str, quotes: str, encoding: str):
    """All rows, with labels of both kinds."""
    (folder / name).write_bytes(text_in(name, text).encode(encoding, "ignore"))
    num_rows = 8 if name == "d.jsonl" else 3 if text == QUOTED else 2
    datasets = check_read(folder / name, encoding=encoding, quotes=quotes)
    assert [len(dataset.texts) for dataset in datasets] == [num_rows, num_rows]


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
    check_read(folder / "d.jsonl")


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
    check_marked(folder, row, form)


@pytest.mark.parametrize("form", ["markers", "typed_markers", "typed_punctuation", "separated"])
def test_undamaged_relations_are_read(folder: Path, form: str):
    """In every form."""
    assert check_marked(folder, RELATION, form) == 2


def check_marked(folder: Path, row: dict, form: str) -> int:
    """The number of relations that are read of the row and another; 0 if the file is refused."""
    (folder / "r.jsonl").write_text("\n".join(map(json.dumps, [row, RELATION | {"label": "other"}])))
    try:
        spec = DataSpec(path=folder / "r.jsonl", label="label", relation=RelationSpec())
        dataset = read_dataset(spec)
        assert len(read_relations(dataset, form=form)) == len(dataset.texts)
    except DataError as error:
        check_refusal(error, folder / "r.jsonl")
        return 0
    return len(dataset.texts)


IMAGES = [picture("red", file_format=name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]


@pytest.mark.filterwarnings("ignore")  # Pillow warns of metadata that is damaged
@FUZZ
@given(content=st.sampled_from(IMAGES).flatmap(damaged).map(zipped) | damaged(zipped(picture("red"))))
def test_images(folder: Path, content: bytes):
    """The image is damaged, or the zip file that it is in."""
    check_decoded(folder, content)


@pytest.mark.parametrize("image", IMAGES)
def test_undamaged_images_are_decoded(folder: Path, image: bytes):
    """Of every format, whatever the file's name ends in."""
    assert check_decoded(folder, zipped(image)) == 2


def check_decoded(folder: Path, content: bytes) -> int:
    """The number of images in a zip file that are decoded; 0 if it is refused."""
    (folder / "d.zip").write_bytes(content)
    try:
        dataset = read_dataset(DataSpec(path=folder / "d.zip", image="file", label="folder"))
        check_images(dataset)
        assert np.concatenate(list(decode_images(dataset, size=8))).shape == (len(dataset.texts), 8, 8, 3)
    except DataError as error:
        check_refusal(error, folder / "d.zip")
        return 0
    return len(dataset.texts)


def test_a_member_of_a_zip_file_without_a_name_is_no_image(folder: Path):
    """Of the first of two, the name is its comment."""
    content = bytearray(zipped(picture("red")))
    header = content.index(b"PK\1\2")
    content[header + 28 : header + 34] = struct.pack("<3H", 0, 0, len("a/1.png"))
    (folder / "d.zip").write_bytes(content)
    assert read_class_folders(folder / "d.zip")["file"].tolist() == ["b/2.png"]


def arrays() -> bytes:
    """The curves of a trial with two folds of three epochs."""
    content, by_fold = io.BytesIO(), np.ones((1, 2), np.float32)
    scores = {"standing": np.zeros((1, 2, 3), np.float32), "lengths": 3 * by_fold.astype(np.int16)}
    others = {"numbers": np.zeros(1, int), "epochs": np.full(1, 3), "final": np.zeros(1), "test_ensemble": np.zeros(1)}
    words = {"params": "[{}]", "about": '{"direction": "maximize"}'}
    np.savez_compressed(content, format=np.array(1), seconds=by_fold, test_folds=by_fold, **scores, **others, **words)
    return content.getvalue()


PROOF = LeakProof(
    rows_in=np.arange(4),
    rows_out=np.arange(4),
    counts_before=np.array([3, 1]),
    counts_after=np.array([3, 3]),
    num_synthetic=2,
    num_validation_rows_used=0,
)
CHECKPOINT = pack({"weight": torch.zeros(2, 3)}, {"epoch": 1, "scores": [0.5]})


def test_undamaged_arrays_are_read(folder: Path):
    """Curves, proofs of leaks and checkpoints."""
    (folder / "c.npz").write_bytes(arrays())
    assert load_curves(folder / "c.npz").standing.shape == (1, 2, 3)
    assert LeakProof.from_bytes(PROOF.to_bytes()).summary() == PROOF.summary()
    assert unpack(CHECKPOINT)[1] == {"epoch": 1, "scores": [0.5]}


@FUZZ
@given(content=st.sampled_from([arrays(), PROOF.to_bytes(), arrays()[:200]]).flatmap(damaged))
def test_arrays(folder: Path, content: bytes):
    """Curves and leak proofs. A zip file has a checksum of each array: what is read is what was written."""
    (folder / "c.npz").write_bytes(content)
    try:
        found = read_arrays(content).values()
        assert sum(array.nbytes for array in found) <= MOST_BYTES
        assert not any(array.dtype.hasobject for array in found)
    except ValueError as error:
        check_refusal(error)
    try:
        assert LeakProof.from_bytes(content).summary() == PROOF.summary()
    except DataError as error:
        check_refusal(error)
    try:
        curves = load_curves(folder / "c.npz")
        assert (curves.standing.tolist(), curves.params) == ([[[0.0] * 3] * 2], ({},))
    except ConfigError as error:
        check_refusal(error, folder / "c.npz")


@FUZZ
@given(content=damaged(CHECKPOINT))
def test_checkpoints(folder: Path, content: bytes):
    """What fold runs are continued from."""
    try:
        # Signed by a checksum: what is read is what was written.
        assert unpack(content)[1] == {"epoch": 1, "scores": [0.5]}
    except TrialError as error:
        check_refusal(error)


@FUZZ
@given(value=ODD)
def test_a_label_may_be_anything(folder: Path, value: object):
    """As JSON has it; every other row is of class b, so that there are two classes, or the file is refused."""
    rows = [row if row["label"] == "b" else row | {"label": value} for row in ROWS]
    (folder / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for dataset in check_read(folder / "l.jsonl"):
        if dataset.spec.task == "classification":
            assert len(dataset.label_names) == 2
            assert not isinstance(value, str) or value in dataset.label_names
