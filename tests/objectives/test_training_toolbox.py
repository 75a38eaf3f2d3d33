"""The toolbox through the training of a fold: what each setting promises is what the epochs do."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.folds import assign_folds, split
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import EpochScore, FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.text import TextInputs, prepare_text
from fold_search.objectives.training.fold import FoldTraining
from tests.tiny_encoder import build_tiny_encoder

SILENT = {"dropout": 0.0, "encoder_dropout": 0.0}
STILL = {"learning_rate": 1e-12, "weight_decay": 0.0, "warmup_ratio": 0.0, "model": SILENT}
SAMPLERS = (
    "none",
    "random_over",
    "minority_over",
    "random_under",
    "near_miss",
    "tomek_links",
    "enn",
    "smote",
    "smote_enn",
    "class_balanced_batches",
)


@pytest.fixture(scope="module")
def train(inputs: TextInputs, make_job: Callable[..., FoldJob]) -> Callable[..., FoldTraining]:
    """Build a training, not begun, of the first of three folds."""

    def train(**settings) -> FoldTraining:
        return FoldTraining(make_job(**settings), inputs=inputs, device="cpu")

    return train


def run(training: FoldTraining) -> FoldTraining:
    list(training.epochs())
    return training


def predictions_by(training: FoldTraining, weights: dict[str, torch.Tensor]) -> np.ndarray:
    """Return what the training's model makes of its validation rows with these weights, computed without `predict`."""
    module, rows = training.network.module.eval(), training.job.validation_rows
    whole = dict(module.named_parameters()) | weights
    with torch.no_grad():
        own = training.network.feed.batch(rows)
        logits = torch.func.functional_call(module, whole, args=(), kwargs=own)
    return logits.softmax(dim=1).numpy()


def scored(epoch: int, *, log_loss: float, macro_f1: float = 0.5) -> EpochScore:
    metrics = {"val_log_loss": log_loss, "val_macro_f1": macro_f1}
    return EpochScore(epoch=epoch, score=macro_f1, standing=macro_f1, metrics=metrics, seconds=0.0)


# Patience, the chosen epoch, the plateau


def test_patience_ends_a_fold_before_its_last_epoch(train):
    """After two epochs that are no better than the first; whoever continues from there has nothing left to train."""
    settings = {**STILL, "epochs": 9, "patience": 2}
    stopped, restored = run(train(**settings)), train(**settings)
    assert [score.epoch for score in stopped.scores] == [1, 2, 3]
    assert stopped.finished
    assert stopped.best.epoch == 1
    restored.restore(stopped.save())
    assert restored.finished
    assert run(restored).scores == stopped.scores


def test_without_patience_all_epochs_are_trained(train):
    """However little they bring."""
    assert len(run(train(**STILL, epochs=4)).scores) == 4


@pytest.mark.parametrize(("epoch_metric", "best_of"), [("log_loss", min), ("accuracy", max)])
def test_the_epoch_metric_chooses_the_epoch_and_the_standing_follows_it(train, epoch_metric, best_of):
    """At every epoch, the standing is the study's score of the epoch that is best by the other metric so far."""
    training = run(train(epoch_metric=epoch_metric, epochs=8, learning_rate=2e-2, schedule="constant"))
    chosen = [score.metrics[f"val_{epoch_metric}"] for score in training.scores]
    scores = [score.score for score in training.scores]
    best = [chosen.index(best_of(chosen[: last + 1])) for last in range(len(chosen))]
    assert [score.standing for score in training.scores] == [scores[index] for index in best]
    assert training.best.epoch == best[-1] + 1


def test_the_chosen_epoch_need_not_have_the_best_score(train):
    """The other metric alone decides."""
    training = train(epoch_metric="log_loss")
    training.scores = [scored(1, log_loss=0.5, macro_f1=0.6), scored(2, log_loss=0.7, macro_f1=0.9)]
    assert (training.best.epoch, training.best.score) == (1, 0.6)


def test_an_epoch_may_be_chosen_that_scores_worse(train):
    """The log loss decides, whatever the study's metric says; one that is no number is never chosen."""
    training = train(epoch_metric="log_loss")
    training.scores = [
        scored(1, log_loss=math.nan, macro_f1=0.9),
        scored(2, log_loss=0.7, macro_f1=0.8),
        scored(3, log_loss=0.6, macro_f1=0.3),
        scored(4, log_loss=0.6, macro_f1=0.9),
    ]
    assert training.best.epoch == 3


def test_the_predictions_kept_are_those_of_the_chosen_epoch(train):
    """Their log loss is the lowest of all epochs'."""
    training = run(train(metric="log_loss", epochs=8, learning_rate=2e-2, schedule="constant"))
    job = training.job
    of_truth = training.best_predictions[np.arange(18), job.labels[job.validation_rows]]
    assert -np.log(of_truth).mean() == pytest.approx(min(score.score for score in training.scores), rel=1e-5)


def test_plateau_lowers_the_learning_rate_after_epochs_that_are_no_better(train):
    """By decay_factor, after each epoch that did not beat the first, down to the floor."""
    settings = {**STILL, "schedule": "plateau", "plateau_patience": 0, "decay_factor": 0.5, "epochs": 5}
    rates = [score.metrics["learning_rate"] / 1e-12 for score in run(train(**settings)).scores]
    assert rates == pytest.approx([1, 1, 0.5, 0.25, 0.125])


# Averages, R-Drop, rates by layer


def test_predictions_come_from_the_moving_average(train):
    """The scores are those of the averaged weights, and training goes on from the others."""
    training = run(train(ema_decay=0.9, learning_rate=1e-2))
    tensors = training.optimiser.tensors()
    averages = {name.removeprefix("average/"): value for name, value in tensors.items() if name.startswith("average/")}
    assert averages.keys() == training.network.trained.keys()
    check_averaged(training, averages)


def test_predictions_come_from_the_schedule_free_average(train):
    """x = y + (1 - 1 / beta) (z - y) of the weights y and the optimiser's z (Defazio et al. 2024)."""
    training = run(train(optimiser="schedule_free_adamw", learning_rate=1e-2))
    tensors = training.optimiser.tensors()
    averages = {name: y + (1 - 1 / 0.9) * (tensors[f"z/{name}"] - y) for name, y in training.network.trained.items()}
    check_averaged(training, averages)


def check_averaged(training: FoldTraining, averages: dict[str, torch.Tensor]) -> None:
    rows = training.job.validation_rows
    expected = predictions_by(training, averages)
    np.testing.assert_allclose(training.predict(rows), expected, atol=1e-5)
    assert np.abs(expected - predictions_by(training, {})).max() > 1e-3
    of_truth = expected[np.arange(len(rows)), training.job.labels[rows]]
    assert training.scores[-1].metrics["val_log_loss"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-4)


def test_r_drop_passes_each_batch_twice(train):
    """Without dropout both passes agree and nothing is added; with it, it is another loss."""
    plain, dropped = run(train(model=SILENT)), train(rdrop_alpha=2.0, model=SILENT)
    passes = []
    dropped.network.module.head.register_forward_hook(lambda module, *_: passes.append(module.training))
    run(dropped)
    assert sum(passes) == 2 * sum(len(step) for epoch in (1, 2, 3) for step in dropped.passes.steps(epoch))
    for one, other in zip(plain.scores, dropped.scores, strict=True):
        assert one.metrics["train_loss_running"] == pytest.approx(other.metrics["train_loss_running"], rel=1e-4)
    noisy, noisier = run(train(epochs=1, rdrop_alpha=1e-9)), run(train(epochs=1, rdrop_alpha=50.0))
    assert noisier.scores[0].metrics["train_loss_running"] > noisy.scores[0].metrics["train_loss_running"]


def test_layer_decay_reaches_every_weight(train):
    """The head has the learning rate, each layer below half of what is above it, the embeddings least."""
    settings = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.1, "learning_rate": 0.3}
    training = train(layer_decay=0.5, **settings)
    training.passes.backward(training.passes.steps(1)[0], epoch=1, step=0)
    before = {name: weight.detach().clone() for name, weight in training.network.trained.items()}
    training.optimiser.step(1.0)
    factors = {"head.": 1, "encoder.encoder.layer.1.": 1 / 2, "encoder.encoder.layer.0.": 1 / 4}
    for name, weight in training.network.trained.items():
        (factor,) = [value for prefix, value in factors.items() if name.startswith(prefix)] or [1 / 8]
        moved = weight.grad + (0.1 if weight.ndim > 1 else 0.0) * before[name]
        assert moved.any(), name
        torch.testing.assert_close(before[name] - weight, 0.3 * factor * moved, rtol=1e-4, atol=1e-7)


# Samplers and augmentation


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_touches_a_validation_row(train, sampler):
    """The proof says so, and it counts what the first epoch's batches really hold."""
    training = train(sampler=sampler, sampler_ratio=0.8)
    job, proof = training.job, training.sample
    batches = [batch for step in training.passes.steps(1) for batch in step]
    trained = np.concatenate([np.concatenate([batch.rows, batch.partners]) for batch in batches])
    assert proof.num_validation_rows_used == 0
    assert not set(trained.tolist()) & set(job.validation_rows.tolist())
    assert proof.rows_in.tolist() == job.training_rows.tolist()
    assert set(trained.tolist()) <= set(proof.rows_out.tolist()) <= set(proof.rows_in.tolist())
    rows = np.concatenate([batch.rows for batch in batches])
    assert proof.counts_after.tolist() == np.bincount(job.labels[rows], minlength=3).tolist()
    assert proof.num_synthetic == sum((batch.rows != batch.partners).sum() for batch in batches)
    assert (sampler == "none") == (proof.counts_after.tolist() == proof.counts_before.tolist())


def test_class_balanced_batches_are_drawn_anew_every_epoch(train):
    """As many rows of each class, and other ones of the larger classes."""
    training = train(sampler="class_balanced_batches")
    epochs = [np.concatenate([b.rows for step in training.passes.steps(epoch) for b in step]) for epoch in (1, 2, 3)]
    for one, other in pairwise(epochs):
        assert np.bincount(training.job.labels[one], minlength=3).tolist() == [12, 12, 12]
        assert sorted(one) != sorted(other)


def test_what_is_evaluated_is_never_augmented(train):
    """With the same weights, the strongest augmentation predicts what none does, and has the same losses."""
    settings = {**STILL, "epochs": 1}
    plain = train(**settings)
    changed = train(**settings, token_deletion=0.9, token_swap=0.9, token_masking=0.9, minority_augmentation=9.0)
    (one,), (other,) = plain.epochs(), changed.epochs()
    for name in ("train_loss", "val_loss"):
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-5)
    assert one.metrics["train_loss_running"] != pytest.approx(other.metrics["train_loss_running"], rel=1e-5)
    np.testing.assert_allclose(plain.best_predictions, changed.best_predictions, atol=1e-6)


def test_an_extra_row_that_repeats_a_validation_text_stays_out_of_that_fold(tmp_path, dataset):
    """In the other folds it is trained on, as every other extra row is everywhere; none is ever validated."""
    (tmp_path / "data.csv").write_text(
        "\n".join(["text,label", *(f"{text},x{n % 2}" for n, text in enumerate("abcdef"))])
    )
    (tmp_path / "more.csv").write_text("text,label\n B ,x1\nnew,x0\n")
    spec = DataSpec(path=tmp_path / "data.csv", label="label", text=("text",), extra=tmp_path / "more.csv")
    rows = read_dataset(spec)
    folds = np.array([0, 1, 0, 1, 2, 2, -1, -1], dtype=np.int16)
    trained = {fold: split(folds, rows.groups, fold)[0].tolist() for fold in range(3)}
    assert trained == {0: [1, 3, 4, 5, 6, 7], 1: [0, 2, 4, 5, 7], 2: [0, 1, 2, 3, 6, 7]}


# A numeric label


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FoldTraining]:
    """Build trainings on 60 texts whose label is linear in how many of their words are `cash`."""
    folder = tmp_path_factory.mktemp("numbers")
    rows = [
        (" ".join(["cash"] * (row % 6) + ["fox"] * (5 - row % 6) + [f"number {row}"]), row % 6) for row in range(60)
    ]
    encoder = build_tiny_encoder(folder / "encoder", [text for text, _ in rows])

    def counted(*, unit: float = 100.0, offset: float = 1e4, metric: str = "mae", **training) -> FoldTraining:
        path = Path(folder, f"{unit:g}-{offset:g}.csv")
        path.write_text("\n".join(["text,label", *(f"{text},{offset + unit * count!r}" for text, count in rows)]))
        dataset = read_dataset(DataSpec(path=path, label="label", text=("text",), task="regression"))
        folds = assign_folds(dataset.strata, dataset.groups, num_folds=3, seed=0, stratified=True)
        settings = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 8, "loss": "mse"} | training
        job = FoldJob(
            params=Params(model=ModelParams(encoder=str(encoder), max_length=24), training=TrainingParams(**settings)),
            goal=Goal(metric=metric, epoch_metric=metric),
            labels=dataset.labels,
            label_names=(),
            training_rows=np.flatnonzero(folds != 0),
            validation_rows=np.flatnonzero(folds == 0),
            seed=3,
        )
        inputs = prepare_text(dataset, encoder=str(encoder), max_length=24, cache=folder / "cache")
        return FoldTraining(job, inputs=inputs, device="cpu")

    return counted


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_a_numeric_label_is_learnt_in_its_own_unit(counted, loss):
    """Predictions are one number a row, near the label's own; the metrics are theirs."""
    training = run(counted(loss=loss, epochs=20))
    job, predictions = training.job, training.best_predictions
    truth = job.labels[job.validation_rows]
    assert predictions.shape == (len(truth), 1)
    errors = predictions[:, 0] - truth
    assert np.abs(errors).mean() < 40  # of a range from 10,000 to 10,500
    metrics = training.best.metrics
    assert metrics["val_mae"] == training.best.score == pytest.approx(np.abs(errors).mean())
    assert metrics["val_mse"] == pytest.approx((errors**2).mean())
    assert metrics["val_r2"] == pytest.approx(1 - (errors**2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert training.best.score == min(score.score for score in training.scores)


def test_a_numeric_label_is_standardised_inside(counted):
    """Its unit and its offset change neither the losses nor the share of the variance that is explained."""
    one, other = run(counted()), run(counted(unit=0.5, offset=-3.0))
    for metric, factor in (("val_loss", 1), ("train_loss_running", 1), ("val_r2", 1), ("val_mae", 200)):
        values, others = ([score.metrics[metric] for score in training.scores] for training in (one, other))
        assert values == pytest.approx([factor * value for value in others], rel=2e-3, abs=1e-4)
    assert one.sample.counts_before.tolist() == []
    assert one.sample.num_validation_rows_used == 0


@pytest.mark.parametrize("settings", [{}, {"rdrop_alpha": 1.0, "ema_decay": 0.9, "schedule": "plateau"}])
def test_a_numeric_label_is_continued_exactly(counted, settings):
    """Bit for bit, from a checkpoint in a fresh object."""
    settings |= {"loss": "huber", "metric": "r2", "epochs": 3}
    undisturbed, stopped, restored = run(counted(**settings)), counted(**settings), counted(**settings)
    next(stopped.epochs())
    restored.restore(stopped.save())
    run(restored)
    assert restored.best_predictions.tolist() == undisturbed.best_predictions.tolist()
    assert [replace(s, seconds=0, metrics={}) for s in restored.scores] == [
        replace(s, seconds=0, metrics={}) for s in undisturbed.scores
    ]
    for name, weight in undisturbed.network.trained.items():
        assert torch.equal(weight, restored.network.trained[name])
