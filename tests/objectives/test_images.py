"""Images as rows: read from folders and zip files, every damage named, decoded once, changed at random, trained on."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EfficientNetConfig, ViTConfig, ViTModel

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Dataset, read_chunks, read_dataset, read_table
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.data.image_files import check_images, decode_images
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import AugmentationParams, Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.image import ImageInputs, prepare_images
from fold_search.objectives.tasks.image_augmentation import ImageAugmentation
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import FoldTraining
from tests.objectives.limited_memory import room_for
from tests.tiny_images import (
    COLOURS,
    EFFICIENTNET,
    VIT,
    build_tiny_image_encoder,
    noisy,
    picture,
    write_photos,
    write_zip,
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def dataset(photos) -> Dataset:
    return read_dataset(DataSpec(path=photos, image="file", label="folder"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> str:
    return str(build_tiny_image_encoder(tmp_path_factory.mktemp("vit"), ViTConfig(**VIT)))


def inputs_of(dataset: Dataset, encoder: str, cache: Path) -> ImageInputs:
    return prepare_images(dataset, encoder=encoder, image_size=16, cache=cache)


def job_of(dataset: Dataset, encoder: str, *, model: dict | None = None, **training) -> FoldJob:
    folds = assign_folds(dataset.labels, dataset.groups, num_folds=3, seed=0, stratified=True)
    training = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 9} | training
    model_params = ModelParams(encoder=encoder, image_size=16, **(model or {}))
    return FoldJob(
        params=Params(model=model_params, training=TrainingParams(**training)),
        goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
        labels=dataset.labels,
        label_names=tuple(dataset.label_names),
        training_rows=np.flatnonzero(folds != 0),
        validation_rows=np.flatnonzero(folds == 0),
        seed=5,
    )


def table(tmp_path: Path, paths: list[str], **settings) -> Dataset:
    """Read a CSV of paths; every other row is of another class."""
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["file,label", *(f"{name},{number % 2}" for number, name in enumerate(paths))]))
    return read_dataset(DataSpec(path=path, image="file", label="label", **settings))


def error_of(dataset: Dataset) -> str:
    with pytest.raises(DataError) as caught:
        check_images(dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_are_a_table_of_files(photos, dataset, tmp_path):
    """A folder or a zip file gives the same rows, sorted; hidden files and those beside the folders are none."""
    files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    others = {"README.txt": b"", "red/.DS_Store": b"", "__MACOSX/red/00.png": b""}
    archive = write_zip(tmp_path / "photos.zip", others | files)
    zipped = read_dataset(DataSpec(path=archive, image="file", label="folder"))
    assert dataset.texts == zipped.texts == sorted(files)
    assert dataset.label_names == ("blue", "green", "red")
    assert np.bincount(dataset.labels).tolist() == [24, 12, 6]
    assert zipped.fingerprint == dataset.fingerprint
    check_images(zipped)
    files_alone = read_table(DataSpec(path=photos / "red", image="file", label="folder"))
    assert files_alone.iloc[0].tolist() == ["00.png", ""]
    chunks = list(read_chunks(dataset.spec, rows=40))
    assert [(chunk.first, len(chunk.table)) for chunk in chunks] == [(1, 40), (41, 2)]


def test_paths_start_at_the_images_or_at_the_tables_folder(tmp_path):
    """data.images is a folder or zip file; without it the table's own folder counts."""
    (tmp_path / "a.png").write_bytes(picture("red"))
    archive = write_zip(tmp_path / "images.zip", {"in/a.png": picture("red")})
    beside = table(tmp_path, ["a.png", "a.png"])
    zipped = table(tmp_path, ["in/a.png", "in/a.png"], images=archive)
    for found in (beside, zipped):
        check_images(found)
        [pixels] = decode_images(found, size=8)
        assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("zipped", [False, True])
def test_bad_images_are_named_by_row(tmp_path, zipped):
    """Missing, empty, no image, or outside of the folder: the first one's row, and how many more."""
    files = {"a.png": picture("red"), "text.png": b"no image", "cut.png": picture("red")[:40]}
    if zipped:
        root = write_zip(tmp_path / "images.zip", files)
    else:
        root = tmp_path
        for name, content in files.items():
            (root / name).write_bytes(content)
    csv = tmp_path / "rows.csv"
    for bad, reason in (
        ("none.png", f"the image 'none.png' under {root} is missing (and 1 more)"),
        ("text.png", f"the image 'text.png' under {root} is no image that can be read (and 1 more)"),
        (
            "../a.png",
            f"the image '../a.png' under {root} cannot be read: the path '../a.png' leads outside (and 1 more)",
        ),
        ("/a.png", f"the image '/a.png' under {root} cannot be read: the path '/a.png' leads outside (and 1 more)"),
        (" ", f"the image ' ' under {root} is not named: the cell is empty (and 1 more)"),
    ):
        assert error_of(table(tmp_path, ["a.png", bad, bad], images=root)) == f"{csv}: data row 2: {reason}"


def test_bad_archives_are_refused(tmp_path):
    """One that is no zip file, one that is not there, and one with a member outside itself."""
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    outside = write_zip(tmp_path / "outside.zip", {"../a.png": picture("red")})
    for root, reason in (
        (tmp_path / "broken.zip", "not a readable folder or zip file of images: File is not a zip file"),
        (tmp_path / "none.zip", "there is no such folder or zip file; data.images expects one"),
        (outside, "not a readable folder or zip file of images: the path '../a.png' leads outside"),
    ):
        with pytest.raises(DataError) as caught:
            table(tmp_path, ["a.png", "b.png"], images=root)
        assert str(caught.value) == f"{root}: {reason}"


@pytest.mark.parametrize("zipped", [False, True])
def test_the_same_image_under_two_names_stays_in_one_fold(tmp_path, zipped):
    """Whatever its name or the case of that; one of the same size that shows something else is another."""
    files = {"a.bmp": picture("red", file_format="BMP"), "b.bmp": picture("blue", file_format="BMP")}
    files |= {"in/copy.bmp": files["a.bmp"], "B.bmp": picture("green", file_format="BMP")}
    if zipped:
        write_zip(tmp_path / "images.zip", files)
    else:
        (tmp_path / "images.zip" / "in").mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / "images.zip" / name).write_bytes(content)
    extra = tmp_path / "extra.csv"
    extra.write_text("file,label\nin/copy.bmp,0\nnone.bmp,1")
    rows = table(tmp_path, ["a.bmp", "b.bmp", "in/copy.bmp", "B.bmp"], images=tmp_path / "images.zip", extra=extra)
    first, second, copy, other, of_extra, missing = rows.groups
    assert first == copy == of_extra
    assert len({first, second, other, missing}) == 4


def test_truncated_image_is_found_when_it_is_decoded(tmp_path, vit):
    """Its beginning is in order; the row is named, and nothing is cached."""
    content = noisy((9, 9, 9), 0)
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    rows = table(tmp_path, ["a.png", "cut.png"])
    check_images(rows)
    with pytest.raises(DataError, match=r"data row 2: the image 'cut\.png' under .* cannot be read: "):
        inputs_of(rows, vit, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_extra_rows_start_where_the_others_do(tmp_path):
    """Their file is named when one of theirs is missing."""
    (tmp_path / "a.png").write_bytes(picture("red"))
    extra = tmp_path / "extra.csv.gz"
    extra.write_bytes(gzip.compress(b"file,label\na.png,0\nb.png,1"))
    assert error_of(table(tmp_path, ["a.png", "a.png"], extra=extra)).startswith(
        f"{extra}: data row 2: the image 'b.png'"
    )


def test_images_are_decoded_as_they_are_meant_to_be_seen(tmp_path, vit):
    """Grey, deep, turned, with a palette or transparent: eight bits of three colours, upright, on white."""
    left_red = Image.new("RGB", (16, 16), "blue")
    left_red.paste("red", (0, 0, 8, 16))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    for name, image, settings in (
        ("a.png", Image.new("L", (9, 9), 51), {}),
        ("b.png", Image.fromarray(np.full((9, 9), 257 * 51, np.uint16)), {}),
        ("c.png", Image.new("RGBA", (9, 9), (0, 0, 0, 0)), {}),
        ("d.png", left_red.convert("P"), {}),
        ("e.png", left_red, {"exif": turned}),
    ):
        image.save(tmp_path / name, **settings)
    pixels = inputs_of(table(tmp_path, [f"{name}.png" for name in "abcde"]), vit, tmp_path / "cache").pixels
    assert pixels[0, 0, 0].tolist() == pixels[1, 0, 0].tolist() == [51, 51, 51]
    assert pixels[2, 0, 0].tolist() == [255, 255, 255]
    assert pixels[3, 0, 0].tolist() == [255, 0, 0]
    assert pixels[4, 0, 0].tolist() == [0, 0, 255]


def test_pixels_are_mapped_from_the_cache(photos, dataset, vit, tmp_path):
    """They are decoded once; another size, or a file that has changed, is cached apart."""
    first = inputs_of(dataset, vit, tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    before = cached.stat().st_mtime_ns
    again = inputs_of(dataset, vit, tmp_path / "cache")
    assert isinstance(again.pixels, np.memmap)
    assert again.pixels.shape == (42, 16, 16, 3)
    assert cached.stat().st_mtime_ns == before
    with Image.open(photos / dataset.texts[30]) as image:
        assert np.array_equal(first.pixels[30], np.asarray(image))
    prepare_images(dataset, encoder=vit, image_size=8, cache=tmp_path / "cache")
    (photos / dataset.texts[0]).write_bytes(noisy(COLOURS["blue"], 99))
    inputs_of(dataset, vit, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_batches_are_normalised_and_only_training_changes_them(dataset, vit, tmp_path):
    """Without a random generator the pixels are as decoded; with one they change, the same for the same seed."""
    feed = inputs_of(dataset, vit, tmp_path).feed(job_of(dataset, vit, image_augmentation=0.9), device="cpu")
    rows = np.array([3, 30])
    plain = feed.batch(rows)["pixel_values"]
    expected = torch.from_numpy(feed.pixels[rows] / 255).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(plain * feed.deviation[:, None, None] + feed.mean[:, None, None], expected)
    first, second, other = (feed.batch(rows, random=np.random.default_rng(seed))["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)


def test_rare_classes_are_changed_more_often():
    """Four times as often in the smallest class, never above 0.9; the caller's random state stays."""
    params = AugmentationParams(image_augmentation=0.05, minority_augmentation=4.0)
    augmentation = ImageAugmentation(params, counts=np.array([1000, 10]), size=8)
    images = torch.rand(600, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    changed = augmentation(images, np.repeat([0, 1], 300), random=np.random.default_rng(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    shares = (changed != images).flatten(1).any(dim=1).reshape(2, 300).float().mean(dim=1)
    # Five changes, each with its own draw.
    assert shares[0].item() == pytest.approx(1 - 0.95**5, abs=0.07)
    assert shares[1].item() == pytest.approx(1 - 0.8**5, abs=0.07)
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize("settings", [{}, {"model": {"trainable_layers": 1}}, {"model": {"trainable_layers": 0}}])
def test_a_pretrained_encoder_learns(dataset, vit, tmp_path, settings):
    """All weights, the top layer, or the head on cached states: colours are told apart."""
    training = FoldTraining(
        job_of(dataset, vit, epochs=6, learning_rate=1e-2, **settings),
        inputs=inputs_of(dataset, vit, tmp_path),
        device="cpu",
    )
    scores = list(training.epochs())
    assert scores[-1].metrics["train_loss"] < scores[0].metrics["train_loss"]
    assert training.best.score > 0.5
    assert bool(list(tmp_path.glob("pooled-*"))) == (settings.get("model") == {"trainable_layers": 0})


def test_the_toolbox_works_on_images(dataset, vit, tmp_path):
    """SMOTE with neighbours among pooled states, focal loss, accumulation, a plateau and augmentation in one job."""
    job = job_of(
        dataset,
        vit,
        sampler="smote",
        sampler_ratio=1.0,
        loss="focal",
        label_smoothing=0.1,
        accumulation_steps=2,
        schedule="plateau",
        image_augmentation=0.3,
        minority_augmentation=3.0,
    )
    training = FoldTraining(job, inputs=inputs_of(dataset, vit, tmp_path), device="cpu")
    assert len(list(training.epochs())) == 3
    assert training.sample.counts_after.tolist() == [16, 16, 16]


def test_an_interrupted_network_goes_on_exactly(dataset, tmp_path):
    """What batch normalisation has seen is in the checkpoint too, and in the best epoch's weights."""
    EfficientNetConfig(**EFFICIENTNET).save_pretrained(tmp_path)
    encoder = f"config:{tmp_path}"
    job = job_of(dataset, encoder, batch_size=9, image_augmentation=0.3)
    inputs = prepare(dataset, params=job.params.model, max_length=8, cache=tmp_path / "cache", device="cpu")

    def training() -> FoldTraining:
        return FoldTraining(job, inputs=inputs, device="cpu")

    through = training()
    scores = list(through.epochs())
    stopped, resumed = training(), training()
    next(stopped.epochs())
    resumed.restore(stopped.save())
    list(resumed.epochs())
    assert [score.metrics["val_loss"] for score in resumed.scores] == [score.metrics["val_loss"] for score in scores]
    assert resumed.best_weights == through.best_weights
    assert b"running_mean" in through.best_weights


def test_neighbours_of_images_without_pretrained_weights_are_by_colour(dataset, tmp_path):
    """An untrained encoder says nothing of what is alike: small images stand in."""
    ViTConfig(**VIT).save_pretrained(tmp_path)
    embeddings = inputs_of(dataset, f"config:{tmp_path}", tmp_path / "cache").embeddings()
    assert embeddings.shape == (42, 192)
    means = embeddings.reshape(42, 3, -1).mean(axis=2)
    assert means.argmax(axis=1).tolist() == [[2, 1, 0][label] for label in dataset.labels]


def test_cached_states_are_the_frozen_encoders(dataset, vit, tmp_path):
    """Each row's is what the classifier pools of it in evaluation."""
    inputs = inputs_of(dataset, vit, tmp_path)
    job = job_of(dataset, vit)
    feed = inputs.feed(job, device="cpu")
    model = feed.build(num_outputs=3, scale=None).eval()
    with torch.no_grad():
        expected = model.pooled(**feed.batch(np.array([7])))
    torch.testing.assert_close(torch.tensor(inputs.pooled(pooling="mean")[7:8]), expected)


def test_frozen_states_are_computed_in_smaller_parts_where_memory_is_short(dataset, vit, tmp_path, monkeypatch):
    """Whoever has room for five images gets what all others get."""
    expected = inputs_of(dataset, vit, tmp_path / "roomy").pooled(pooling="mean")
    monkeypatch.setattr(ViTModel, "forward", room_for(5, ViTModel.forward))
    found = inputs_of(dataset, vit, tmp_path / "small").pooled(pooling="mean")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
