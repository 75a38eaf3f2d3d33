"""Image encoders of timm, an optional package, in transformers' wrapper: their names, image sizes and layers."""

import importlib
import importlib.util
from typing import Any

from torch import nn

from fold_search.models.errors import EncoderError
from fold_search.words import nearest

TIMM_PREFIX = "timm:"
MODEL_TYPE = "timm_wrapper"
LISTS_OF_LAYERS = ("blocks", "stages", "layers")


def require_timm(name: str) -> Any:
    """Return the package; raises EncoderError if it is not installed, or cannot be imported."""
    if importlib.util.find_spec("timm") is None:
        raise EncoderError(f"encoder {name!r}: needs timm; expected pip install 'fold-search[timm]'")
    try:
        return importlib.import_module("timm")
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"encoder {name!r}: timm cannot be imported: {reason}; expected torchvision of the same build as torch"
        ) from error


def is_timm_config(content: dict[str, Any]) -> bool:
    """Whether a config.json is that of a timm model, written by timm or by transformers."""
    return content.get("model_type", MODEL_TYPE if "pretrained_cfg" in content else None) == MODEL_TYPE


def timm_hub_name(name: str) -> str:
    """Return where the model hub has the pretrained weights of `timm:NAME`; raises EncoderError."""
    settings = _settings(name, name.removeprefix(TIMM_PREFIX))
    if settings is None or not settings.hf_hub_id:
        raise EncoderError(f"encoder {name!r}: timm has no pretrained weights of it; config:{name} trains it from none")
    return str(settings.hf_hub_id)


def timm_config(name: str, architecture: str) -> Any:
    """Return the configuration of an architecture that is trained from random weights; raises EncoderError."""
    _settings(name, architecture)
    from transformers import TimmWrapperConfig

    return TimmWrapperConfig(architecture=architecture)


def sized(name: str, config: Any, *, image_size: int, from_scratch: bool) -> Any:
    """Let an architecture of one image size read images of another; from scratch it is built for that size."""
    settings = _settings(name, config.architecture)
    # timm writes this one too, and the wrapper passes its own.
    arguments = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
    if settings is not None and settings.fixed_input_size:
        if from_scratch:
            arguments["img_size"] = image_size
        elif image_size not in _built_for(config, settings):
            arguments["dynamic_img_size"] = True
    config.model_args = arguments
    return config


def _built_for(config: Any, settings: Any) -> tuple[int, ...]:
    """Return the height and width that the configuration's weights are for."""
    if size := (config.model_args or {}).get("img_size"):
        return (size,) if isinstance(size, int) else tuple(size)
    written = getattr(config, "pretrained_cfg", None) or {}
    return tuple(written.get("input_size") or settings.input_size)[1:]


def timm_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the blocks or stages of a wrapped model, lowest first; none if it has no list of them."""
    inner = getattr(encoder, "timm_model", None)
    lists = (getattr(inner, name, None) for name in LISTS_OF_LAYERS)
    return next((list(layers) for layers in lists if isinstance(layers, nn.Sequential | nn.ModuleList)), [])


def _settings(name: str, model: str) -> Any:
    """Return timm's settings for a model's weights, None if it has no weights; EncoderError for an unknown model."""
    timm = require_timm(name)
    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        close = nearest(architecture, timm.list_models())
        advice = f"; did you mean {close!r}?" if close else ""
        raise EncoderError(f"encoder {name!r}: timm has no model {architecture!r}{advice}")
    return timm.get_pretrained_cfg(model)
