"""The frozen lower layers: run once a study, and nothing of it shows in the scores."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertModel

from fold_search.objectives.params import Params
from fold_search.objectives.tasks import prefix
from fold_search.objectives.tasks.text import TextInputs, prepare_text
from fold_search.objectives.training.fold import FoldTraining


@pytest.fixture
def fresh(dataset, inputs, tmp_path) -> TextInputs:
    """The rows, whole, with a cache of their own."""
    return prepare_text(dataset, encoder=inputs.encoder, max_length=24, cache=tmp_path / "cache", whole=True)


@pytest.fixture
def losses(fresh, make_job):
    """Train two epochs; return the losses and what was trained, by name."""

    def losses(**model) -> tuple[list[float], dict[str, torch.Tensor]]:
        job = make_job(epochs=2)
        settings = {"trainable_layers": 1, "encoder_dropout": 0.2} | model
        params = Params(model=job.params.model.model_copy(update=settings), training=job.params.training)
        training = FoldTraining(replace(job, params=params), inputs=fresh, device="cpu")
        scores = [score.metrics[name] for score in training.epochs() for name in ("train_loss_running", "val_loss")]
        return scores, training.network.trained

    return losses


def folders(fresh: TextInputs) -> list[str]:
    return [path.name for path in fresh.cache.iterdir() if path.name.startswith("prefix-")]


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"max_length": 6, "pooling": "max", "reinit_layers": 1},
        {"max_length": 6, "long_text": "windows", "gradient_checkpointing": True},
        {"trainable_layers": 0, "pooling": "attention"},
    ],
    ids=["plain", "cut", "windows", "attention"],
)
def test_losses_are_those_of_the_whole_encoder(fresh, losses, monkeypatch, model):
    """With dropout in the trained layers, and the same names of what is trained."""
    monkeypatch.setattr(TextInputs, "prefix", lambda *_, **__: None)
    expected, weights = losses(**model)
    monkeypatch.undo()
    lower, calls = prefix.lower_states, []
    monkeypatch.setattr(prefix, "lower_states", lambda *a, **b: calls.append(1) or lower(*a, **b))
    found, cached = losses(**model)
    assert found == pytest.approx(expected, abs=1e-5)
    assert weights.keys() == cached.keys()
    assert all(torch.allclose(weights[name], cached[name], atol=1e-4) for name in weights)
    num_calls = len(calls)
    assert num_calls > 0
    assert losses(**model)[0] == found
    assert len(calls) == num_calls


def test_states_are_mapped_from_the_cache(fresh):
    """float32, one for each token of each row, and computed once."""
    first = fresh.prefix({"max_length": 24, "long_text": "head", "overlap": 0.0}, num_layers=1)
    assert isinstance(first.states, np.memmap)
    assert first.states.shape == (len(fresh.tokens.ids), 32)
    assert first.states.dtype == np.float32
    batch = first.batch(np.array([9, 0]))
    assert batch["attention_mask"].sum(dim=1).tolist() == fresh.tokens.lengths(np.array([9, 0]), max_length=24).tolist()
    assert batch["states"].dtype == torch.float32
    assert not batch["states"][batch["attention_mask"] == 0].any()


def test_trials_that_differ_above_the_prefix_share_it(fresh, losses):
    """Depth and what is read decide it; pooling, dropout and new layers do not."""
    losses()
    losses(pooling="cls", dropout=0.4, reinit_layers=1)
    assert len(folders(fresh)) == 1
    losses(max_length=7)
    assert len(folders(fresh)) == 2


def test_encoder_without_a_middle_is_run_as_a_whole(fresh, losses, monkeypatch):
    """What its layers return differs from what is expected of them: the scores are the whole encoder's all the same."""
    forward = BertModel.forward

    def other(self, *args, **inputs):
        output = forward(self, *args, **inputs)
        output.last_hidden_state = output.last_hidden_state + self.embeddings(inputs["input_ids"])
        return output

    monkeypatch.setattr(BertModel, "forward", other)
    found, _ = losses()
    (folder,) = folders(fresh)
    assert list((fresh.cache / folder).iterdir()) == []
    monkeypatch.setattr(TextInputs, "prefix", lambda *_, **__: None)
    assert losses()[0] == found


def test_states_that_would_fill_the_disk_are_not_kept(fresh, losses, monkeypatch, caplog):
    """The layers are run again and again instead, which is said once."""
    monkeypatch.setattr(prefix, "MAX_DISK_SHARE", 0.0)
    with caplog.at_level(logging.WARNING):
        losses()
        losses()
    assert folders(fresh) == []
    (message,) = caplog.messages
    assert "the frozen layers' states would take" in message


def test_augmented_rows_are_read_as_tokens(fresh, make_job):
    """What is changed at random in every epoch was not there when the states were computed."""
    job = make_job(token_deletion=0.2, model={"trainable_layers": 1})
    assert fresh.feed(job, device="cpu").prefix is None
    assert fresh.feed(make_job(model={"trainable_layers": 1}), device="cpu").prefix is not None
    assert fresh.feed(make_job(model={"trainable_layers": 2}), device="cpu").prefix is None
    assert fresh.feed(make_job(model={"lora_rank": 2}), device="cpu").prefix is None
