"""A model folder predicts what the training predicted, and is refused when it is not what was written."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from fold_search.models.classifiers import TextClassifier, mean_pool
from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.errors import ModelError, TrialError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.predicting.exported import (
    DESCRIPTION,
    HEAD,
    Description,
    ExportedModel,
    Member,
    trained_classifier,
    write_classifier,
)
from fold_search.objectives.scoring.calibration import apply_temperature
from fold_search.objectives.tasks.text import TextInputs
from fold_search.objectives.training.fold import FoldTraining, read_weights
from tests.objectives.limited_memory import room_for

Train = Callable[..., FoldTraining]


@pytest.fixture(scope="module")
def train(inputs: TextInputs, make_job: Callable[..., FoldJob], dataset: Dataset) -> Train:
    """Train two epochs of the first of three folds; `numbers` for a numeric label."""

    def train(*, numbers: bool = False, **settings) -> FoldTraining:
        job = make_job(**{"epochs": 2, "learning_rate": 1e-2, **settings})
        if numbers:
            job = replace(job, label_names=(), labels=100.0 + 30.0 * dataset.labels)
        training = FoldTraining(job, inputs=inputs, device="cpu")
        list(training.epochs())
        return training

    return train


def write(
    folder: Path, *trainings: FoldTraining, inputs: TextInputs, dataset: Dataset, temperature: float = 1.0
) -> Path:
    """Write a model folder of which each training is a member."""
    members = []
    for number, training in enumerate(trainings):
        job = training.job
        classifier = trained_classifier(job, read_weights(training.best_weights, job=job), inputs=inputs, device="cpu")
        checksums = write_classifier(classifier, folder / f"fold-{number}", encoder=inputs.encoder)
        mean, deviation = job.label_scale
        members.append(
            Member(
                folder=f"fold-{number}",
                fold=number,
                epochs=2,
                score=0.5,
                class_counts=(1, 1, 1),
                mean=mean,
                deviation=deviation,
                checksums=checksums,
            )
        )
    description = Description(
        form="ensemble",
        study="nouns",
        trial=0,
        task=job.task,
        label_names=job.label_names,
        data=dataset.spec,
        params=job.params,
        max_length=24,
        goal=job.goal,
        fold_scores=(0.5, 0.5),
        pooled={},
        temperature=temperature,
        members=tuple(members),
        packages={},
        fingerprints={},
    )
    (folder / DESCRIPTION).write_text(description.model_dump_json())
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.9},
        {"model": {"trainable_layers": 0}},
        {"model": {"trainable_layers": 1, "pooling": "cls"}},
        {"model": {"encoder_dropout": 0.3}, "loss": "ldam"},
        {"numbers": True, "loss": "mse", "metric": "mae"},
    ],
    ids=["all", "averaged", "head", "top layer", "cosine head", "numbers"],
)
def test_an_exported_model_predicts_what_was_trained(train, inputs, dataset, tmp_path, settings):
    """The validation rows at the best epoch, to 1e-5, whatever of the model was trained."""
    training = train(**settings)
    model = ExportedModel(write(tmp_path, training, inputs=inputs, dataset=dataset), device="cpu")
    predicted = model.predict(dataset)[training.job.validation_rows]
    np.testing.assert_allclose(predicted, training.best_predictions, rtol=1e-5, atol=1e-5)


def test_members_vote_and_plain_transformers_loads_them(train, inputs, dataset, tmp_path):
    """The mean of the members' probabilities, which transformers and a matrix product give too, at the temperature."""
    folder = write(tmp_path, train(), train(seed=6), inputs=inputs, dataset=dataset, temperature=1.7)
    votes = []
    for name in ("fold-0", "fold-1"):
        encoder = AutoModel.from_pretrained(folder / name, add_pooling_layer=False).eval()
        tokens = AutoTokenizer.from_pretrained(folder / name)(list(dataset.texts), padding=True, return_tensors="pt")
        head = load_file(folder / name / HEAD)
        with torch.no_grad():
            pooled = mean_pool(encoder(**tokens).last_hidden_state, tokens["attention_mask"])
        logits = pooled @ head["head.linear.weight"].T + head["head.linear.bias"]
        votes.append(logits.softmax(dim=1).numpy())
    assert np.abs(votes[0] - votes[1]).max() > 0.01
    expected = apply_temperature(np.mean(votes, axis=0), 1.7)
    model = ExportedModel(folder, device="cpu", batch_size=5)
    np.testing.assert_allclose(model.predict(dataset), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(dataset), expected, atol=1e-5)  # a second chunk, with what is loaded


@pytest.mark.parametrize(("layers", "passes"), [(0, 1), (1, 2)])
def test_members_with_one_frozen_encoder_share_its_pass(train, inputs, dataset, tmp_path, monkeypatch, layers, passes):
    """The encoder runs once a batch where the heads alone differ, and each member votes as it would by itself."""
    trainings = [train(seed=seed, model={"trainable_layers": layers}) for seed in (5, 6)]
    model = ExportedModel(write(tmp_path / "both", *trainings, inputs=inputs, dataset=dataset), device="cpu")
    alone = [
        ExportedModel(write(tmp_path / f"{number}", training, inputs=inputs, dataset=dataset), device="cpu")
        for number, training in enumerate(trainings)
    ]
    votes = [one.predict(dataset) for one in alone]
    np.testing.assert_allclose(model.predict(dataset), np.mean(votes, axis=0), atol=1e-6)
    assert np.abs(votes[0] - votes[1]).max() > 0.001
    read, pooled = [], TextClassifier.pooled
    monkeypatch.setattr(TextClassifier, "pooled", lambda self, **batch: read.append(self) or pooled(self, **batch))
    ExportedModel(tmp_path / "both", device="cpu", batch_size=len(dataset.texts)).predict(dataset)
    assert len(read) == passes


def test_predictions_are_made_in_smaller_parts_where_memory_is_short(train, inputs, dataset, tmp_path, monkeypatch):
    """And found to be the same; without room for one row there is one line, and no prediction."""
    folder = write(tmp_path, train(), inputs=inputs, dataset=dataset)
    expected = ExportedModel(folder, device="cpu").predict(dataset)
    with monkeypatch.context() as small:
        small.setattr(TextClassifier, "pooled", room_for(5, TextClassifier.pooled))
        np.testing.assert_allclose(ExportedModel(folder, device="cpu").predict(dataset), expected, atol=1e-5)
    monkeypatch.setattr(TextClassifier, "pooled", room_for(0, TextClassifier.pooled))
    with pytest.raises(
        ModelError, match="not even one row at a time fits into memory: out of memory on cpu: tried to allocate 9 GiB"
    ):
        ExportedModel(folder, device="cpu").predict(dataset)


def test_a_model_is_as_readable_as_other_files(train, inputs, dataset, tmp_path):
    """Whoever may read the configuration may read the weights."""
    folder = write(tmp_path, train(), inputs=inputs, dataset=dataset) / "fold-0"
    assert len({(folder / name).stat().st_mode for name in ("config.json", "model.safetensors", HEAD)}) == 1


def test_weights_of_another_shape_of_model_are_refused(train, inputs):
    """A name that the model does not have is told."""
    job = train().job
    with pytest.raises(TrialError, match=r"do not fit the model: head\.other"):
        trained_classifier(job, {"head.other": torch.zeros(1)}, inputs=inputs, device="cpu")


def damage(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / DESCRIPTION).read_text())
    change(content)
    (folder / DESCRIPTION).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / DESCRIPTION).unlink(), "is not an exported model: it has no model.json"),
        (lambda folder: (folder / DESCRIPTION).write_text("{"), "model.json: is damaged: not JSON"),
        (lambda folder: damage(folder, lambda d: d.update(format=99)), "found format 99, expected 1"),
        (lambda folder: damage(folder, lambda d: d.update(format="1\n")), r"found format '1\\n', expected 1"),
        (lambda folder: damage(folder, lambda d: d.pop("members")), "model.json: is damaged: members: Field required"),
        (lambda folder: (folder / "fold-0" / HEAD).unlink(), "head.safetensors: cannot be read: No such file"),
        (
            lambda folder: os.truncate(folder / "fold-0" / "model.safetensors", 1000),
            "model.safetensors: is damaged: found sha256",
        ),
        (lambda folder: (folder / "fold-0" / "config.json").unlink(), "config.json: cannot be read: No such file"),
        (
            lambda folder: os.truncate(folder / "fold-0" / "tokenizer.json", 1000),
            "tokenizer.json: is damaged: found sha256",
        ),
        (
            lambda folder: damage(folder, lambda d: d["params"]["model"].update(depth=3)),
            "model.json: found params.model.depth, which is not known here: a newer version exported it",
        ),
        (
            lambda folder: damage(folder, lambda d: d["params"].update({"a\nb": 1})),
            r"found params\.'a\\nb', which is not known here",
        ),
        (
            lambda folder: damage(folder, lambda d: d["members"][0].update(base="fold-1")),
            "model.json: is damaged: : Value error, fold-0 needs 'fold-1', which is no whole member",
        ),
        (
            lambda folder: damage(folder, lambda d: d["members"][0].update(base="../fold-0")),
            "model.json: is damaged: members.0.base: Value error, leads out of the model's folder",
        ),
    ],
    ids=[
        "missing",
        "no JSON",
        "format",
        "format of two lines",
        "key",
        "no weights",
        "weights",
        "no config",
        "tokenizer",
        "newer",
        "key of two lines",
        "no base",
        "base outside",
    ],
)
def test_a_damaged_folder_is_refused(train, inputs, dataset, tmp_path, change, expected):
    """Before anything is predicted, with the file and what was expected."""
    folder = write(tmp_path, train(), inputs=inputs, dataset=dataset)
    change(folder)
    with pytest.raises(ModelError, match=expected):
        ExportedModel(folder, device="cpu")


def test_a_folder_without_a_newer_key_is_read(train, inputs, dataset, tmp_path):
    """What an older version did not write has the value that it went by."""
    folder = write(tmp_path, train(), inputs=inputs, dataset=dataset)
    expected = ExportedModel(folder, device="cpu").predict(dataset)
    damage(folder, lambda content: content["params"]["model"].pop("morphemes"))
    np.testing.assert_array_equal(ExportedModel(folder, device="cpu").predict(dataset), expected)
