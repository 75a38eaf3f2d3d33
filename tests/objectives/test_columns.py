"""Columns as inputs: tokens and lengths of their own, missing cells, frozen states, and a training on them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.predicting.exported import (
    DESCRIPTION,
    Description,
    ExportedModel,
    Member,
    trained_classifier,
    write_classifier,
)
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.columns import ColumnInputs
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import FoldTraining, read_weights
from tests.tiny_encoder import build_tiny_encoder

LENGTHS = {"title": 5, "title en": 10}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """48 rows whose class is whether both columns name an animal; every sixth has no second column: a class apart."""
    path = tmp_path_factory.mktemp("data") / "columns.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "title en", "label"])
        for row in range(48):
            first, second = ("fox", "worm")[row % 2], ("dog", "cash")[row // 2 % 2]
            label = "both" if (first, second) == ("fox", "dog") else "other"
            missing = row % 6 == 5
            words = ["  " if missing else f"the {second} " + "the " * (row % 5)]
            writer.writerow([f"the {first} number {row}", *words, "missing" if missing else label])
    return read_dataset(DataSpec(path=path, label="label", text=("title", "title en")))


@pytest.fixture(scope="module")
def encoder(dataset, tmp_path_factory) -> str:
    return str(build_tiny_encoder(tmp_path_factory.mktemp("encoder"), dataset.texts))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def train(dataset, encoder, cache):
    """Build a training, not begun, of the first of three folds; `model` holds model settings."""
    folds = assign_folds(dataset.labels, dataset.groups, num_folds=3, seed=0, stratified=True)

    def train(*, model: dict | None = None, **training) -> FoldTraining:
        settings = {"max_length": 24, "column_max_length": LENGTHS, "fusion_width": 16} | (model or {})
        params = ModelParams(encoder=encoder, architecture="columns", **settings)
        training = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8} | training
        job = FoldJob(
            params=Params(model=params, training=TrainingParams(**training)),
            goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
            labels=dataset.labels,
            label_names=tuple(dataset.label_names),
            training_rows=np.flatnonzero(folds != 0),
            validation_rows=np.flatnonzero(folds == 0),
            seed=5,
        )
        inputs = prepare(dataset, params=params, max_length=24, cache=cache, device="cpu")
        assert isinstance(inputs, ColumnInputs)
        return FoldTraining(job, inputs=inputs, device="cpu")

    return train


@pytest.fixture(scope="module")
def inputs(dataset, encoder, cache) -> ColumnInputs:
    params = ModelParams(encoder=encoder, architecture="columns", column_max_length={"title": 5})
    return prepare(dataset, params=params, max_length=24, cache=cache, device="cpu")


@pytest.mark.parametrize("shared", [True, False])
def test_it_learns_what_only_both_columns_tell(train, shared):
    """And that a missing cell is a class of its own."""
    training = train(epochs=25, learning_rate=5e-3, batch_size=4, model={"shared_encoder": shared, "dropout": 0.0})
    list(training.epochs())
    assert training.best.score > 0.95


def test_each_column_has_its_own_length(train, inputs):
    """The one that is named, else the trial's max_length; a row costs the tokens of all of them."""
    feed = train().network.feed
    row = np.array([9])
    batch = feed.batch(row)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "title/input_ids": (1, 5),
        "title/attention_mask": (1, 5),
        "title en/input_ids": (1, 8),
        "title en/attention_mask": (1, 8),
        "present": (1, 2),
    }
    assert feed.lengths(row).tolist() == [13]
    shorter = train(model={"max_length": 6, "column_max_length": {"title": 5}}).network.feed
    assert shorter.lengths(row).tolist() == [11]


@pytest.mark.parametrize(
    "model",
    [
        {"long_text": "windows", "window_overlap": 0.5},
        {"lora_rank": 2, "lora_targets": "all"},
        {"lora_rank": 2, "long_text": "windows", "shared_encoder": False},
        {"trainable_layers": 1, "long_text": "windows"},
        {"trainable_layers": 0, "long_text": "head_tail"},
    ],
    ids=["windows", "lora", "lora on windows", "top layer on windows", "head on ends"],
)
def test_lengths_of_columns_go_with_long_texts_and_with_lora(train, dataset, tmp_path, model):
    """It trains, no line is longer than its column's, and the exported model predicts what was trained."""
    training = train(model={"column_max_length": {"title": 5, "title en": 6}, **model})
    list(training.epochs())
    feed, job = training.network.feed, training.job
    batch = feed.batch(np.arange(48))
    lengths = {name: tensor.shape[1] for name, tensor in batch.items() if name.endswith("input_ids")}
    assert lengths in ({"title/input_ids": 5, "title en/input_ids": 6}, {})
    assert ("title en/row_of_window" in batch) == (model.get("long_text") == "windows")
    inputs = prepare(dataset, params=job.params.model, max_length=24, cache=tmp_path / "cache", device="cpu")
    weights = read_weights(training.best_weights, job=job)
    classifier = trained_classifier(job, weights, inputs=inputs, device="cpu")
    folder = tmp_path / "model"
    checksums = write_classifier(classifier, folder / "fold-0", encoder=inputs.encoder)
    (folder / DESCRIPTION).write_text(described(training, dataset, checksums).model_dump_json())
    predicted = ExportedModel(folder, device="cpu").predict(dataset)[job.validation_rows]
    np.testing.assert_allclose(predicted, training.best_predictions, rtol=1e-5, atol=1e-5)


def described(training: FoldTraining, dataset: Dataset, checksums: dict[str, str]) -> Description:
    """Describe a training as the only member of a model."""
    job = training.job
    member = Member(folder="fold-0", fold=0, epochs=2, score=0.5, class_counts=(1, 1, 1), checksums=checksums)
    return Description(
        form="fold",
        study="columns",
        trial=0,
        task=job.task,
        label_names=job.label_names,
        data=dataset.spec,
        params=job.params,
        max_length=24,
        goal=job.goal,
        fold_scores=(0.5, 0.5),
        pooled={},
        temperature=1.0,
        members=(member,),
        packages={},
        fingerprints={},
    )


def test_white_space_is_a_missing_cell(inputs, dataset):
    """Every sixth row has no second column."""
    assert inputs.present[:, 0].all()
    assert np.array_equal(~inputs.present[:, 1], np.arange(48) % 6 == 5)


@pytest.mark.parametrize("shared", [True, False])
def test_head_only_training_reads_each_columns_states_from_the_cache(train, shared):
    """Its probabilities are those of the whole ensemble with the same classifiers."""
    training = train(model={"trainable_layers": 0, "shared_encoder": shared})
    list(training.epochs())
    assert not any(name.startswith("readers.") for name in training.network.trained)
    whole = train(model={"trainable_layers": 1, "shared_encoder": shared})
    missing, unexpected = whole.network.module.load_state_dict(dict(training.network.trained), strict=False)
    assert all(name.startswith("readers.") for name in missing)
    assert not unexpected
    rows = training.job.validation_rows
    torch.testing.assert_close(torch.tensor(training.predict(rows)), torch.tensor(whole.predict(rows)))


def test_it_continues_exactly_from_a_checkpoint(train):
    """A shared encoder is saved once, and restored for all columns."""
    settings = {"epochs": 3, "token_masking": 0.1}
    undisturbed = [score.metrics["val_loss"] for score in train(**settings).epochs()]
    begun, resumed = train(**settings), train(**settings)
    next(begun.epochs())
    resumed.restore(begun.save())
    assert [score.metrics["val_loss"] for score in resumed.epochs()] == undisturbed[1:]


def test_neighbours_are_looked_for_in_all_columns(inputs):
    """A row's point has length 1; a missing column takes no part in it."""
    points = inputs.embeddings()
    torch.testing.assert_close(torch.tensor(points).norm(dim=1), torch.ones(48))
    alone = np.array([inputs.columns["title"].embeddings()[5]])
    np.testing.assert_allclose(points[5:6], np.concatenate([alone, np.zeros_like(alone)], axis=1), rtol=1e-6)


def test_synthetic_rows_are_mixed_from_what_the_columns_say(train):
    """SMOTE goes together with the ensemble."""
    training = train(sampler="smote", sampler_ratio=1.0, model={"trainable_layers": 0})
    assert training.sample.num_synthetic > 0
    list(training.epochs())
