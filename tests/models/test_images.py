"""Image encoders: what is trained, what is refused, and what a lone image does to batch normalisation."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    CLIPConfig,
    DetrConfig,
    EfficientNetConfig,
    PoolFormerConfig,
    ViTConfig,
    ViTMAEConfig,
)

from fold_search.models.errors import EncoderError
from fold_search.models.images import ImageClassifier, check_image_encoder, load_normalisation
from fold_search.models.params import ModelParams
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import EFFICIENTNET, VIT, build_tiny_image_encoder


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> str:
    return str(build_tiny_image_encoder(tmp_path_factory.mktemp("vit"), ViTConfig(**VIT)))


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory) -> str:
    return str(build_tiny_image_encoder(tmp_path_factory.mktemp("efficientnet"), EfficientNetConfig(**EFFICIENTNET)))


def classifier(encoder: str, **params) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(ModelParams(encoder=encoder, **{"image_size": 16, **params}), num_outputs=3)


def trained(model: ImageClassifier) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def error_of(encoder: str, **settings) -> str:
    with pytest.raises(EncoderError) as caught:
        check_image_encoder(encoder, **{"image_size": 16, **settings})
    return str(caught.value)


def test_pooled_states_are_the_encoders_own(vit, efficientnet):
    """A transformer's patches are averaged, or its first token stands for all; a network pools its maps itself."""
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(vit).eval()(images).last_hidden_state
        own = AutoModel.from_pretrained(efficientnet).eval()(images).pooler_output
        for encoder, pooling, expected in (
            (vit, "mean", tokens.mean(1)),
            (vit, "max", tokens.amax(1)),
            (vit, "cls", tokens[:, 0]),
            (efficientnet, "mean", own),
        ):
            pooled = classifier(encoder, pooling=pooling).eval().pooled(pixel_values=images)
            torch.testing.assert_close(pooled, expected)


def test_top_layers_are_trained_with_what_is_above_them(vit, efficientnet):
    """Of two layers or blocks one is trained, with the last normalisation, and nothing below."""
    names = trained(classifier(vit, trainable_layers=1))
    assert {name.split(".")[1] for name in names if name.startswith("encoder.")} == {"layers", "layernorm"}
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"1"}
    names = trained(classifier(efficientnet, trainable_layers=1))
    assert {".".join(name.split(".")[2:4]) for name in names if name.startswith("encoder.")} >= {"blocks.2"}
    assert any("top_conv" in name for name in names)
    assert not any("embeddings" in name or "blocks.0" in name for name in names)


def test_all_weights_are_trained_but_the_unused_ones(vit):
    """A pooler's weights would get no gradient."""
    model = classifier(vit)
    model(pixel_values=torch.randn(2, 3, 16, 16)).sum().backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}
    assert trained(model) == {name for name, _ in model.named_parameters()} - without


def test_depths_rise_from_the_head_to_the_first_weights(vit):
    """The top layer is at 1, the patches' weights are the deepest."""
    depths = classifier(vit).depths()
    assert depths["head.linear.weight"] == 0
    assert {depths[name] for name in depths if "layers.1." in name} == {1}
    assert {depths[name] for name in depths if "layers.0." in name} == {2}
    assert depths["encoder.embeddings.cls_token"] == 3


def test_frozen_batch_normalisation_learns_nothing(efficientnet):
    """Statistics of frozen blocks stay what they were, those of trained ones move."""
    model = classifier(efficientnet, trainable_layers=1).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(pixel_values=torch.randn(4, 3, 16, 16) + 3)
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert any("top_bn" in name for name in moved)
    assert not any("blocks.0" in name or "embeddings" in name for name in moved)


def test_one_image_alone_can_be_trained_on(efficientnet):
    """Its batch has no deviation: what was seen before stands in, and is not changed."""
    model = classifier(efficientnet, encoder_dropout=0.0).train()
    image = torch.randn(1, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    pooled = model.pooled(pixel_values=image)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    torch.testing.assert_close(pooled, model.eval().pooled(pixel_values=image))


def test_architecture_alone_is_initialised_from_the_random_state(tmp_path):
    """config: takes a folder or a file, of any image size; the same seed gives the same weights."""
    ViTConfig(**VIT).save_pretrained(tmp_path)
    first, second = (classifier(f"config:{path}", image_size=24) for path in (tmp_path, tmp_path / "config.json"))
    assert first.encoder.config.image_size == 24
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.parameters(), second.parameters(), strict=True))


def test_a_network_from_random_weights_tells_images_apart(tmp_path):
    """Its normalisations begin at 1: what comes out of the blocks of an EfficientNet is not next to nothing."""
    EfficientNetConfig(**EFFICIENTNET).save_pretrained(tmp_path)
    pooled = classifier(f"config:{tmp_path}").train().pooled(pixel_values=torch.randn(8, 3, 16, 16))
    assert pooled.std(dim=0).mean() > 0.01


def test_other_image_sizes_are_interpolated(vit):
    """A pretrained transformer reads images of a size that it was not made for."""
    assert classifier(vit, image_size=32)(pixel_values=torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_normalisation_is_the_image_processors(vit, tmp_path):
    """preprocessor_config.json says it; ImageNet's stands in."""
    assert load_normalisation(vit)[0].tolist() == pytest.approx([0.485, 0.456, 0.406])
    ViTConfig(**VIT).save_pretrained(tmp_path)
    said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    mean, deviation = load_normalisation(f"config:{tmp_path}")
    assert mean.tolist() == pytest.approx(said["image_mean"])
    assert deviation.tolist() == pytest.approx(said["image_std"])


def test_what_cannot_be_used_is_refused(vit, efficientnet, tmp_path):
    """One line each: no weights, random ones that would be frozen, too many layers, sizes, poolings, no images."""
    ViTConfig(**VIT).save_pretrained(tmp_path)
    assert f"config:{tmp_path} trains its architecture" in error_of(str(tmp_path))
    assert "trainable_layers is 1, but its weights are random" in error_of(f"config:{tmp_path}", trainable_layers=1)
    assert error_of(vit, trainable_layers=3).endswith("trainable_layers is 3, it has 2")
    assert "images of 3 x 3 pixels" in error_of(vit, image_size=3)
    assert "pooling is cls, but it makes feature maps" in error_of(efficientnet, pooling="cls")
    assert "pooling is attention" in error_of(vit, pooling="attention")
    assert error_of(str(build_tiny_encoder(Path(tmp_path, "text")))).endswith("bert is no image encoder")
    assert "there is no file nowhere" in error_of("config:nowhere")


def test_layers_are_told_by_the_order_in_which_they_run(tmp_path):
    """A PoolFormer keeps the patches of its stages in a list too, which comes first."""
    config = PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8])
    encoder = str(build_tiny_image_encoder(tmp_path, config))
    names = trained(classifier(encoder, trainable_layers=1, image_size=64))
    assert {name.split(".")[2:4] == ["block", "3"] for name in names if name.startswith("encoder.")} == {True}


def test_the_part_of_a_clip_that_sees_is_used(tmp_path):
    """With its weights, and without those that read texts."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**small, "vocab_size": 9}, vision_config={**small, **VIT, "projection_dim": 8})
    encoder = str(build_tiny_image_encoder(tmp_path, config))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(encoder).eval().vision_model(images).last_hidden_state.mean(1)
        torch.testing.assert_close(classifier(encoder).eval().pooled(pixel_values=images), expected)
    assert not any("text" in name for name, _ in classifier(encoder).named_parameters())


def test_a_masked_autoencoder_sees_the_whole_image(tmp_path):
    """Not a quarter of it, another one each time."""
    encoder = str(build_tiny_image_encoder(tmp_path, ViTMAEConfig(**VIT)))
    model, images = classifier(encoder).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=images), model(pixel_values=images))
        assert len(model.encoder(images).last_hidden_state[0]) == 17


def test_dropout_is_obeyed_or_refused(vit, tmp_path):
    """Also where the configuration does not name it; a network in which nothing is dropped says so."""
    config = EfficientNetConfig(**EFFICIENTNET | {"num_block_repeats": [1, 1]})
    network = str(build_tiny_image_encoder(tmp_path, config))
    assert "encoder_dropout is 0.3, but nothing in efficientnet is dropped" in error_of(network, dropout=0.3)
    probabilities = {
        module.p for module in classifier(vit, encoder_dropout=0.3, dropout=0.3).modules() if hasattr(module, "p")
    }
    assert probabilities == {0.3}


def test_a_detector_is_no_image_encoder(tmp_path):
    """Its last states are those of the objects that it looks for."""
    DetrConfig().save_pretrained(tmp_path)
    assert "detr looks for objects in an image" in error_of(f"config:{tmp_path}")
