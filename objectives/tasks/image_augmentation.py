"""Changes training images at random: flips, rotation, crop, colours; more often in rare classes."""

import importlib.util
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fold_search.objectives.errors import DataError
from fold_search.objectives.params import AugmentationParams
from fold_search.objectives.tasks.augmentation import MAX_PROBABILITY, strengths

ROTATION_DEGREES = 20.0
SMALLEST_CROP = 0.6  # of the image's area
COLOUR_CHANGE = 0.2  # of brightness, contrast and saturation
HUE_CHANGE = 0.05  # of the colour circle


def require_kornia() -> None:
    """Raise DataError if the library that changes images is not installed."""
    if importlib.util.find_spec("kornia") is None:
        raise DataError("training.image_augmentation needs kornia; expected pip install 'fold-search[images]'")


class ImageAugmentation:
    """Changes images of `size` x `size` pixels. Each kind of change has its own draw with `image_augmentation`.

    `counts` are the training rows of each class, None for a numeric label. Raises DataError if kornia is not installed.
    """

    def __init__(self, params: AugmentationParams, *, counts: NDArray[np.int64] | None, size: int) -> None:
        require_kornia()
        from kornia import augmentation

        self._probability = params.image_augmentation
        self._strengths = None if counts is None else strengths(counts, params.minority_augmentation)
        self._changes = (
            augmentation.RandomHorizontalFlip(p=1.0),
            augmentation.RandomVerticalFlip(p=1.0),
            augmentation.RandomAffine(ROTATION_DEGREES, padding_mode="reflection", p=1.0),
            augmentation.RandomResizedCrop((size, size), scale=(SMALLEST_CROP, 1.0), p=1.0),
            augmentation.ColorJitter(COLOUR_CHANGE, COLOUR_CHANGE, COLOUR_CHANGE, HUE_CHANGE, p=1.0),
        )

    def __call__(self, images: Tensor, labels: NDArray[Any], *, random: np.random.Generator) -> Tensor:
        """Return images, (rows, 3, size, size) from 0 to 1, changed; `labels`, (rows,), decide how often.

        The tensors are on the CPU; those given are not changed. All random numbers come from `random`.
        """
        factor = np.ones(len(images)) if self._strengths is None else self._strengths[labels]
        probability = np.minimum(self._probability * factor, MAX_PROBABILITY)
        changed = images.clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.integers(2**63)))
            for change in self._changes:
                chosen = torch.from_numpy(random.random(len(images)) < probability)
                if chosen.any():
                    changed[chosen] = change(changed[chosen])
        return changed.clamp(0, 1)
