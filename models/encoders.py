"""Where pretrained encoders come from: a folder, an installed package or the model hub."""

import functools
import importlib.util
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from fold_search.models.errors import EncoderError
from fold_search.models.timm_models import TIMM_PREFIX, is_timm_config, require_timm, timm_hub_name

PACKAGE_PREFIX = "package:"
WEIGHTS_INDEX = "model.safetensors.index.json"
MOST_LAYERS = 1000
HUB_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")


def resolve_encoder(name: str) -> Path:
    """Return the folder of the encoder; downloads a hub model once. Raises EncoderError."""
    return _resolve(name, files=HUB_FILES)


def num_encoder_layers(name: str) -> int:
    """Return how many transformer layers the encoder has; raises EncoderError."""
    return int(load_config(name).num_hidden_layers)


def load_encoder(name: str, *, dropout: float | None = None) -> PreTrainedModel:
    """Return the pretrained encoder, in float32; `dropout` replaces its own probabilities. Raises EncoderError."""
    config = load_config(name)
    make_ready(config, dropout=dropout)
    encoder, missing = load_pretrained(name, text_model(config), config, **without_pooler(config))
    if missing := [key for key in missing if not key.startswith("pooler.")]:
        raise weights_missing(name, missing)
    return finish(encoder, dropout=dropout)


def text_model(config: PreTrainedConfig) -> Any:
    """Return the Auto class that makes an encoder from a configuration; of a T5 only its encoder part."""
    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the options with which a family's class builds no pooler."""
    takes = inspect.signature(model_class(config).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the family's class; raises KeyError if it has none."""
    found: Any = text_model(config)._model_mapping[type(config)]
    first: type[PreTrainedModel] = found[0] if isinstance(found, tuple | list) else found
    return first


def make_ready(config: PreTrainedConfig, *, dropout: float | None) -> None:
    """Set what every encoder needs before it is built: no cache of keys and values, and its dropout probabilities."""
    if getattr(config, "use_cache", False):
        config.use_cache = False
    if dropout is not None:
        _set_dropout(config, dropout)


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every probability with a name that speaks of dropping (families have many names), except of whole layers."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _set_dropout(value, dropout)
        elif "drop" in name and "layer" not in name and type(value) in (int, float):
            setattr(config, name, dropout)


def finish(encoder: PreTrainedModel, *, dropout: float | None) -> PreTrainedModel:
    """Set what a configuration cannot say: dropout that is fixed in the code, a pooler that cannot be left out."""
    for module in encoder.modules():
        if dropout is not None and isinstance(module, nn.Dropout):
            module.p = dropout
    # The output of the pooler is not used. Its weights get no gradient, and would only make every checkpoint larger.
    pooler = getattr(encoder, "pooler", None)
    if isinstance(pooler, nn.Module):
        pooler.requires_grad_(False)
    return encoder


def load_pretrained(name: str, loader: Any, config: Any, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """Return the model that one of transformers' Auto classes loads, in float32, and the weights its files lack.

    `options` are those of the class. transformers invents the missing weights; their names come sorted. Raises
    EncoderError.
    """
    folder = resolve_encoder(name)
    _check_index(name, folder / WEIGHTS_INDEX)
    with errors_of(name), quietly():
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype="float32",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    return model, sorted(report["missing_keys"])


def weights_missing(name: str, missing: Sequence[str]) -> EncoderError:
    """Make the error for weights that are missing in an encoder's files."""
    return EncoderError(f"encoder {name!r}: its file has no {missing[0]} ({len(missing)} weights are missing)")


def load_tokenizer(name: str) -> Any:
    """Return the encoder's fast tokenizer; raises EncoderError."""
    folder = resolve_encoder(name)
    with errors_of(name), quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        letter = tokenizer("a", add_special_tokens=False)  # some settings that make no sense are noticed only now
    # If files are missing, transformers makes up a tokenizer that knows only the special tokens, or no letter.
    is_made_up = len(tokenizer) <= len(tokenizer.all_special_tokens) or not letter["input_ids"]
    if not tokenizer.is_fast or is_made_up:
        raise EncoderError(f"encoder {name!r}: there is no fast tokenizer (tokenizer.json) in {folder}")
    return tokenizer


def load_config(name: str) -> Any:
    """Return the encoder's configuration; raises EncoderError."""
    folder = _resolve(name, files=("config.json",))
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"encoder {name!r}: there is no config.json in {folder}; expected a pretrained model's folder"
        )
    config = read_config(name, folder / "config.json")
    # A RoBERTa numbers positions from it on.
    if getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = getattr(type(config), "pad_token_id", None)
    return config


def read_config(name: str, file: Path) -> Any:
    """Return the configuration in a file; raises EncoderError."""
    with errors_of(name):
        content = json.loads(file.read_bytes())
        of_timm = is_timm_config(content)
    _refuse_code(name, content)
    if of_timm:
        require_timm(name)
    with errors_of(name), quietly():
        return AutoConfig.from_pretrained(file, trust_remote_code=False, local_files_only=True)


def _refuse_code(name: str, content: dict[str, Any]) -> None:
    """Raise EncoderError if a configuration asks for code that transformers would download or import and then run."""
    if "auto_map" in content and content.get("model_type") not in transformers.CONFIG_MAPPING:
        raise EncoderError(f"encoder {name!r}: needs code of its own (auto_map in config.json), which is never run")
    if kernel := _hub_kernel(content):
        raise EncoderError(f"encoder {name!r}: needs the code of {kernel} (attn_implementation), which is never run")
    layers = content.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise EncoderError(f"encoder {name!r}: num_hidden_layers is {layers}, expected at most {MOST_LAYERS}")


def _hub_kernel(content: Any) -> str | None:
    """Return the first attention kernel of the model hub that the configuration, or one inside it, names."""
    if isinstance(content, list):
        return next(filter(None, map(_hub_kernel, content)), None)
    if not isinstance(content, dict):
        return None
    named = (str(value) for key, value in content.items() if key.endswith("attn_implementation") and "/" in str(value))
    return next(named, None) or _hub_kernel(list(content.values()))


def _check_index(name: str, file: Path) -> None:
    """Raise EncoderError if the index of several weight files names anything but safetensors in its own folder."""
    if not file.is_file():
        return
    with errors_of(name):
        files = set(json.loads(file.read_bytes())["weight_map"].values())
    for part in files:
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise EncoderError(f"encoder {name!r}: {file.name} names {part!r}, expected *.safetensors beside it")


def check_weights(name: str) -> None:
    """Raise EncoderError if a folder has no weights; those of a hub model are downloaded later."""
    folder = _local_folder(name)
    if folder is not None and not any(folder.glob("*.safetensors")):
        raise EncoderError(f"encoder {name!r}: there are no weights (*.safetensors) in {folder}{_pickled(folder)}")


def _pickled(folder: Path) -> str:
    """Return advice for a folder in which all weights are pickles, else ""."""
    if not any(folder.glob("*.bin")):
        return ""
    return "; *.bin are pickles, which can run code and are never read: write it anew by save_pretrained"


def _resolve(name: str, *, files: tuple[str, ...]) -> Path:
    if name.startswith(TIMM_PREFIX):
        return hub_folder(timm_hub_name(name), files)
    return _local_folder(name) or hub_folder(name, files)


def _local_folder(name: str) -> Path | None:
    """Return the folder that `name` is or points to; None if it can only be the name of a hub model."""
    if name.startswith(PACKAGE_PREFIX):
        return _package_folder(name)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise EncoderError(f"encoder {name!r}: there is no such folder")
    return None


def _package_folder(name: str) -> Path:
    """Find the package without importing it: its __init__ may load anything."""
    package, _, inner = name.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(f"encoder {name!r}: no package {package!r} is installed")
    folder = Path(spec.submodule_search_locations[0], inner)
    if not folder.is_dir():
        raise EncoderError(f"encoder {name!r}: package {package!r} has no folder {inner!r}")
    return folder


@functools.cache
def hub_folder(name: str, files: tuple[str, ...]) -> Path:
    """Return the folder with these files of a model on the hub; they are downloaded unless they are there.

    Without a connection, an earlier download is used. Raises EncoderError if there is none.
    """
    advice = "give a folder with a pretrained model instead, or package:NAME/FOLDER"
    try:
        with quietly():
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files), etag_timeout=10))
    except LocalEntryNotFoundError as error:
        raise EncoderError(
            f"encoder {name!r}: no such folder, and the model hub cannot be reached; {advice}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EncoderError(
            f"encoder {name!r}: no such folder, and the model hub has no such model; {advice}"
        ) from error


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn any error of the libraries into EncoderError with its first line: for a wrong folder they raise anything."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(f"encoder {name!r}: cannot be loaded: {reason}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars, and no warnings about weights that are left out on purpose. Errors are raised as usual."""
    verbosity = transformers.logging.get_verbosity()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    _set_levels(logging.ERROR, logger, logging.ERROR)
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        _set_levels(verbosity, logger, level)
        transformers.logging.enable_progress_bar()
        enable_progress_bars()


def _set_levels(verbosity: int, logger: logging.Logger, level: int) -> None:
    # Each change empties the caches of all loggers of the process, and transformers has hundreds.
    if verbosity != transformers.logging.get_verbosity():
        transformers.logging.set_verbosity(verbosity)
    if level != logger.level:
        logger.setLevel(level)
