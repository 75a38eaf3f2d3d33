"""The column ensemble: what each column says, and how it is fused."""

import pytest
import torch

from fold_search.models.classifiers import TextClassifier
from fold_search.models.columns import ColumnClassifier
from fold_search.models.params import ModelParams

TITLE = {"input_ids": torch.tensor([[2, 10, 3], [2, 11, 3]]), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}
TITLE_EN = {
    "input_ids": torch.tensor([[2, 12, 13, 3], [2, 14, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}
# One name begins with the other.
COLUMNS = {"title": TITLE, "title_en": TITLE_EN}
INPUTS = {f"{column}/{name}": tensor for column, inputs in COLUMNS.items() for name, tensor in inputs.items()}
ALL = torch.ones(2, 2, dtype=torch.bool)


@pytest.fixture
def build(tiny_encoder):
    def build(*, num_readers: int = 2, scale: float | None = None, **params) -> ColumnClassifier:
        torch.manual_seed(7)
        model = ModelParams(encoder=str(tiny_encoder), max_length=16, **params)
        return ColumnClassifier(
            [TextClassifier(model, num_outputs=3) for _ in range(num_readers)],
            dropouts={"title": 0.0, "title_en": 0.5},
            width=32,
            fusion_width=8,
            num_outputs=3,
            scale=scale,
        )

    return build


@pytest.mark.parametrize("num_readers", [1, 2])
def test_each_column_is_read_and_classified_by_itself(build, num_readers):
    """What the head sees are the columns' own logits side by side; then come two layers with a ReLU."""
    model = build(num_readers=num_readers).eval()
    readers = [model.readers[0], model.readers[-1]]
    said = [
        classify.linear(reader.pooled(**inputs))
        for reader, classify, inputs in zip(readers, model.classifiers, COLUMNS.values(), strict=True)
    ]
    torch.testing.assert_close(model.pooled(**INPUTS, present=ALL), torch.cat(said, dim=1))
    hidden = model.head[0](torch.cat(said, dim=1)).relu()
    torch.testing.assert_close(model(**INPUTS, present=ALL), model.head[2].linear(hidden))


def test_each_column_has_its_own_dropout(build):
    """In training only the column whose probability is above 0 varies."""
    model = build().train()
    for reader in model.readers:
        reader.eval()
    first, second = model.pooled(**INPUTS, present=ALL), model.pooled(**INPUTS, present=ALL)
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])


def test_a_learned_vector_stands_for_a_missing_cell(build):
    """Whatever tokens stand in its place; it gets a gradient, and only where a cell is missing."""
    model = build().eval()
    torch.nn.init.normal_(model.missing)
    present = torch.tensor([[True, False], [True, True]])
    other = INPUTS | {"title_en/input_ids": torch.tensor([[2, 20, 21, 3], [2, 14, 3, 0]])}
    said = model.pooled(**INPUTS, present=present)
    assert torch.equal(said, model.pooled(**other, present=present))
    assert torch.equal(said[0, 3:], model.missing[3:])
    model(**INPUTS, present=present).sum().backward()
    assert model.missing.grad[:3].eq(0).all()
    assert model.missing.grad[3:].ne(0).any()


def test_a_shared_encoder_is_there_once(build):
    """One encoder for both columns, half the weights, or one for each."""
    shared, separate = build(num_readers=1), build()
    size = sum(weight.numel() for weight in shared.readers.parameters())
    assert sum(weight.numel() for weight in separate.readers.parameters()) == 2 * size
    # The first reader reads only what it is for.
    separate.pooled(**INPUTS, present=ALL)[:, 3:].sum().backward()
    assert all(not weight.grad.any() for weight in separate.readers[0].parameters() if weight.grad is not None)


def test_depths_are_counted_below_the_columns_classifiers(build):
    """All that is new is at 0, the top layer of each encoder at 1, its embeddings lowest; every weight has one."""
    model = build(trainable_layers=1)
    depths = model.depths()
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert {depth for name, depth in depths.items() if not name.startswith("readers.")} == {0}
    assert depths["readers.1.encoder.encoder.layer.1.output.dense.weight"] == 1
    assert depths["readers.0.encoder.embeddings.word_embeddings.weight"] == 3


def test_scaled_logits_are_cosines(build):
    """With a scale the last layer has no bias, and no logit is larger than the scale."""
    model = build(scale=5.0).eval()
    assert model.head[2].linear.bias is None
    assert model(**INPUTS, present=ALL).abs().max() <= 5.0
