"""Layers begun anew, low-rank updates, and activations that are computed again."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from fold_search.models.classifiers import TextClassifier
from fold_search.models.encoders import load_encoder
from fold_search.models.errors import EncoderError
from fold_search.models.params import ModelParams
from fold_search.models.reading import encoder_layers, lower_states, upper_states

TOKENS = torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
INPUTS = {"input_ids": TOKENS, "attention_mask": MASK}
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
FAMILIES = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
}


@pytest.fixture
def build(tiny_encoder):
    def build(**params) -> TextClassifier:
        torch.manual_seed(7)
        return TextClassifier(ModelParams(encoder=str(tiny_encoder), max_length=16, **params), num_outputs=4)

    return build


def gradients(model: TextClassifier) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model(**INPUTS).square().sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_only_the_top_layers_start_anew(build, tiny_encoder):
    """Their matrices are drawn as before pretraining, from the seed; everything below is as it was."""
    before, model = load_encoder(str(tiny_encoder)), build(reinit_layers=1)
    changed = {
        name.split(".attention")[0].split(".output")[0].split(".intermediate")[0]
        for name, weight in model.encoder.named_parameters()
        if not torch.equal(weight, before.get_parameter(name))
    }
    assert changed == {"encoder.layer.1"}
    weight = encoder_layers(model.encoder)[1].intermediate.dense.weight
    assert weight.std().item() == pytest.approx(before.config.initializer_range, rel=0.1)
    assert torch.equal(weight, encoder_layers(build(reinit_layers=1).encoder)[1].intermediate.dense.weight)


def test_more_new_layers_than_there_are_is_refused(build):
    """The message names the setting."""
    with pytest.raises(EncoderError, match="reinit_layers is 3, the encoder has 2"):
        build(reinit_layers=3)


@pytest.mark.parametrize(
    ("targets", "updated"),
    [
        ("attention", {"query", "key", "value", "output"}),
        ("all", {"query", "key", "value", "output", "intermediate"}),
    ],
)
def test_lora_trains_its_updates_and_the_head_alone(build, targets, updated):
    """Two small matrices a linear layer; at first the model is the pretrained one."""
    model = build(lora_rank=3, lora_targets=targets, dropout=0.0, encoder_dropout=0.0)
    torch.testing.assert_close(model(**INPUTS), build(dropout=0.0, encoder_dropout=0.0)(**INPUTS))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(gradients(model)) == set(trained)
    inside = {name: weight for name, weight in trained.items() if not name.startswith("head")}
    assert all(3 in weight.shape and ".lora_" in name for name, weight in inside.items())
    assert {name.split(".lora_")[0].removesuffix(".dense").rsplit(".", 1)[1] for name in inside} == updated
    assert {model.depths()[name] for name in inside} == {1, 2}


def test_merged_updates_give_the_same_logits_under_the_encoders_own_names(build):
    """What is exported is a plain model, and the one that is trained goes on as it is."""
    model = build(lora_rank=3, lora_alpha=7.0).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    merged = model.merged()
    torch.testing.assert_close(merged(**INPUTS), model(**INPUTS), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(**INPUTS), build().eval()(**INPUTS), atol=1e-3)
    assert merged.state_dict().keys() == build().state_dict().keys()
    assert any("lora" in name for name in model.state_dict())


def test_activations_computed_again_give_the_same_gradients(build):
    """Dropout is on, and drawn again as it was."""
    kept, again = (build(dropout=0.2, encoder_dropout=0.2, gradient_checkpointing=flag).train() for flag in (0, 1))
    calls = []
    encoder_layers(again.encoder)[0].attention.register_forward_hook(lambda *_: calls.append(1))
    expected, found = gradients(kept), gradients(again)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert len(calls) == 2


def test_activations_computed_again_leave_frozen_layers_out(build):
    """Backward ends at the lowest trained layer here, too."""
    model, recorded = build(trainable_layers=1, gradient_checkpointing=True).train(), []
    for layer in encoder_layers(model.encoder):
        layer.register_forward_hook(lambda module, inputs, output: recorded.append(output.requires_grad))
    model(**INPUTS)
    assert recorded == [False, True]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_encoder_can_be_run_from_the_middle(family, num_layers):
    """Lower and upper part one after the other are the whole, padding left out of both."""
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(family, **SMALL | FAMILIES[family])).eval()
    whole = encoder(**INPUTS).last_hidden_state
    states = lower_states(encoder, num_layers=num_layers, **INPUTS) * MASK.unsqueeze(-1)
    found = upper_states(encoder, num_layers=num_layers, states=states, attention_mask=MASK)
    torch.testing.assert_close(found[MASK > 0], whole[MASK > 0])
    assert not torch.allclose(states[MASK > 0], whole[MASK > 0], atol=1e-3)
    torch.testing.assert_close(encoder(**INPUTS).last_hidden_state, whole)
