"""The relation classifier: new tokens' own embeddings, and the states where the entities begin."""

from dataclasses import replace

import pytest
import torch

from fold_search.models.encoders import load_encoder, load_tokenizer
from fold_search.models.params import ModelParams
from fold_search.models.relations import ExtendedEmbedding, NewTokens, RelationClassifier, add_tokens

MEANINGS = {"[S]": "subject fox", "[/S]": "end subject"}
TEXT = "the [S] quick fox [/S] jumps"


@pytest.fixture
def tokenizer(tiny_encoder):
    return load_tokenizer(str(tiny_encoder))


@pytest.fixture
def new(tokenizer) -> NewTokens:
    return add_tokens(tokenizer, MEANINGS)


def build(encoder, new: NewTokens, **model) -> RelationClassifier:
    torch.manual_seed(0)
    params = ModelParams(encoder=str(encoder), max_length=32, **model)
    return RelationClassifier(params, new_tokens=new, num_outputs=3).eval()


def inputs(tokenizer) -> dict[str, torch.Tensor]:
    batch = tokenizer([TEXT, "[S] fox [/S]"], padding=True, return_tensors="pt")
    batch["marks"] = torch.zeros_like(batch["input_ids"])
    batch["marks"][0, 2], batch["marks"][1, 1] = 2, 2
    batch["marks"][0, 5], batch["marks"][1, 3] = 3, 3
    return {name: batch[name] for name in ("input_ids", "attention_mask", "marks")}


def test_new_tokens_are_whole_and_start_as_what_they_mean(tiny_encoder, tokenizer, new):
    """Each is one token, and its row the mean of the rows of its meaning's pieces; known rows are as they were."""
    assert len(new) == 2
    assert new.first == load_encoder(str(tiny_encoder)).config.vocab_size
    assert tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"])[2] == "[S]"
    known = load_encoder(str(tiny_encoder)).get_input_embeddings()
    embedding = ExtendedEmbedding(known, new)
    pieces = load_tokenizer(str(tiny_encoder))("subject fox", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[3, new.first]])
    expected = torch.stack([known.weight[3], known.weight[pieces].mean(dim=0)])
    torch.testing.assert_close(embedding(ids)[0], expected)
    torch.testing.assert_close(embedding.merged()(ids)[0], expected)


def test_merged_it_is_a_plain_encoder_that_says_the_same(tiny_encoder, tokenizer, new, tmp_path):
    """Saved with a completed tokenizer, it needs nothing of ours: the embedding has a row for each token."""
    model = build(tiny_encoder, new)
    torch.nn.init.normal_(model.encoder.get_input_embeddings().new.weight)
    merged, plain_tokenizer = model.merged(), load_tokenizer(str(tiny_encoder))
    merged.complete(plain_tokenizer)
    merged.encoder.save_pretrained(tmp_path)
    plain_tokenizer.save_pretrained(tmp_path)
    batch = load_tokenizer(str(tmp_path))([TEXT], return_tensors="pt")
    assert batch["input_ids"].tolist() == tokenizer([TEXT])["input_ids"]
    states = load_encoder(str(tmp_path)).eval()(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    del batch["token_type_ids"]
    torch.testing.assert_close(model.pooled(**batch, marks=batch["attention_mask"]), states.mean(dim=1))
    assert isinstance(model.encoder.get_input_embeddings(), ExtendedEmbedding)


def test_new_rows_stand_where_the_tokenizer_puts_them(tiny_encoder, new):
    """Also where it has ids that the encoder has no rows for."""
    embedding = ExtendedEmbedding(
        load_encoder(str(tiny_encoder)).get_input_embeddings(), replace(new, first=new.first + 3)
    )
    ids = torch.tensor([5, new.first + 3, new.first + 4])
    torch.testing.assert_close(embedding.merged()(ids), embedding(ids))


@pytest.mark.parametrize(("trainable_layers", "trained"), [(None, True), (1, True), (0, False)])
def test_new_rows_are_trained_with_the_top_layers(tiny_encoder, tokenizer, new, trainable_layers, trained):
    """Gradients reach them through frozen layers, and none of the other rows unless all is trained."""
    model = build(tiny_encoder, new, trainable_layers=trainable_layers)
    model.train()
    model(**inputs(tokenizer)).sum().backward()
    embedding = model.encoder.get_input_embeddings()
    reached = embedding.new.weight.grad is not None and bool(embedding.new.weight.grad.abs().sum(dim=1).all())
    assert reached == trained
    assert (embedding.known.weight.grad is not None) == (trainable_layers is None)
    depths = model.depths()
    assert depths["encoder.embeddings.word_embeddings.new.weight"] == 3


def test_the_head_sees_the_states_where_the_entities_begin(tiny_encoder, tokenizer, new):
    """Both side by side; where an entity has no token, the first token's."""
    model = build(tiny_encoder, new, entity_states="entities")
    batch = inputs(tokenizer)
    batch["marks"][1, 3] = 0
    hidden = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    expected = torch.stack([torch.cat([hidden[0, 2], hidden[0, 5]]), torch.cat([hidden[1, 1], hidden[1, 0]])])
    torch.testing.assert_close(model.pooled(**batch), expected)
    assert model(**batch).shape == (2, 3)
    torch.testing.assert_close(build(tiny_encoder, new, pooling="cls").pooled(**batch), hidden[:, 0])
