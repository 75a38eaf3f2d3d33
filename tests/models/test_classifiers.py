"""What of the classifier is trained, and what it computes."""

import pytest
import torch

from fold_search.models.classifiers import Pooling, TextClassifier, mean_pool
from fold_search.models.params import ModelParams
from fold_search.models.reading import encoder_layers

TOKENS = torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
INPUTS = {"input_ids": TOKENS, "attention_mask": MASK}
ADAPTED = {"lora": {"lora_rank": 3}, "reinit": {"reinit_layers": 1, "pooling": "attention"}}


@pytest.fixture
def build(tiny_encoder):
    def build(scale: float | None = None, **params) -> TextClassifier:
        torch.manual_seed(7)
        return TextClassifier(
            ModelParams(encoder=str(tiny_encoder), max_length=16, **params), num_outputs=4, scale=scale
        )

    return build


def test_mean_pool_leaves_padding_out():
    """Only tokens that the mask keeps count."""
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    assert mean_pool(hidden, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "attention"])
def test_padding_does_not_change_the_logits(build, pooling):
    """A text's logits do not depend on the longest text beside it."""
    model = build(pooling=pooling).eval()
    if pooling == "attention":
        torch.nn.init.normal_(model.pooling.query)
    together = model(**INPUTS)
    alone = model(input_ids=TOKENS[1:, :3], attention_mask=MASK[1:, :3])
    torch.testing.assert_close(together[1:], alone)
    assert together.shape == (2, 4)


def test_pooling_reads_the_states_it_names():
    """The mean, the first, the maximum of each coordinate, or the mean weighted by the softmax of a score."""
    hidden = torch.tensor([[[1.0, 6.0], [3.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    found = {kind: Pooling(kind, 2)(hidden, mask).tolist() for kind in ("mean", "cls", "max")}
    assert found == {"mean": [[2.0, 4.0]], "cls": [[1.0, 6.0]], "max": [[3.0, 6.0]]}
    attention = Pooling("attention", 2)
    assert attention(hidden, mask).tolist() == found["mean"]
    with torch.no_grad():
        attention.query[0] = torch.log(torch.tensor(3.0)) / 2
    torch.testing.assert_close(attention(hidden, mask), torch.tensor([[2.5, 3.0]]))


def test_windows_of_a_row_are_averaged_after_pooling(build):
    """A row's state is the mean of its windows', and it may have more of them than go forward at once."""
    model = build(pooling="max").eval()
    tokens, mask = TOKENS.repeat(20, 1), MASK.repeat(20, 1)
    row_of_window = torch.tensor([0] * 39 + [1])
    each = model.pooled(**INPUTS)
    with torch.no_grad():
        found = model.pooled(input_ids=tokens, attention_mask=mask, row_of_window=row_of_window)
    torch.testing.assert_close(found, torch.stack([(20 * each[0] + 19 * each[1]) / 39, each[1]]))


def test_same_seed_gives_the_same_head(build):
    """The head is drawn from torch's random state, of which nothing else takes."""
    heads = [build(**params).head.linear.weight for params in ({}, ADAPTED["lora"], ADAPTED["reinit"])]
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("layers", "trained"),
    [(0, {"head"}), (1, {"head", "encoder.layer.1"}), (2, {"head", "encoder.layer.0", "encoder.layer.1"})],
)
def test_only_the_top_layers_and_the_head_get_gradients(build, layers, trained):
    """Everything below the trained layers stays as it was pretrained."""
    model = build(trainable_layers=layers)
    model(**INPUTS).sum().backward()
    names = [name.removeprefix("encoder.") for name, weight in model.named_parameters() if weight.grad is not None]
    assert {name[:4] if name.startswith("head") else name[:15] for name in names} == trained


def test_everything_is_trained_by_default(build):
    """Null trains the embeddings, too."""
    model = build()
    model(**INPUTS).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_backward_ends_at_the_lowest_trained_layer(build):
    """No graph is recorded for frozen layers, so that they cost a forward pass only."""
    model = build(trainable_layers=1)
    recorded = []
    for layer in encoder_layers(model.encoder):
        layer.register_forward_hook(lambda module, inputs, output: recorded.append(output.requires_grad))
    model(**INPUTS)
    assert recorded == [False, True]


def test_frozen_layers_stay_in_evaluation_mode(build):
    """Dropout is on where weights are trained, and nowhere else."""
    model = build(trainable_layers=1).train()
    assert [layer.training for layer in encoder_layers(model.encoder)] == [False, True]
    assert model.head.training
    assert not model.encoder.embeddings.training
    assert not any(module.training for module in model.eval().modules())


def test_depths_count_from_the_head_down(build):
    """The head, the layers from the top, and the embeddings below them all."""
    depths = build(pooling="attention").depths()
    found = {name.split(".attention")[0]: depth for name, depth in depths.items() if "query.weight" in name}
    assert found == {"encoder.encoder.layer.1": 1, "encoder.encoder.layer.0": 2}
    assert {depth for name, depth in depths.items() if name.startswith(("head.", "pooling."))} == {0}
    assert {depth for name, depth in depths.items() if "embeddings" in name} == {3}


def test_a_head_with_a_scale_gives_scaled_cosines(build):
    """Neither the length of a state nor that of a class's weights counts."""
    model = build(scale=20.0).eval()
    states = model.pooled(**INPUTS)
    expected = 20 * torch.cosine_similarity(states[:, None], model.head.linear.weight[None], dim=2)
    torch.testing.assert_close(model(**INPUTS), expected)
    torch.testing.assert_close(model.head(states), model.head(3 * states))
