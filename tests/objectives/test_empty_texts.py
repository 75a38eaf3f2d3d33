"""Texts of which a tokenizer leaves nothing: trained on, predicted and cached like any other, and never NaN."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from fold_search.models.classifiers import Pooling
from fold_search.models.encoders import load_tokenizer
from fold_search.models.params import ModelParams
from fold_search.models.relations import NewTokens
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.relations import MarkedText
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.cache import digest
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.tasks.relation import tokenise_marked
from fold_search.objectives.tasks.text import tokenise
from fold_search.objectives.training.fold import FoldTraining
from tests.one_member import export
from tests.tiny_encoder import build_tiny_encoder

END = 256
SETTINGS = {
    "mean": {},
    "max": {"pooling": "max"},
    "attention": {"pooling": "attention"},
    "windows": {"long_text": "windows", "max_length": 8},
    "head": {"trainable_layers": 0},
    "head and attention": {"trainable_layers": 0, "pooling": "attention"},
    "top layer": {"trainable_layers": 1},
    "lora": {"lora_rank": 2},
    "columns": {"architecture": "columns"},
    "head of columns": {"architecture": "columns", "trainable_layers": 0},
    "deletion": {"token_deletion": 0.5},
    "swap": {"token_swap": 0.5},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A tiny GPT-2, whose tokenizer adds no tokens of its own to a text, and leaves nothing of a zero-width space."""
    folder = tmp_path_factory.mktemp("gpt")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|end|>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.normalizer = normalizers.Replace("\u200b", "")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=64)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """32 rows of two columns; of 16 of them nothing is left, which fills whole batches."""
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    rows = [["", "", "\u200b", f"text number {row}"][row // 2 % 4] for row in range(32)]
    path.write_text("\n".join(["title,body,label", *(f"{row},,{'ab'[n % 2]}" for n, row in enumerate(rows)), ""]))
    return read_dataset(DataSpec(path=path, label="label", text=("title", "body")))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_rows_of_nothing_are_trained_on_and_predicted(dataset, encoder, tmp_path, settings):
    """What an exported model says of a row is finite, is what was validated, and no matter of the rows beside it."""
    changes = {name: value for name, value in settings.items() if name.startswith("token_")}
    model = ModelParams(
        **{"encoder": encoder, "max_length": 24} | {k: settings[k] for k in settings if k not in changes}
    )
    inputs = prepare(dataset, params=model, max_length=model.max_length, cache=tmp_path / "cache", device="cpu")
    job = FoldJob(
        params=Params(model=model, training=TrainingParams(epochs=1, batch_size=4, **changes)),
        goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
        labels=dataset.labels,
        label_names=tuple(dataset.label_names),
        training_rows=np.arange(16),
        validation_rows=np.arange(16, 32),
        seed=1,
    )
    training = FoldTraining(job, inputs=inputs, device="cpu")
    (score,) = training.epochs()
    assert np.isfinite(score.metrics["train_loss"])
    assert np.isfinite(inputs.embeddings()).all()
    exported = export(training, tmp_path / "model", job=job, inputs=inputs, dataset=dataset)
    found = exported.predict(dataset)
    np.testing.assert_allclose(found[16:], training.best_predictions, atol=1e-5)
    nothing = [row for row in range(32) if not dataset.texts[row].strip("\u200b ")]
    assert len(nothing) == 24
    columns = {name: [cells[row] for row in nothing] for name, cells in dataset.columns.items()}
    alone = replace(dataset, texts=[dataset.texts[row] for row in nothing], columns=columns)
    np.testing.assert_allclose(exported.predict(alone), found[nothing], atol=1e-5)


def test_the_tokenizers_own_token_stands_for_nothing(encoder, tmp_path):
    """It counts as one token, also where no row has any other; what is not empty is as it was."""
    tokens = tokenise(["", "ab", "\u200b"], encoder=encoder, max_length=8, cache=tmp_path)
    batch = tokens.batch(np.arange(3), max_length=8)
    assert batch["input_ids"][[0, 2], 0].tolist() == [END, END]
    assert batch["attention_mask"].sum(dim=1).tolist() == [1, 2, 1]
    only = tokenise(["", "\u200b"], encoder=encoder, max_length=8, cache=tmp_path)
    assert only.ids.tolist() == [END, END]


def test_relations_of_nothing_have_a_token(encoder, tmp_path):
    """A tokenizer may leave nothing of a sentence, or of its entities."""
    texts = [MarkedText("\u200b", spans=((0, 1),), subject=0, object=0)] * 2
    tokenizer = load_tokenizer(encoder)
    tokens = tokenise_marked(texts, tokenizer=tokenizer, new=NewTokens(257, (), ()), max_length=8, cache=tmp_path)
    batch = tokens.batch(np.arange(2), max_length=8)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[END], [END]],
        "attention_mask": [[1], [1]],
        "marks": [[0], [0]],
    }


def test_tokens_that_an_earlier_version_cached_are_not_taken(encoder, tmp_path):
    """They had no token for such a text; where the tokenizer adds its own, they had, and stay in use."""
    texts = ["", "ab"]

    def earlier(name: str) -> str:
        return digest([load_tokenizer(name).backend_tokenizer.to_str(), "8", *texts])

    assert tokenise(texts, encoder=encoder, max_length=8, cache=tmp_path).key != earlier(encoder)
    bert = str(build_tiny_encoder(tmp_path / "bert"))
    assert tokenise(texts, encoder=bert, max_length=8, cache=tmp_path).key == earlier(bert)


@pytest.mark.parametrize("kind", ["mean", "cls", "max", "attention"])
def test_pooled_states_of_nothing_are_0(kind):
    """And so are their gradients, beside a row of something."""
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    pooled = Pooling(kind, 4)(hidden, torch.tensor([[0, 0, 0], [1, 1, 0]]))
    pooled.square().sum().backward()
    assert not pooled[0].any()
    assert not hidden.grad[0].any()
    assert hidden.grad.isfinite().all()
    assert hidden.grad[1].any()
