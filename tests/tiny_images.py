"""Real but tiny image encoders and image files, so that tests train for real in milliseconds."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, PretrainedConfig, logging

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
EFFICIENTNET = {
    "image_size": 16,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "kernel_sizes": [3, 3],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "strides": [1, 2],
    "num_block_repeats": [1, 2],
    "expand_ratios": [1, 2],
    "depthwise_padding": [],
    "hidden_dim": 1280,
    "batch_norm_momentum": 0.1,
}

COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "red": (190, 60, 60)}
COUNTS = {"blue": 24, "green": 12, "red": 6}


def build_tiny_image_encoder(folder: Path, config: PretrainedConfig) -> Path:
    """Write a randomly initialised model that `from_pretrained` loads; the same configuration, the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def picture(colour: str | tuple[int, ...], *, size: tuple[int, int] = (20, 12), file_format: str = "PNG") -> bytes:
    """One image of one colour as a file's content."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, file_format)
    return content.getvalue()


def noisy(colour: tuple[int, int, int], seed: int) -> bytes:
    """One image of about one colour as a file's content, 16 x 16 pixels."""
    noise = np.random.default_rng(seed).normal(0, 40, (16, 16, 3))
    content = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip file of these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_photos(folder: Path) -> Path:
    """Write a folder for each of three classes with 24, 12 and 6 noisy images of 16 x 16 pixels."""
    for label, count in COUNTS.items():
        (folder / label).mkdir()
        for number in range(count):
            (folder / label / f"{number:02}.png").write_bytes(noisy(COLOURS[label], number))
    return folder
