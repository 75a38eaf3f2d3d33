"""Folders and zip files of images: which folders are classes, and the names that a zip file does not spell out."""

import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fold_search.objectives.data.class_folders import IMAGE_SUFFIX, read_class_folders
from fold_search.objectives.data.dataset import read_dataset, read_table
from fold_search.objectives.data.image_files import FORMATS, check_images
from fold_search.objectives.data.image_root import ImageFiles
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError
from fold_search.search.drafting.survey import survey
from tests.tiny_images import picture, write_zip

RED = picture("red")
SYSTEM = ("__MACOSX/cat/._1.png", ".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", ".git/x.png")
CAT_DOG = {"cat/1.png": "cat", "cat/2.png": "cat", "dog/1.png": "dog"}
LAYOUTS = {
    "classes": CAT_DOG,
    "one outer folder": {f"photos/{name}": label for name, label in CAT_DOG.items()},
    "two outer folders": {f"photos/all/{name}": label for name, label in CAT_DOG.items()},
    "one part of the data": {f"data/train/{name}": label for name, label in CAT_DOG.items()},
    "folders in classes": {"cat/a/1.png": "cat", "cat/b/1.png": "cat", "dog/2.png": "dog"},
    "a class with a folder": {"cat/1.png": "cat", "cat/more/2.png": "cat"},
    "an image beside the classes": CAT_DOG | {"9.png": ""},
    "words that end as parts do": {"blood_test/1.png": "blood_test", "crash_test/1.png": "crash_test"},
    "a part's name alone": {"train/1.png": "train", "tram/1.png": "tram"},
    "no folders": {"1.png": "", "2.JPG": ""},
}
PARTS = (
    ("train", "test"),
    ("Training_Set", "Test_Set"),
    ("train2017", "val2017"),
    ("valid", "test", "train"),
    ("seg_train", "seg_test"),
)


def place(folder: Path, files: dict[str, bytes], *, zipped: bool) -> Path:
    """Write the files into a folder or a zip file of it."""
    if zipped:
        return write_zip(folder / "data.zip", files)
    for name, content in files.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(content)
    return folder / "data"


def write_named(path: Path, names: list[bytes], *, extra: bytes = b"") -> Path:
    """Write a zip file whose members have these names, and nothing that tells their encoding."""
    places = [f"{number:?>{len(name)}}" for number, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for number, place in enumerate(places):
            member = zipfile.ZipInfo(place)
            member.extra = extra
            archive.writestr(member, picture((number, 0, 0)))
    content = path.read_bytes()
    for place, name in zip(places, names, strict=True):
        content = content.replace(place.encode(), name)
    path.write_bytes(content)
    return path


def rows_of(path: Path) -> dict[str, str]:
    table = read_table(DataSpec(path=path, image="file", label="folder"))
    return dict(zip(table["file"], table["folder"], strict=True))


def test_suffixes_are_those_of_the_formats_that_are_read():
    """As Pillow knows them."""
    known = {suffix: name in FORMATS for suffix, name in Image.registered_extensions().items()}
    assert {suffix: bool(IMAGE_SUFFIX.fullmatch(suffix)) for suffix in known} == known


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_are_found_and_no_image_is_lost(tmp_path: Path, layout: str, zipped: bool):
    """Whatever lies around them: what systems leave behind is no row, a list beside the folders is none either."""
    files = dict.fromkeys((*LAYOUTS[layout], *SYSTEM), RED) | {"data/README.txt": b"", "labels.csv": b""}
    if layout == "no folders":
        files = dict.fromkeys(LAYOUTS[layout], RED)
    elif not any(name.startswith("data/") for name in LAYOUTS[layout]):
        del files["data/README.txt"]
    path = place(tmp_path, files, zipped=zipped)
    assert rows_of(path) == dict(sorted(LAYOUTS[layout].items()))
    assert set(read_class_folders(path)["file"]) == set(LAYOUTS[layout])


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_all_commands_see_the_same_classes_and_images(tmp_path: Path, zipped: bool):
    """What is surveyed, trained on and looked at, in one outer folder too."""
    files = {name: picture((number * 50, 0, 0)) for number, name in enumerate(LAYOUTS["one outer folder"])}
    spec = DataSpec(path=place(tmp_path, files, zipped=zipped), image="file", label="folder")
    dataset = read_dataset(spec)
    check_images(dataset)
    assert dataset.label_names == ("cat", "dog")
    assert len(set(dataset.groups)) == 3
    assert survey(spec).classes == {"cat": 2, "dog": 1}


@pytest.mark.parametrize("outer", ["", "photos/"])
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("parts", PARTS, ids=" ".join)
def test_parts_of_the_data_are_no_classes(tmp_path: Path, parts: tuple[str, ...], zipped: bool, outer: str):
    """One line says so, and how to name what is meant; images without labels are read all the same."""
    files = {f"{outer}{part}/{name}": RED for part in parts for name in CAT_DOG}
    path = place(tmp_path, files, zipped=zipped)
    spec = DataSpec(path=path, image="file", label="folder")
    train = next(part for part in parts if "train" in part.lower())
    for read in (read_table, read_dataset, survey):
        with pytest.raises(DataError, match="are parts of the data, not classes; expected") as caught:
            read(spec)
        assert f"`search init {tmp_path}/data/{outer}{train}`" in str(caught.value)
        assert ("unpacked" in str(caught.value)) == zipped
        assert "\n" not in str(caught.value)
    assert len(read_table(spec.model_copy(update={"label": "file"}))) == len(files)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("written", "there"), [("cat/1.png", "photos/cat/1.png"), ("é/1.png", "in/é/1.png")])
def test_a_table_may_leave_out_the_outer_folder(tmp_path: Path, written: str, there: str, zipped: bool):
    """And write a path in another Unicode form; the same file is opened, stamped and compared."""
    there = unicodedata.normalize("NFD", there)
    root = place(tmp_path, {there: RED, f"{there}.txt": b"", ".DS_Store": b""}, zipped=zipped)
    files = ImageFiles(root)
    for path in (written, there):
        with files.open(path) as file:
            assert file.read() == RED
    assert files.stamp(written) == files.stamp(there)
    assert len(set(files.contents([written, there, "none.png"]))) == 2
    with pytest.raises(FileNotFoundError):
        files.open("none.png")


@pytest.mark.parametrize("label", ["고양이", "Löwe", "猫", "кот"])
def test_names_without_a_flag_are_read_as_utf8(tmp_path: Path, label: str):
    """As macOS and many programs on Linux write them; never in the code page of DOS."""
    names = [f"{name}/{number}.png".encode() for name in (label, "dog") for number in range(2)]
    path = write_named(tmp_path / "data.zip", names)
    assert set(rows_of(path).values()) == {label, "dog"}
    check_images(read_dataset(DataSpec(path=path, image="file", label="folder")))


def test_a_name_in_an_extra_field_is_read(tmp_path: Path):
    """Info-ZIP's, if it belongs to the name that it comes with."""
    written = "고양이/1.png".encode("cp949")
    field = b"\1" + zlib.crc32(written).to_bytes(4, "little") + "고양이/1.png".encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    assert list(rows_of(write_named(tmp_path / "data.zip", [written], extra=extra))) == ["고양이/1.png"]
    with pytest.raises(DataError, match="in an encoding that the file does not tell"):
        rows_of(write_named(tmp_path / "other.zip", [b"\xb0\xa1.png"], extra=extra))


@pytest.mark.parametrize("encoding", ["cp949", "cp932", "cp850", "gbk"])
def test_names_in_another_encoding_are_refused(tmp_path: Path, encoding: str):
    """What they were is not in the file, and a guess would be a class with a wrong name."""
    label = {"cp949": "고양이", "cp932": "ねこ", "cp850": "Löwe", "gbk": "熊猫"}[encoding]
    path = write_named(tmp_path / "data.zip", [f"{label}/1.png".encode(encoding), b"dog/1.png"])
    for read in (rows_of, ImageFiles):
        with pytest.raises(DataError, match=r"data\.zip: .*the name b'.* in an encoding that the file does not tell"):
            read(path)


def test_a_separator_of_windows_is_one(tmp_path: Path):
    """Some programs write it into zip files."""
    path = write_zip(tmp_path / "data.zip", {"cat\\1.png": RED, "dog\\1.png": RED})
    assert rows_of(path) == {"cat/1.png": "cat", "dog/1.png": "dog"}
