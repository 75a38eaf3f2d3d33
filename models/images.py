"""The image classifier: a vision transformer or a convolutional network, pooling, dropout and a linear head."""

import inspect
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from models import timm_models
from models.classifiers import Classifier, Head
from models.encoders import (
    DROPOUT_FIELDS,
    errors_of,
    load_config,
    load_pretrained,
    quietly,
    read_config,
    resolve_encoder,
    weights_missing,
)
from models.errors import EncoderError
from models.params import ModelParams

CONFIG_PREFIX = "config:"
UNTRAINED_TIMM = f"{CONFIG_PREFIX}{timm_models.TIMM_PREFIX}"
PROCESSOR = "preprocessor_config.json"
BILINEAR = 2  # Pillow's number for it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

POOLINGS = ("mean", "cls", "max")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an encoder makes of images, found out without its weights."""

    width: int  # of the pooled states
    num_layers: int  # that can be trained without those below; 0 where it has no list of them
    unused: frozenset[str]  # the weights that pooled states do not depend on


def is_from_scratch(name: str) -> bool:
    """Whether `name` is an architecture, config:FOLDER or config:FILE, that is trained from random weights."""
    return name.startswith(CONFIG_PREFIX)


def check_image_encoder(
    name: str, *, image_size: int, pooling: str = "mean", trainable_layers: int | None = None
) -> Shape:
    """Return what the encoder makes of images of that height and width.

    Raises EncoderError if it is not there, is no image encoder, or cannot be used as asked. Reads no weights; a hub
    model is downloaded.
    """
    config = load_image_config(name)
    if is_from_scratch(name):
        if trainable_layers is not None:
            raise EncoderError(
                f"encoder {name!r}: trainable_layers is {trainable_layers}, but its weights are random, and "
                "frozen they would stay so; expected null"
            )
    elif not any(resolve_encoder(name).glob("*.safetensors")):
        raise EncoderError(
            f"encoder {name!r}: there are no weights (*.safetensors) in {resolve_encoder(name)}; "
            f"config:{name} trains its architecture from random ones"
        )
    shape = _look(name, config, image_size=image_size, pooling=pooling)
    if trainable_layers and trainable_layers > shape.num_layers:
        layers = f"it has {shape.num_layers}" if shape.num_layers else "it has no list of layers; expected null or 0"
        raise EncoderError(f"encoder {name!r}: trainable_layers is {trainable_layers}, {layers}")
    return shape


def load_image_config(name: str) -> Any:
    """Return the encoder's configuration; raises EncoderError."""
    if not is_from_scratch(name):
        return load_config(name)
    if name.startswith(UNTRAINED_TIMM):
        return timm_models.timm_config(name, name.removeprefix(UNTRAINED_TIMM))
    path = Path(name.removeprefix(CONFIG_PREFIX))
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise EncoderError(f"encoder {name!r}: there is no file {file}; expected a folder with config.json, or that")
    return read_config(name, file)


def load_image_encoder(name: str, *, image_size: int, dropout: float | None = None) -> PreTrainedModel:
    """Return the encoder in float32, pretrained, or initialised from torch's global random state; EncoderError."""
    config = load_image_config(name)
    if dropout is not None:
        for field in (*DROPOUT_FIELDS, "drop_connect_rate"):
            if hasattr(config, field):
                setattr(config, field, dropout)
    config = _sized(name, config, image_size=image_size)
    encoder: PreTrainedModel
    if is_from_scratch(name):
        with errors_of(name), quietly():
            encoder = AutoModel.from_config(config, dtype=torch.float32)
        # transformers draws these weights of an EfficientNet around 0, and nothing comes through its blocks.
        for module in encoder.modules():
            if isinstance(module, BATCH_NORMS):
                module.reset_parameters()
        return encoder
    encoder, missing = load_pretrained(name, AutoModel, config)
    if missing:
        unused = _look(name, config, image_size=image_size, pooling="mean").unused
        if used := [key for key in missing if key not in unused]:
            raise weights_missing(name, used)
    return encoder


def load_normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each colour that the encoder expects, (3,) each; ImageNet's if not said."""
    said = _said_of_colours(name)
    mean, deviation = said.get("image_mean") or IMAGENET_MEAN, said.get("image_std") or IMAGENET_DEVIATION
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)


def save_processor(folder: Path, name: str, *, image_size: int) -> None:
    """Write preprocessor_config.json, by which transformers makes of an image what the encoder `name` is trained on."""
    mean, deviation = load_normalisation(name)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean.tolist(),
        "image_std": deviation.tolist(),
    }
    (folder / PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def pool_images(encoder: PreTrainedModel, pixel_values: Tensor, *, pooling: str) -> Tensor:
    """Return one vector an image, (rows, width), of (rows, 3, size, size): of its patches, or the network's own."""
    return _pool(_read(encoder, pixel_values), pooling)


class ImageClassifier(Classifier):
    """Classifies images by the pooled states of an encoder; all of it, its top layers or only the head is trained.

    What lies above the layers, such as the last normalisation, is trained with the top one. Raises EncoderError if the
    encoder cannot be used as asked.
    """

    def __init__(self, params: ModelParams, *, num_outputs: int, scale: float | None = None) -> None:
        super().__init__()
        shape = check_image_encoder(
            params.encoder,
            image_size=params.image_size,
            pooling=params.pooling,
            trainable_layers=params.trainable_layers,
        )
        self.encoder = load_image_encoder(params.encoder, image_size=params.image_size, dropout=params.encoder_dropout)
        self.head = Head(shape.width, dropout=params.dropout, num_outputs=num_outputs, scale=scale)
        self.image_size = params.image_size
        self.pooling = params.pooling
        self._levels = _levels(self.encoder)
        trainable = params.trainable_layers
        self._lowest = 0 if trainable is None else shape.num_layers + 1 - trainable
        for module, level in self._levels.items():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(level >= self._lowest)
        for name, weight in self.encoder.named_parameters():
            if name in shape.unused:
                weight.requires_grad_(False)

    def pooled(self, *, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """Return what the head sees, (rows, width), of normalised images, (rows, 3, size, size)."""
        if self.training and len(pixel_values) == 1:
            with _running_statistics(self.encoder):
                return pool_images(self.encoder, pixel_values, pooling=self.pooling)
        return pool_images(self.encoder, pixel_values, pooling=self.pooling)

    def depths(self) -> dict[str, int]:
        """Return how far below the head each parameter lies: 0 the head, 1 the top layer, most the first weights."""
        above = max(self._levels.values()) + 1
        depth_of = {
            id(weight): above - level
            for module, level in self._levels.items()
            for weight in module.parameters(recurse=False)
        }
        return {name: depth_of.get(id(weight), 0) for name, weight in self.named_parameters()}

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for module, level in self._levels.items():
            module.training = mode and level >= self._lowest
        return self


def _said_of_colours(name: str) -> dict[str, Any]:
    """Return what the encoder's image processor says, or timm's settings in its place."""
    if name.startswith(UNTRAINED_TIMM):
        return {}
    path = Path(name.removeprefix(CONFIG_PREFIX)) if is_from_scratch(name) else resolve_encoder(name)
    folder = path if path.is_dir() else path.parent
    with errors_of(name):
        if (folder / PROCESSOR).is_file():
            return dict(json.loads((folder / PROCESSOR).read_bytes()))
        settings = getattr(load_image_config(name), "pretrained_cfg", None) or {}
    return {"image_mean": settings.get("mean"), "image_std": settings.get("std")}


def _sized(name: str, config: Any, *, image_size: int) -> Any:
    """What is trained from scratch is built for the images that it will see."""
    if config.model_type == timm_models.MODEL_TYPE:
        return timm_models.sized(name, config, image_size=image_size, from_scratch=is_from_scratch(name))
    if is_from_scratch(name) and hasattr(config, "image_size"):
        config.image_size = image_size
    return config


def _look(name: str, config: Any, *, image_size: int, pooling: str) -> Shape:
    """Let an encoder that has shapes only, and no weights, read two images; raises EncoderError."""
    config = _sized(name, config, image_size=image_size)
    with errors_of(name), quietly(), torch.inference_mode(False), torch.device("meta"):
        encoder = AutoModel.from_config(config).eval()
    if encoder.main_input_name != "pixel_values":
        raise EncoderError(f"encoder {name!r}: a {config.model_type} is no image encoder")
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
            output = _read(encoder, torch.zeros(2, 3, image_size, image_size))
            _check_pooling(output.last_hidden_state, pooling)
            pooled = _pool(output, pooling)
            torch.autograd.backward(pooled.sum())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"encoder {name!r}: cannot be used with images of {image_size} x {image_size} pixels: {reason}"
        ) from error
    unused = frozenset(name for name, weight in encoder.named_parameters() if weight.grad is None)
    return Shape(width=pooled.shape[1], num_layers=len(_layers(encoder)), unused=unused)


def _read(encoder: PreTrainedModel, pixel_values: Tensor) -> Any:
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        options = {"interpolate_pos_encoding": encoder.config.image_size != pixel_values.shape[-1]}
    return encoder(pixel_values=pixel_values, **options)


def _check_pooling(hidden: Tensor, pooling: str) -> None:
    if hidden.ndim == 4 and pooling != "mean":
        raise ValueError(f"pooling is {pooling}, but it makes feature maps, which it averages itself; expected mean")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling}, expected one of {', '.join(POOLINGS)}")
    # A square of patches has no token before them that could stand for all.
    if hidden.ndim == 3 and pooling == "cls" and math.isqrt(hidden.shape[1]) ** 2 == hidden.shape[1]:
        raise ValueError("pooling is cls, but there is no first token beside the patches; expected mean or max")


def _pool(output: Any, pooling: str) -> Tensor:
    hidden: Tensor = output.last_hidden_state
    if hidden.ndim == 4:
        own: Tensor = output.pooler_output
        return own.flatten(1)
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.amax(dim=1) if pooling == "max" else hidden.mean(dim=1)


def _layers(encoder: PreTrainedModel) -> list[nn.Module]:
    """Return the layers, blocks or stages, lowest first; none where the encoder has no list of them."""
    if encoder.config.model_type == timm_models.MODEL_TYPE:
        return timm_models.timm_layers(encoder)
    lists = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    return next((list(layers) for layers in lists if len(layers) > 1), [])


def _levels(encoder: PreTrainedModel) -> dict[nn.Module, int]:
    """Return where each module stands: 0 below the layers, n in the n-th of them; what is above, with the top one."""
    number = {id(module): level for level, layer in enumerate(_layers(encoder), start=1) for module in layer.modules()}
    levels, level = {}, 0
    for module in encoder.modules():
        level = max(level, number.get(id(module), 0))
        levels[module] = level
    return levels


@contextmanager
def _running_statistics(encoder: PreTrainedModel) -> Iterator[None]:
    """Let batch normalisation go by what it has seen so far: one image alone has no deviation."""
    training = [module for module in encoder.modules() if isinstance(module, BATCH_NORMS) and module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
