"""Memory that runs out: fewer rows pass at once, the scores are the same, and the next training knows."""

import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from transformers import BertModel

from fold_search.models.classifiers import TextClassifier
from fold_search.objectives.errors import NO_KERNEL, OutOfMemory
from fold_search.objectives.training.fold import FoldTraining
from tests.objectives import limited_memory
from tests.objectives.limited_memory import room_for


@pytest.fixture
def train(inputs, make_job):
    """Build a training, not begun, of the first of three folds; `known` is what it is told of memory."""

    def train(*, known=None, remember=lambda shape, rows: None, **settings) -> FoldTraining:
        job = make_job(**settings)
        return FoldTraining(job, inputs=inputs, device="cpu", rows_that_fit=known or {}, remember=remember)

    return train


def test_batches_that_do_not_fit_into_memory_are_split(train, monkeypatch):
    """A device with room for three rows gives what one with room for eight does."""
    settings = {"epochs": 1, "model": {"dropout": 0.0, "encoder_dropout": 0.0}}
    (roomy,) = train(**settings).epochs()
    monkeypatch.setattr(TextClassifier, "pooled", room_for(3, TextClassifier.pooled, training=True))
    (small,) = train(**settings).epochs()
    assert small.metrics["train_loss_running"] == pytest.approx(roomy.metrics["train_loss_running"], rel=1e-4)


def test_a_process_with_little_memory_gives_the_scores_of_one_with_much(tmp_path):
    """The kernel refuses memory: fewer rows pass at once; whoever knows how many fit meets no such limit again."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        limited, again = processes.submit(limited_memory.train_within, tmp_path, headroom=100_000_000).result()
    free = limited_memory.train(tmp_path)
    limited_memory.check_same(free, limited, again, rel=1e-4)
    measured = [{**metrics, "rows_per_second": 0} for metrics in (limited.metrics[1], again.metrics[1])]
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="oneDNN compiles no such kernel")
def test_rows_pass_that_fit_after_memory_ended_within_a_compilation():
    """OneDNN remembers for ever that it had no memory to compile a kernel; what needs less is passed all the same."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        error, row = processes.submit(limited_memory.activate_with_memory_from_the_second_try).result()
    assert error == NO_KERNEL
    assert row == pytest.approx([0.8413447] * 200, rel=1e-6)


def test_a_pass_without_gradients_is_split_too(train, monkeypatch):
    """Evaluation has a number of rows of its own, which is remembered by the same shape."""
    tried = []
    free, small = train(), train(remember=lambda *noted: tried.append(noted))
    (expected, *_) = free.epochs()
    monkeypatch.setattr(TextClassifier, "pooled", room_for(9, TextClassifier.pooled, training=False))
    (found, *_) = small.epochs()
    assert [(shape.partition(":")[0], rows) for shape, rows in tried] == [("evaluation", 16), ("evaluation", 8)]
    assert found.metrics["val_loss"] == pytest.approx(expected.metrics["val_loss"], rel=1e-5)


def test_the_random_numbers_of_a_step_that_is_begun_anew_are_the_same(train, monkeypatch):
    """Whoever runs out of memory and whoever knows beforehand draw the same dropout."""
    monkeypatch.setattr(TextClassifier, "pooled", room_for(4, TextClassifier.pooled, training=True))
    found = {}
    (surprised, *_) = train(remember=found.__setitem__).epochs()
    (warned, *_) = train(known=found).epochs()
    assert list(found.values()) == [4]
    assert surprised.metrics["train_loss_running"] == warned.metrics["train_loss_running"]


def test_a_device_without_room_for_one_row_ends_the_trial(train, monkeypatch):
    """Out of memory is the configuration's failure, not the worker's."""
    monkeypatch.setattr(TextClassifier, "pooled", room_for(0, TextClassifier.pooled))
    with pytest.raises(OutOfMemory, match="out of memory on cpu: tried to allocate 9 GiB"):
        list(train().epochs())


def test_the_states_of_frozen_layers_are_computed_in_smaller_parts(inputs, tmp_path, monkeypatch):
    """Pooled, and those of the lower layers alone: whoever has room for five rows gets what all others get."""
    cut = {"max_length": 24, "long_text": "head", "overlap": 0.0}
    roomy = replace(inputs, cache=tmp_path / "roomy")
    expected = roomy.pooled(pooling="mean", **cut), roomy.prefix(cut, num_layers=1).states
    monkeypatch.setattr(BertModel, "forward", room_for(5, BertModel.forward))
    small = replace(inputs, cache=tmp_path / "small")
    found = small.pooled(pooling="mean", **cut), small.prefix(cut, num_layers=1).states
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
