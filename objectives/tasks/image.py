"""Images as model inputs: decoded once per study into a memory-mapped file, augmented and normalised batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fold_search.models.classifiers import Classifier, Head, HeadOnly
from fold_search.models.images import (
    ImageClassifier,
    check_image_encoder,
    is_from_scratch,
    load_image_encoder,
    load_normalisation,
    pool_images,
)
from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.data.image_files import decode_images, stamps
from fold_search.objectives.devices import rows_per_forward
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.cache import digest, digest_weights, filled
from fold_search.objectives.tasks.continued import Continued, continued
from fold_search.objectives.tasks.feeds import Batch
from fold_search.objectives.tasks.image_augmentation import ImageAugmentation

Array = NDArray[Any]
Pixels = NDArray[np.uint8]  # (rows, size, size, 3)

DECODING = "2"  # raised whenever a new version gives other pixels for the same file
THUMBNAIL_SIZE = 8
THUMBNAILS_PER_CALL = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInputs:
    """What all fold runs of a study share: the images of one size, and the frozen encoder's states of them."""

    pixels: Pixels
    encoder: str
    key: str  # the same for the same images and size
    cache: Path
    device: str

    def feed(self, job: FoldJob, *, device: str) -> "ImageFeed":
        """Return what the job's trial sees of the rows; raises EncoderError, DataError."""
        model, training = job.params.model, job.params.training
        mean, deviation = load_normalisation(self.encoder)
        augment = None
        if training.image_augmentation > 0:
            counts = job.counts(job.training_rows) if job.task == "classification" else None
            augment = ImageAugmentation(training, counts=counts, size=model.image_size)
        return ImageFeed(
            pixels=self.pixels,
            mean=mean,
            deviation=deviation,
            model=model,
            labels=job.labels,
            # If only the head is trained, the encoder runs once per study, not once per epoch.
            states=self.pooled(pooling=model.pooling) if model.trainable_layers == 0 else None,
            augment=augment,
        )

    def pooled(self, *, pooling: str) -> NDArray[np.float32]:
        """Return the frozen encoder's pooled states of all rows, (rows, width), computed once. EncoderError."""
        key = digest([self.key, *digest_weights(self.encoder), pooling])
        shape = check_image_encoder(self.encoder, image_size=self.pixels.shape[1], pooling=pooling, trainable_layers=0)

        def fill(folder: Path) -> None:
            with continued(folder / "pooled.npy", shape=(len(self.pixels), shape.width), dtype=np.float32) as array:
                _pool_all(self.pixels, self.encoder, pooling=pooling, device=self.device, array=array)

        return filled(self.cache / f"pooled-{key}", fill)["pooled"]

    def embeddings(self) -> NDArray[np.float32]:
        """Return every row's mean-pooled frozen states, scaled to length 1: where neighbours are looked for.

        An encoder that is trained from scratch has none yet: then it is the image in 8 x 8 pixels, (rows, 192).
        """
        if is_from_scratch(self.encoder):
            return np.concatenate([_thumbnails(part) for part in _parts(self.pixels, size=THUMBNAILS_PER_CALL)])
        states = self.pooled(pooling="mean")
        scaled: NDArray[np.float32] = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeed:
    """What one trial's model sees of the images: their pixels, or the frozen encoder's states of them."""

    pixels: Pixels
    mean: Tensor  # (3,)
    deviation: Tensor  # (3,)
    model: ModelParams
    labels: NDArray[np.int64] | NDArray[np.float64]
    states: NDArray[np.float32] | None
    augment: ImageAugmentation | None

    def build(self, *, num_outputs: int, scale: float | None) -> Classifier:
        """Return the classifier, or its head alone; raises EncoderError if the encoder cannot be used as asked."""
        if self.states is None:
            return ImageClassifier(self.model, num_outputs=num_outputs, scale=scale)
        width = self.states.shape[1]
        return HeadOnly(Head(width, dropout=self.model.dropout, num_outputs=num_outputs, scale=scale))

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return 1 for each row: images of one size cost the same."""
        return np.ones(len(rows), np.int64)

    def batch(self, rows: Rows, *, random: np.random.Generator | None = None) -> Batch:
        """Return `pixel_values`, (rows, 3, size, size), or `states`, (rows, width)."""
        if self.states is not None:
            return {"states": torch.from_numpy(self.states[rows])}
        images = _as_floats(self.pixels[rows])
        if self.augment is not None and random is not None:
            images = self.augment(images, self.labels[rows], random=random)
        return {"pixel_values": _normalised(images, self.mean, self.deviation)}


def prepare_images(content: Content, *, encoder: str, image_size: int, cache: Path, device: str = "cpu") -> ImageInputs:
    """Decode the rows' images, or find them in `cache`.

    The frozen encoder's states are computed on `device` when they are first asked for. Raises DataError.
    """
    root = content.spec.image_root
    key = digest([DECODING, str(root.resolve()), str(image_size), *content.texts, *stamps(content)])

    def fill(folder: Path) -> None:
        shape = (len(content.texts), image_size, image_size, 3)
        with (
            continued(folder / "pixels.npy", shape=shape, dtype=np.uint8) as array,
            stage("reading images", total=shape[0]) as advance,
        ):
            advance(done := array.done)
            for images in decode_images(content, size=image_size, first=done):
                array.write(done, images)
                array.note(done := done + len(images))
                advance(len(images))

    pixels = filled(cache / f"images-{key}", fill)["pixels"]
    return ImageInputs(pixels=pixels, encoder=encoder, key=key, cache=cache, device=device)


@torch.inference_mode()
def _pool_all(pixels: Pixels, encoder: str, *, pooling: str, device: str, array: Continued) -> None:
    """Write the pooled states of all rows, (rows, width)."""
    with stage("loading the encoder"):
        model = load_image_encoder(encoder, image_size=pixels.shape[1]).eval()
        nn.Module.to(model, device)
    mean, deviation = load_normalisation(encoder)
    at_once = RowsAtOnce(rows=rows_per_forward(torch.device(device)), device=torch.device(device))

    def pool(rows: Rows) -> Array:
        images = _normalised(_as_floats(pixels[rows]), mean, deviation).to(device)
        return pool_images(model, images, pooling=pooling).cpu().numpy()

    with stage("embedding rows", total=len(pixels)) as advance:
        advance(done := array.done)
        for rows, states in at_once.in_parts(np.arange(done, len(pixels)), pool):
            array.write(done, states)
            array.note(done := done + len(rows))
            advance(len(rows))


def _as_floats(pixels: Pixels) -> Tensor:
    """(rows, size, size, 3) of 0 to 255 -> (rows, 3, size, size) of 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255


def _normalised(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return (images - mean[:, None, None]) / deviation[:, None, None]


def _thumbnails(pixels: Pixels) -> NDArray[np.float32]:
    """Return images as the mean colours of 8 x 8 parts, (rows, 192)."""
    thumbnails: NDArray[np.float32] = (
        functional.adaptive_avg_pool2d(_as_floats(pixels), THUMBNAIL_SIZE).flatten(1).numpy()
    )
    return thumbnails


def _parts(pixels: Pixels, *, size: int) -> Iterator[Pixels]:
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]
