"""No file that is read can run code: a planted pickle or module is refused with one line, and never run."""

import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from fold_search.models.abilities import check_encoder
from fold_search.models.encoders import load_encoder, load_tokenizer
from fold_search.models.errors import EncoderError
from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.image_files import check_images
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError, TrialError
from fold_search.objectives.tasks.cache import mapped
from fold_search.objectives.training.checkpoints import unpack
from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.curves import load_curves
from fold_search.search.study.config import load_config
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import picture

MARK = "code-was-run"
MODULE = f"open({MARK!r}, 'w')\n\nclass Model: pass\n"


class Planted:
    """A pickle of it leaves a mark in the working directory when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (MARK,)


def as_npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Planted()], dtype=object), allow_pickle=True)
    return content.getvalue()


def as_npz() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("format.npy", as_npy())
    return content.getvalue()


def as_torch() -> bytes:
    content = io.BytesIO()
    torch.save({"weight": Planted()}, content)
    return content.getvalue()


PICKLES = {"pickle": pickle.dumps(Planted()), "torch": as_torch(), "npy": as_npy(), "npz": as_npz()}
each_pickle = pytest.mark.parametrize("planted", PICKLES.values(), ids=PICKLES)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the test reads leaves no mark."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(MARK).exists()


def test_the_pickles_would_run():
    """Loaded as pickles they do leave the mark, so that the other tests can fail."""
    for planted, load in (
        (PICKLES["pickle"], pickle.loads),
        (PICKLES["torch"], lambda content: torch.load(io.BytesIO(content), weights_only=False)),
        (PICKLES["npy"], lambda content: np.load(io.BytesIO(content), allow_pickle=True)),
    ):
        load(planted)
        assert Path(MARK).is_dir()
        Path(MARK).rmdir()


@each_pickle
def test_arrays_and_checkpoints_hold_no_code(planted: bytes):
    """Predictions, curves, sample proofs, token caches, and the states that fold runs are continued from."""
    with pytest.raises(ValueError, match=r"no readable \.npz or \.npy file"):
        read_arrays(planted)
    with pytest.raises(DataError, match="the leak proof is damaged"):
        LeakProof.from_bytes(planted)
    with pytest.raises(TrialError, match="the checkpoint is damaged"):
        unpack(planted)
    Path("curves.npz").write_bytes(planted)
    with pytest.raises(ConfigError, match=r"curves\.npz: is not a curves file"):
        load_curves(Path("curves.npz"))
    Path("cache").mkdir()
    Path("cache/ids.npy").write_bytes(planted)
    with pytest.raises(OSError, match="is damaged"):
        mapped(Path("cache"))


@each_pickle
@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.parquet", "d.csv.gz", "d.parquet.gz", "d.zip"])
def test_data_files_hold_no_code(name: str, planted: bytes):
    """Whatever the name says that they are."""
    Path(name).write_bytes(planted)
    content = {"image": "file", "label": "folder"} if name == "d.zip" else {"text": ("text",), "label": "label"}
    with pytest.raises(DataError, match=name):
        check_images(read_dataset(DataSpec(path=Path(name), **content)))


def test_a_parquet_file_brings_no_type_of_its_own():
    """pyarrow once unpickled the names of extension types; the column stays what is stored."""
    planted = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": PICKLES["pickle"]}
    schema = pa.schema([pa.field("text", pa.string(), metadata=planted), pa.field("label", pa.string())])
    pyarrow.parquet.write_table(pa.table({"text": ["x", "y"], "label": ["a", "b"]}, schema=schema), "d.parquet")
    assert read_dataset(DataSpec(path=Path("d.parquet"), text=("text",), label="label")).texts == ["x", "y"]


def write_backup(planted: bytes, name: str = "study.db", kind: bytes = tarfile.REGTYPE) -> None:
    """Write backup.tar of a study database, and of what is planted: the right checksums stand in it."""
    members = {"study.db": b"", name: planted}
    sha256 = {member: hashlib.sha256(content).hexdigest() for member, content in members.items()}
    manifest = {"format": 1, "fold_search": "0.1.0", "study": "letters", "sha256": sha256}
    with tarfile.open("backup.tar", "w") as archive:
        for member, content in (*members.items(), ("backup.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            if member == name:
                info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))


RESTORE = ("restore", "backup.tar", "--storage", "sqlite:///target.db", "--set", "storage.artifacts=artifacts")


@each_pickle
def test_backups_hold_no_code(planted: bytes):
    """Neither in their own place nor as the database in them."""
    Path("backup.tar").write_bytes(planted)
    refused(search(*RESTORE), "backup.tar: damaged, or not a file that `search backup` wrote")
    write_backup(planted)
    refused(search(*RESTORE), "backup.tar: study.db")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("evil.py", tarfile.REGTYPE),
        ("artifacts/sitecustomize.py", tarfile.REGTYPE),
        ("../evil.py", tarfile.REGTYPE),
        ("artifacts/study-1/../../evil.py", tarfile.REGTYPE),
        ("/tmp/evil.py", tarfile.REGTYPE),
        ("artifacts/study-1/link.npz", tarfile.SYMTYPE),
        ("study.db", tarfile.LNKTYPE),
    ],
)
def test_backups_lead_nowhere_else(name: str, kind: bytes):
    """A script, a path that leads outside, a link: refused before anything is written."""
    write_backup(MODULE.encode() if kind == tarfile.REGTYPE else b"", name, kind)
    refused(search(*RESTORE), f"backup.tar: found {name!r}, which `search backup` does not write")
    assert [path.name for path in Path().iterdir()] == ["backup.tar"]


POSTSCRIPT = (
    f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch {MARK}) (w) file\nshowpage\n"
)


@pytest.mark.parametrize("planted", [*PICKLES.values(), POSTSCRIPT.encode()], ids=[*PICKLES, "PostScript"])
def test_images_hold_no_code(planted: bytes):
    """Nor PostScript, which Pillow would hand to Ghostscript."""
    for folder, content in (("a", planted), ("b", picture("red"))):
        Path("images", folder).mkdir(parents=True)
        Path("images", folder, "1.png").write_bytes(content)
    dataset = read_dataset(DataSpec(path=Path("images"), image="file", label="folder"))
    with pytest.raises(DataError, match=r"data row 1: the image 'a/1\.png' under images is no image"):
        check_images(dataset)


@pytest.mark.parametrize("tag", ["!!python/object/apply:builtins.open", "!!python/name:os.system", "!evil"])
def test_study_files_hold_no_code(tag: str):
    """A tag is refused, whatever it is of."""
    Path("study.yaml").write_text(f"data: {{path: d.csv, label: l, text: t}}\nspace: {tag} [{MARK}, w]\n")
    with pytest.raises(ConfigError, match=r"study\.yaml: not valid YAML in line 2: a tag"):
        load_config(Path("study.yaml"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("encoder"))


Change = Callable[[Path], object]


def sets(file: str, **settings: object) -> Change:
    """Change what stands in one of the folder's JSON files, and put code beside it."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | settings
        (folder / file).write_text(json.dumps(content))
        (folder / "evil.py").write_text(MODULE)

    return change


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLES["torch"])


def indexed_pickles(folder: Path) -> None:
    only_pickles(folder)
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "pytorch_model.bin"}}
    (folder / "other.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def use_encoder() -> None:
    check_encoder("encoder")
    load_tokenizer("encoder")
    load_encoder("encoder")


AUTO_MAP = {"AutoModel": "evil.Model", "AutoConfig": "evil.Model"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (only_pickles, r"no weights \(\*\.safetensors\) in .*; \*\.bin are pickles, .* never read"),
        (indexed_pickles, r"model\.safetensors\.index\.json names 'pytorch_model\.bin', expected \*\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(PICKLES["torch"]), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_bytes(PICKLES["pickle"]), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(PICKLES["pickle"]), "cannot be loaded"),
        (
            sets("config.json", auto_map=AUTO_MAP, model_type="evil"),
            r"needs code of its own \(auto_map in config\.json",
        ),
        (sets("config.json", attn_implementation="evil/kernel"), "needs the code of evil/kernel"),
    ],
    ids=["only pickles", "indexed pickles", "weights", "config", "tokenizer", "own code", "kernel of the hub"],
)
def test_encoders_bring_no_code(encoder: Path, change: Change, expected: str):
    """An encoder that needs code of its own cannot be used; there is no setting that lets it run."""
    shutil.copytree(encoder, "encoder")
    change(Path("encoder"))
    with pytest.raises(EncoderError, match=expected) as error:
        use_encoder()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "pytorch_model.bin").write_bytes(PICKLES["torch"]),
        sets("config.json", auto_map=AUTO_MAP),
        sets("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]}),
    ],
    ids=["pickles beside the weights", "own model", "own tokenizer"],
)
def test_code_that_is_not_needed_is_left_alone(encoder: Path, change: Change):
    """Many folders of known architectures bring pickles or code for other programs."""
    shutil.copytree(encoder, "encoder")
    change(Path("encoder"))
    use_encoder()
    assert not Path(MARK).exists()


@pytest.fixture(scope="module")
def model(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of a study that was really trained."""
    folder = tmp_path_factory.mktemp("study")
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"text {row}", "ab"[row % 2]) for row in range(12))])
    sections = {
        "data": {"path": folder / "data.csv", "label": "label", "text": "text"},
        "model": {"encoder": str(encoder), "max_length": 16, "trainable_layers": 0},
        "training": {"epochs": 1},
    }
    study = TrainedStudy(folder, name="letters", sections=sections, trials=[{}])
    result = study.export(folder / "model", "--form", "fold")
    assert result.exit_code == 0, result.output
    return folder / "model"


def member_of(description: dict[str, object]) -> dict[str, object]:
    [member] = description["members"]
    return member


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("signed", [False, True])
def test_model_folders_hold_no_code(model: Path, name: str, signed: bool):
    """Not even where their checksums are those of what was planted."""
    shutil.copytree(model, "model")
    [member] = Path("model").glob("fold-*")
    (member / name).write_bytes(PICKLES["torch"])
    if signed:
        description = json.loads(Path("model/model.json").read_text())
        del member_of(description)["checksums"][name]
        Path("model/model.json").write_text(json.dumps(description))
    Path("rows.csv").write_text("text\none\n")
    refused(search("predict", "--model", "model", "rows.csv", "--out", "out.csv"))
    assert not Path("out.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../fold-0", "/etc", "..", "a\\b", ""])
def test_model_folders_lead_nowhere_else(model: Path, name: str):
    """Neither a member nor one of its files lies outside."""
    shutil.copytree(model, "model")
    text = Path("model/model.json").read_text()
    for place in ("folder", "checksums"):
        description = json.loads(text)
        member_of(description)[place] = name if place == "folder" else {name: "0"}
        Path("model/model.json").write_text(json.dumps(description))
        refused(
            search("predict", "--model", "model", "rows.csv", "--out", "out.csv"), "leads out of the model's folder"
        )


@pytest.mark.slow
def test_templates_hold_no_code(model: Path):
    """They are read as study files are."""
    Path("rows.csv").write_text("text\none\n")
    Path("template.yaml").write_text(f"columns: !!python/object/apply:builtins.open [{MARK}, w]\n")
    options = ("--template", "template.yaml", "--out", "out.csv")
    refused(search("predict", "--model", model, "rows.csv", *options), "template.yaml", "a tag (!name)")
    assert not Path("out.csv").exists()
