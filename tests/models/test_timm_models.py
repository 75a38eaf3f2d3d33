"""timm's image encoders: what is said where the extra is missing, and what they make of images where it is not."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModel

from fold_search.models import timm_models
from fold_search.models.errors import EncoderError
from fold_search.models.images import ImageClassifier, check_image_encoder, load_normalisation
from fold_search.models.params import ModelParams


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def vit(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A transformer for 224 pixels as timm saves it, its weights drawn at random."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("vit_tiny_patch16_224"), folder, safe_serialization=True)
    return str(folder)


def classifier(encoder: str, image_size: int, **params) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(ModelParams(encoder=encoder, image_size=image_size, **params), num_outputs=3).eval()


@pytest.mark.parametrize("encoder", ["timm:resnet18", "config:timm:resnet18", "{}", "config:{}"])
def test_without_the_extra_its_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: str):
    """For a name of timm's, and for a folder with one of its models."""
    settings = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(timm_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"needs timm; expected pip install 'fold-search\[timm\]'$"):
        check_image_encoder(encoder.format(tmp_path), image_size=32)


def test_a_package_that_cannot_be_imported_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Most often for another build of torchvision than torch's."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(EncoderError, match="imported: operator torchvision::nms does not exist; expected torchvision"):
        check_image_encoder("config:timm:resnet18", image_size=32)


def test_an_unknown_model_is_refused_with_the_nearest(timm):
    """Whether it is pretrained or not."""
    for encoder in ("timm:resnet81", "config:timm:resnet81"):
        with pytest.raises(EncoderError, match="timm has no model 'resnet81'; did you mean 'resnet18'"):
            check_image_encoder(encoder, image_size=32)


def test_an_architecture_is_built_for_the_images(timm):
    """From random weights, of networks of any size and of transformers of one; its blocks can be told apart."""
    assert check_image_encoder("config:timm:resnet10t", image_size=32).width == 512
    assert check_image_encoder("config:timm:vit_tiny_patch16_224", image_size=32, pooling="cls").num_layers == 12
    depths = classifier("config:timm:vit_tiny_patch16_224", 32).depths()
    assert depths["encoder.timm_model.blocks.11.attn.qkv.weight"] == 1
    assert depths["encoder.timm_model.pos_embed"] == 13


def test_a_saved_model_is_read_as_timm_reads_it(timm, vit):
    """Its states, and the colours that it was trained on; images of another size are interpolated."""
    images = torch.randn(2, 3, 224, 224)
    own = timm.create_model(f"local-dir:{vit}", pretrained=True).eval()
    with torch.no_grad():
        expected = own.forward_features(images).mean(dim=1)
        torch.testing.assert_close(classifier(vit, 224).pooled(pixel_values=images), expected)
        assert classifier(vit, 64, trainable_layers=1)(pixel_values=images[:, :, :64, :64]).shape == (2, 3)
    assert load_normalisation(vit)[0].tolist() == [0.5, 0.5, 0.5]


def test_a_trained_one_is_read_again(timm, tmp_path):
    """What `search export` writes of it loads in transformers, and as an encoder."""
    images = torch.randn(2, 3, 32, 32)
    model = classifier("config:timm:vit_tiny_patch16_224", 32)
    model.encoder.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.pooled(pixel_values=images)
        torch.testing.assert_close(classifier(str(tmp_path), 32).pooled(pixel_values=images), expected)
        states = AutoModel.from_pretrained(tmp_path).eval()(pixel_values=images).last_hidden_state
        torch.testing.assert_close(states.mean(dim=1), expected)
