"""`search export`, `predict` and `evaluate` on images: really trained, with tiny networks."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, EfficientNetConfig, ViTConfig

from fold_search.objectives.data.dataset import content_of, read_table
from fold_search.objectives.errors import DataError
from fold_search.objectives.predicting.exported import DESCRIPTION, ExportedModel, read_description
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_images import (
    COUNTS,
    EFFICIENTNET,
    VIT,
    build_tiny_image_encoder,
    noisy,
    picture,
    write_photos,
    write_zip,
)

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="the extra timm is not installed")

COLOURS_SAID = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.25]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained transformer, and the configuration of a network."""
    folder = tmp_path_factory.mktemp("encoders")
    build_tiny_image_encoder(folder / "vit", ViTConfig(**VIT))
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(COLOURS_SAID))
    EfficientNetConfig(**EFFICIENTNET).save_pretrained(folder / "efficientnet")
    return folder


@pytest.fixture(scope="module")
def train(photos: Path, encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainedStudy]:
    """Train one trial on a table of the photos."""

    def train(encoder: str, model: dict, training: dict) -> TrainedStudy:
        folder = tmp_path_factory.mktemp("study")
        paths = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
        (folder / "rows.csv").write_text("\n".join(["path,class", *(f"{path},{path.parent}" for path in paths)]))
        sections = {
            "data": {"path": folder / "rows.csv", "images": photos, "image": "path", "label": "class"},
            "model": {"encoder": encoder.format(encoders), "image_size": 16, **model},
            "training": {"epochs": 3, "batch_size": 9, **training},
        }
        return TrainedStudy(folder, name="photos", sections=sections, trials=[{"learning_rate": 1e-2}])

    return train


@pytest.fixture(scope="module")
def model(train: Callable[..., TrainedStudy], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fold ensemble of a transformer."""
    folder = tmp_path_factory.mktemp("models") / "photos"
    result = train("{}/vit", {"pooling": "cls"}, {}).export(folder)
    assert result.exit_code == 0, result.output
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("encoder", "settings", "training"),
    [
        ("config:{}/efficientnet", {}, {"image_augmentation": 0.3, "minority_augmentation": 3.0, "ema_decay": 0.5}),
        ("{}/vit", {"trainable_layers": 1}, {"loss": "focal", "sampler": "random_over"}),
        ("{}/vit", {"trainable_layers": 0, "pooling": "max"}, {"loss": "ldam"}),
        pytest.param("config:timm:test_efficientnet", {}, {}, marks=needs_timm),
    ],
    ids=["random weights", "top layer", "head", "timm"],
)
def test_each_fold_predicts_its_held_out_images_as_the_study_recorded(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder, settings, training
):
    """To 1e-5, whatever was trained, and without the library that changed the training images."""
    study = train(encoder, settings, training)
    assert study.export(tmp_path / "model").exit_code == 0
    monkeypatch.setattr("fold_search.objectives.tasks.image.ImageAugmentation", None)
    description = read_description(tmp_path / "model")
    content = content_of(read_table(study.config.data), study.config.data)
    for run, member in zip(study.runs(0), description.members, strict=True):
        alone = ExportedModel(tmp_path / "model", device="cpu")
        alone.description = description.model_copy(update={"members": (member,), "temperature": 1.0})
        held_out = study.rows.held_out([run])
        np.testing.assert_allclose(alone.predict(content)[held_out.rows], held_out.predictions, atol=1e-5)


def test_plain_transformers_loads_it(model: Path, photos: Path):
    """The processor makes the pixels, the encoder the states, and a matrix product the votes."""
    description = read_description(model)
    content = content_of(read_table(description.data), description.data)
    images = [Image.open(photos / path) for path in content.texts]
    votes = []
    for member in description.members:
        pixels = AutoImageProcessor.from_pretrained(model / member.folder)(images, return_tensors="pt")
        head = load_file(model / member.folder / "head.safetensors")
        with torch.no_grad():
            states = AutoModel.from_pretrained(model / member.folder).eval()(**pixels).last_hidden_state[:, 0]
        votes.append((states @ head["head.linear.weight"].T + head["head.linear.bias"]).softmax(dim=1).numpy())
    whole = ExportedModel(model, device="cpu")
    whole.description = description.model_copy(update={"temperature": 1.0})
    np.testing.assert_allclose(whole.predict(content), np.mean(votes, axis=0), atol=1e-5)


def test_the_card_speaks_of_images(model: Path):
    """And of their processor, where texts have a tokenizer."""
    card = (model / "README.md").read_text()
    assert "# photos: images into 3 classes" in card
    assert "image processor" in card
    assert "its tokenizer" not in card


def test_images_come_in_folders_zips_and_tables(model: Path, photos: Path, tmp_path: Path):
    """With the same predictions; those of a folder are named by their file, also where it has no folders in it."""
    files = {f"red/{number:02}.png": (photos / "red" / f"{number:02}.png").read_bytes() for number in range(6)}
    archive = write_zip(tmp_path / "red.zip", files)
    table = tmp_path / "red.csv"
    table.write_text("\n".join(["path,id", *(f"{name},{name[4:6]}" for name in files)]))
    flat = photos / "red"
    found = {}
    for name, data, options in (
        ("zip", archive, ()),
        ("table", table, ("--images", photos, "--keep", "path")),
        ("archive", table, ("--images", archive, "--keep", "path")),
        ("flat", flat, ()),
    ):
        out = tmp_path / f"{name}-predictions.csv"
        result = search("predict", "--model", model, data, "--out", out, *options)
        assert result.exit_code == 0, result.output
        found[name] = [list(row.values()) for row in read(out)]
    assert found["zip"] == found["table"] == found["archive"]
    assert [row[1] for row in found["zip"]] == list(files)
    assert [[row, f"red/{name}", *rest] for row, name, *rest in found["flat"]] == found["zip"]


def test_an_mlflow_model_predicts_what_search_predict_does(
    train: Callable[..., TrainedStudy], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of paths that start at the working directory; an image that is missing is refused with its row."""
    study, folder, out = train("{}/vit", {"trainable_layers": 0}, {}), tmp_path / "model", tmp_path / "predictions.csv"
    assert study.export(folder, "--mlflow").exit_code == 0
    rows = study.config.data.path
    assert search("predict", "--model", folder, rows, "--images", photos, "--out", out).exit_code == 0
    monkeypatch.chdir(photos)
    model, table = mlflow.pyfunc.load_model(str(folder)), pd.read_csv(rows)
    found, written = model.predict(table), pd.read_csv(out)
    assert list(found["label"]) == list(written["label"])
    probabilities = [f"p_{label}" for label in COUNTS]
    np.testing.assert_allclose(found[probabilities], written[probabilities], atol=1e-6)
    with pytest.raises(DataError, match=r"data row 2: the image 'none.png'.* is missing"):
        model.predict(pd.DataFrame({"path": [table["path"][0], "none.png"]}))


def test_a_folder_for_each_class_is_evaluated(model: Path, photos: Path, tmp_path: Path):
    """Whatever the columns that it was trained on; a folder of no class that it knows is an error with its row."""
    found = json.loads(search("evaluate", "--model", model, photos, "--json").stdout)
    assert found["rows"] == sum(COUNTS.values())
    (tmp_path / "pink").mkdir()
    (tmp_path / "pink" / "a.png").write_bytes(noisy((200, 100, 100), 0))
    refused(search("evaluate", "--model", model, tmp_path), "data row 1 is of class 'pink', which the model does not")


def test_training_and_test_data_in_one_folder_are_no_classes(model: Path, photos: Path, tmp_path: Path):
    """One is told to name one of them; predictions need no classes."""
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "data" / part)
    for command in (("evaluate", "--model", model, tmp_path / "data"), ("init", tmp_path / "data")):
        refused(search(*command), "'test' and 'train' are parts of the data", f"search init {tmp_path}/data/train")
    found = json.loads(search("evaluate", "--model", model, tmp_path / "data" / "test", "--json").stdout)
    assert found["rows"] == sum(COUNTS.values())
    out = tmp_path / "predictions.csv"
    assert search("predict", "--model", model, tmp_path / "data", "--out", out).exit_code == 0
    assert len(read(out)) == 2 * sum(COUNTS.values())


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (["a.png", "text.png"], (), ["data row 2: the image 'text.png'", "is no image that can be read"]),
        (["a.png", "none.png", "b"], (), ["data row 2: the image 'none.png'", "is missing (and 1 more)"]),
        (["a.png", "cut.png"], (), ["data row 2: the image 'cut.png'", "cannot be read"]),
        (["a.png", '" "'], (), ["data row 2: the image ' '", "is not named: the cell is empty"]),
        (["../a.png"], (), ["data row 1: the image '../a.png'", "leads outside"]),
        (["a.png"], ("--images", "outside.zip"), ["outside.zip", "the path '../a.png' leads outside"]),
        (["a.png"], ("--images", "none.zip"), ["none.zip", "there is no such folder or zip file"]),
        (["a.png"], ("--keep", "id"), ["there is no column 'id'"]),
    ],
    ids=["no image", "missing", "cut", "empty", "outside", "zip outside", "no folder", "column"],
)
def test_images_that_cannot_be_predicted_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], options: tuple, expected: list[str]
):
    """With one line that names the row, and no file of predictions."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(picture("red"))
    Path("text.png").write_bytes(b"no image")
    Path("cut.png").write_bytes(noisy((9, 9, 9), 0)[:400])
    write_zip(Path("outside.zip"), {"a.png": picture("red"), "../a.png": picture("red")})
    Path("rows.csv").write_text("\n".join(["path", *rows]))
    refused(search("predict", "--model", model, "rows.csv", "--out", "out.csv", *options), *expected)
    assert not Path("out.csv").exists()


def test_a_table_without_the_column_of_paths_is_refused(model: Path, tmp_path: Path):
    """With the nearest name."""
    path = tmp_path / "rows.csv"
    path.write_text("paths\na.png\n")
    refused(search("predict", "--model", model, path, "--out", tmp_path / "out.csv"), "no column 'path'; did you mean")


def test_a_model_of_another_version_is_refused(model: Path, photos: Path, tmp_path: Path):
    """By its format, before anything is read of the images."""
    content = json.loads((model / DESCRIPTION).read_text()) | {"format": 2}
    (tmp_path / DESCRIPTION).write_text(json.dumps(content))
    refused(search("predict", "--model", tmp_path, photos, "--out", "out.csv"), "found format 2, expected 1", "version")
