"""The image classifier: a vision transformer or a convolutional network, pooling, dropout and a linear head."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from fold_search.models import timm_models
from fold_search.models.classifiers import Classifier, Head
from fold_search.models.encoders import (
    errors_of,
    load_config,
    load_pretrained,
    quietly,
    read_config,
    resolve_encoder,
    weights_missing,
)
from fold_search.models.errors import EncoderError
from fold_search.models.image_reading import (
    Shape,
    drops,
    fix_dropout,
    look,
    make_ready,
    pool,
    read_images,
    seeing_part,
    unfit,
)
from fold_search.models.params import ModelParams

CONFIG_PREFIX = "config:"
UNTRAINED_TIMM = f"{CONFIG_PREFIX}{timm_models.TIMM_PREFIX}"
PROCESSOR = "preprocessor_config.json"
BILINEAR = 2  # Pillow's number for it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def is_from_scratch(name: str) -> bool:
    """Whether `name` is an architecture, config:FOLDER or config:FILE, that is trained from random weights."""
    return name.startswith(CONFIG_PREFIX)


def check_image_encoder(
    name: str,
    *,
    image_size: int,
    pooling: str = "mean",
    trainable_layers: int | None = None,
    dropout: float | None = None,
) -> Shape:
    """Return the encoder's shape for images of that height and width.

    Raises EncoderError if it is not there, is not an image encoder, or cannot be used as asked: with `dropout` there
    must be something that can be dropped. Reads no weights; a hub model is downloaded.
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
    shape = _look(name, config, image_size=image_size, pooling=pooling, dropout=dropout)
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
    config = _prepared(name, load_image_config(name), image_size=image_size, dropout=dropout)
    encoder: PreTrainedModel
    if is_from_scratch(name):
        with errors_of(name), quietly():
            encoder = AutoModel.from_config(config, dtype=torch.float32)
        # transformers draws these weights of an EfficientNet around 0, so that nothing would pass through its blocks.
        for module in encoder.modules():
            if isinstance(module, BATCH_NORMS):
                module.reset_parameters()
    else:
        encoder, missing = load_pretrained(name, AutoModel, config)
        unused = _look(name, config, image_size=image_size, pooling="mean").unused if missing else frozenset()
        if used := [key for key in missing if key not in unused]:
            raise weights_missing(name, used)
    if dropout is not None:
        fix_dropout(encoder, dropout)
    return encoder


def load_normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each colour that the encoder expects, (3,) each; ImageNet's if not said."""
    said = _said_of_colours(name)
    mean, deviation = said.get("image_mean") or IMAGENET_MEAN, said.get("image_std") or IMAGENET_DEVIATION
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)


def save_processor(folder: Path, name: str, *, image_size: int) -> None:
    """Write preprocessor_config.json, by which transformers prepares images as they were for the encoder `name`."""
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
    """Return one vector per image: (rows, 3, size, size) -> (rows, width), from its patches or the network's own."""
    return pool(read_images(encoder, pixel_values), pooling)


class ImageClassifier(Classifier):
    """Classifies images by the pooled states of an encoder. All of it, its top layers or only the head is trained.

    Modules above the layers, such as the last normalisation, are trained with the top layer. Raises EncoderError if
    the encoder cannot be used as asked.
    """

    def __init__(self, params: ModelParams, *, num_outputs: int, scale: float | None = None) -> None:
        super().__init__()
        shape = check_image_encoder(
            params.encoder,
            image_size=params.image_size,
            pooling=params.pooling,
            trainable_layers=params.trainable_layers,
            dropout=params.encoder_dropout,
        )
        self.encoder = load_image_encoder(params.encoder, image_size=params.image_size, dropout=params.encoder_dropout)
        self.head = Head(shape.width, dropout=params.dropout, num_outputs=num_outputs, scale=scale)
        self.image_size = params.image_size
        self.pooling = params.pooling
        self._levels = {module: shape.levels[name] for name, module in self.encoder.named_modules()}
        trainable = params.trainable_layers
        self._lowest = 0 if trainable is None else shape.num_layers + 1 - trainable
        for module, level in self._levels.items():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(level >= self._lowest)
        for name, weight in self.encoder.named_parameters():
            if name in shape.unused:
                weight.requires_grad_(False)

    def pooled(self, *, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """Return the pooled states of normalised images: (rows, 3, size, size) -> (rows, width)."""
        if self.training and len(pixel_values) == 1:
            with _running_statistics(self.encoder):
                return pool_images(self.encoder, pixel_values, pooling=self.pooling)
        return pool_images(self.encoder, pixel_values, pooling=self.pooling)

    def depths(self) -> dict[str, int]:
        """Return how far below the head each parameter lies: the head 0, the top layer 1, the first weights most."""
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
    """Return the settings of the encoder's image processor, or timm's instead."""
    if name.startswith(UNTRAINED_TIMM):
        return {}
    path = Path(name.removeprefix(CONFIG_PREFIX)) if is_from_scratch(name) else resolve_encoder(name)
    folder = path if path.is_dir() else path.parent
    with errors_of(name):
        if (folder / PROCESSOR).is_file():
            return dict(json.loads((folder / PROCESSOR).read_bytes()))
        settings = getattr(load_image_config(name), "pretrained_cfg", None) or {}
    return {"image_mean": settings.get("mean"), "image_std": settings.get("std")}


def _prepared(name: str, config: Any, *, image_size: int, dropout: float | None) -> Any:
    """Return the configuration of the part that reads images; one trained from scratch gets the study's image size."""
    config = seeing_part(config)
    if config.model_type == timm_models.MODEL_TYPE:
        config = timm_models.sized(name, config, image_size=image_size, from_scratch=is_from_scratch(name))
    with errors_of(name):
        make_ready(config, image_size=image_size if is_from_scratch(name) else None, dropout=dropout)
    return config


def _look(name: str, config: Any, *, image_size: int, pooling: str, dropout: float | None = None) -> Shape:
    """Let an encoder without weights (shapes only) read two images; raises EncoderError."""
    family = config.model_type
    if reason := unfit(config):
        raise EncoderError(f"encoder {name!r}: {reason}; expected an image encoder")
    config = _prepared(name, config, image_size=image_size, dropout=dropout)
    try:
        with quietly(), torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
            encoder = AutoModel.from_config(config).eval()
            if encoder.main_input_name != "pixel_values":
                raise EncoderError(f"encoder {name!r}: {family} is no image encoder")
            if dropout is not None:
                fix_dropout(encoder, dropout)
            shape = look(encoder, image_size=image_size, pooling=pooling)
            if dropout and not drops(encoder, image_size=image_size):
                raise EncoderError(
                    f"encoder {name!r}: encoder_dropout is {dropout}, but nothing in {family} is dropped; expected null"
                )
            return shape
    except ImportError as error:
        raise EncoderError(f"encoder {name!r}: {family} needs a package: {_reason(error)}") from error
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"encoder {name!r}: {family} cannot be used with images of {image_size} x {image_size} pixels: "
            f"{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first sentence of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _running_statistics(encoder: PreTrainedModel) -> Iterator[None]:
    """Let batch normalisation use its running statistics: a single image has no deviation."""
    training = [module for module in encoder.modules() if isinstance(module, BATCH_NORMS) and module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
