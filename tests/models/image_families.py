"""Every family of image encoders that transformers knows, each as a tiny model from random weights: what it can do.

The names come from transformers' own lists, so a newer transformers brings its new families by itself.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.utils.tqdm import disable_progress_bars
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, logging
from transformers.models.auto import modeling_auto

from fold_search.models.errors import EncoderError
from fold_search.models.images import ImageClassifier, check_image_encoder, load_image_encoder
from fold_search.models.params import ModelParams
from fold_search.objectives.predicting.exported import HEAD, write_classifier
from tests.tiny_images import EFFICIENTNET

SIZE = 64
OTHER_SIZE = 96
NUM_CLASSES = 3
COLUMNS = {
    "whole": "all of it is trained",
    "top layer": "`trainable_layers`: single layers can be told apart",
    "head alone": "`trainable_layers: 0`",
    "other sizes": "`image_size` may be another one than that of its configuration",
    "encoder_dropout": "something is dropped in training, so that it has an effect",
    "export": "the exported model predicts the same",
}
YES, NO = "yes", "no"

LISTS = (
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_MAPPING_NAMES",
    "MODEL_FOR_BACKBONE_MAPPING_NAMES",
)
# What an integer of a configuration becomes, by its name; heads stay fewer than widths.
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "encoder_hidden_dim", "decoder_hidden_size", "feature_size"), 32),
    **dict.fromkeys(("projection_dim", "fpn_feature_size", "mask_feature_size", "fpn_hidden_size", "n_embd"), 32),
    **dict.fromkeys(("hidden_dim", "output_channels", "projector_out_channels"), 32),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers", "n_layer", "decoder_num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "n_head"), 2),
    **dict.fromkeys(("num_key_value_heads", "attention_heads", "decoder_num_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "dim_feedforward", "mlp_dim"), 64),
    **dict.fromkeys(("encoder_feedforward_dim", "decoder_intermediate_size"), 64),
    **{
        "vocab_size": 99,
        "head_dim": 16,
        "num_queries": 5,
        "head_out_channels": 9,
        "patch_size": 8,
        "embedding_size": 16,
        "groups_width": 8,
    },
}
OF_STAGES = ("out_features", "out_indices", "stage_names")  # which follow from the number of layers
# What follows from others, or does not fit the small sizes.
OWN: dict[str, dict[str, Any]] = {
    "cvt": {"embed_dim": (16, 32, 48), "num_heads": (1, 2, 3), "depth": (1, 2, 3)},
    "radio": {"patch_dim": 192, "max_img_size": 128},
    "bit": {"num_groups": 8},
    "depth_pro": {},
    "donut-swin": {"patch_size": 2, "window_size": 4},
    "efficientloftr": {},
    "efficientnet": {key: value for key, value in EFFICIENTNET.items() if key != "image_size"},
    "focalnet": {"hidden_sizes": (48, 96, 192, 192)},
    "levit": {"patch_size": 16},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevitv2": {"width_multiplier": 0.25, "n_attn_blocks": (1, 1, 1)},
    "muse_glimmer_vision": {},
    "muse_spark_vision": {},
    "lw_detr": {},
    "rf_detr": {},
    "sam2": {},
    "sam2_hiera_det_model": {},
    "sam2_video": {},
    "sam2_vision_model": {},
    "sam3_vision_model": {"fpn_hidden_size": 8},
    "swin": {"patch_size": 2, "window_size": 4},
    "textnet": {},
    "swin2sr": {"window_size": 4, "depths": (1, 1), "num_heads": (2, 2), "embed_dim": 24},
}


def _names() -> tuple[str, ...]:
    names = {name for mapping in LISTS for name in getattr(modeling_auto, mapping)}
    for name in modeling_auto.MODEL_MAPPING_NAMES:
        try:
            found = MODEL_MAPPING[CONFIG_MAPPING[name]]
            first: Any = found[0] if isinstance(found, tuple) else found
            if first.main_input_name == "pixel_values":
                names.add(name)
        except (ImportError, KeyError, ValueError):  # of a package that is not installed; not of images
            continue
    return tuple(sorted(names))


FAMILIES = _names()


def try_family(name: str, folder: Path) -> dict[str, str]:
    """Return for each of COLUMNS `yes`, or `no` and why; a family that is refused has the reason in the first.

    `folder` is empty. Raises whatever a family does that is neither: an error when training has begun, or an answer
    that is wrong.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        tiny_config(name).save_pretrained(folder / "config")
        check_image_encoder(f"config:{folder / 'config'}", image_size=SIZE)
        encoder = _write(name, folder)
        load_image_encoder(encoder, image_size=SIZE)
    except ImportError as error:
        return _refused(str(error))
    except EncoderError as error:
        return _refused(_one_line(error))
    trials: dict[str, Callable[[str], None]] = {
        "whole": _train_whole,
        "top layer": _train_top_layer,
        "head alone": _train_head,
        "other sizes": _read_another_size,
        "encoder_dropout": _obey_dropout,
        "export": lambda encoder: _export(encoder, folder / "exported"),
    }
    return {column: _answer(trial, encoder) for column, trial in trials.items()}


def tiny_config(name: str) -> PreTrainedConfig:
    """Return a small configuration of the family."""
    own, kind = OWN.get(name), cast(Any, CONFIG_MAPPING[name])
    # Where all sizes follow from each other, they stay.
    config: PreTrainedConfig = kind() if own == {} else kind(**_smaller(kind()) | (own or {}))
    return config


def _smaller(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a configuration is to be told, so that its model is small."""
    changes: dict[str, Any] = {}
    for key, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            kept = {name: part for name, part in value.to_dict().items() if name not in OF_STAGES}
            changes[key] = kept | _smaller(value)
        elif key == "image_size" and value is not None:
            changes[key] = SIZE if isinstance(value, int) else type(value)([SIZE] * len(value))
        elif key in ("depths", "num_block_repeats", "stage_numb_of_layers", "stage_num_blocks"):
            changes[key] = type(value)(1 for _ in value)
        elif key in ("hidden_sizes", "neck_hidden_sizes") and not isinstance(value, int):
            changes[key] = type(value)(max(8, width // 4) for width in value)
        elif key in SMALL and type(value) is int:
            changes[key] = min(value, SMALL[key])
    if "depths" in changes and hasattr(config, "embed_dim"):
        changes["embed_dim"] = 24
        changes.pop("hidden_size", None)
    if hasattr(config, "embed_dim_per_stage"):
        del changes["hidden_size"]
    if types := getattr(config, "layer_types", None):
        changes["layer_types"] = types[: changes.get("num_hidden_layers", len(types))]
    return changes


def _write(name: str, folder: Path) -> str:
    """Write the family's model with weights, of which a CLIP reads texts too."""
    config = tiny_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    model.save_pretrained(folder / "encoder")
    return str(folder / "encoder")


def _refused(reason: str) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, NO) | {"whole": f"{NO}: {reason.strip().splitlines()[0]}"}


def _answer(trial: Callable[[str], None], encoder: str) -> str:
    try:
        trial(encoder)
    except EncoderError as error:
        return f"{NO}: {_one_line(error)}"
    return YES


def _one_line(error: EncoderError) -> str:
    """Return what is said after the encoder's name, which is all that differs from run to run."""
    reason = str(error).split("': ", 1)[1]
    if "\n" in reason:
        raise AssertionError(f"more than one line: {reason}")
    return reason


def _classifier(encoder: str, **params: Any) -> ImageClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ImageClassifier(ModelParams(encoder=encoder, **{"image_size": SIZE, **params}), num_outputs=NUM_CLASSES)


def _images(num: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(num))


def _train(model: ImageClassifier) -> set[str]:
    """Train one step and return which weights moved; each that is to be trained has to have a gradient."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    loss = torch.nn.functional.cross_entropy(model.train()(pixel_values=_images(4)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    optimiser.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved <= set(trained)
    return moved


def _train_whole(encoder: str) -> None:
    model = _classifier(encoder).eval()
    images = _images(3)
    with torch.no_grad():
        together, again = model(pixel_values=images), model(pixel_values=images)
        alone = torch.cat([model(pixel_values=image[None]) for image in images])
    torch.testing.assert_close(together, again)  # nothing is left to chance
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)  # nor to the other images
    assert any(name.startswith("encoder.") for name in _train(model))


def _train_top_layer(encoder: str) -> None:
    model = _classifier(encoder, trainable_layers=1)
    depths = model.depths()
    assert {depths[name] for name in _train(model)} == {0, 1}
    assert max(depths.values()) > 1
    with contextlib.suppress(EncoderError):
        _classifier(encoder, trainable_layers=max(depths.values()) + 1)
        raise AssertionError("more layers than there are were not refused")


def _train_head(encoder: str) -> None:
    assert all(name.startswith("head.") for name in _train(_classifier(encoder, trainable_layers=0)))


def _read_another_size(encoder: str) -> None:
    """What is not refused has to work."""
    model = _classifier(encoder, image_size=OTHER_SIZE)
    assert model(pixel_values=_images(2, OTHER_SIZE)).shape == (2, NUM_CLASSES)


def _obey_dropout(encoder: str) -> None:
    """With 0.5 passes of training differ, with 0 they do not but where a family moves patches at random."""
    # Where only a layer or two are left out at random, two passes may leave out the same.
    for dropout, num_others in ((0.5, 15), (0.0, 1)):
        model = _classifier(encoder, encoder_dropout=dropout, dropout=0.0).train()
        first, *others = (model(pixel_values=_images(4)) for _ in range(num_others + 1))
        moves = hasattr(model.encoder.config, "pos_embed_jitter")
        if dropout == 0.0:
            assert moves or torch.allclose(first, others[0])
        else:
            assert not all(torch.equal(first, other) for other in others)


def _export(encoder: str, folder: Path) -> None:
    """What is written predicts the same when it is read again."""
    model = _classifier(encoder).eval()
    write_classifier(model, folder, encoder=encoder)
    again = _classifier(str(folder)).eval()
    again.load_state_dict(load_file(folder / HEAD), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(again(pixel_values=_images(3)), model(pixel_values=_images(3)), rtol=1e-4, atol=1e-5)
