"""Training a fold: it learns, it scores fairly, and it continues exactly where it stopped."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fold_search.models.classifiers import Head, TextClassifier
from fold_search.objectives.errors import Diverged, TrialError
from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.scoring.metrics import METRICS
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.fold import FoldTraining, read_weights
from fold_search.objectives.training.losses import build_loss
from fold_search.objectives.training.sampling import as_sample, choose


@pytest.fixture(scope="module")
def train(inputs, make_job):
    """Build a training, not begun, of the first of three folds."""

    def train(**settings) -> FoldTraining:
        return FoldTraining(make_job(**settings), inputs=inputs, device="cpu")

    return train


@pytest.fixture(scope="module")
def trained(train) -> FoldTraining:
    """Twelve epochs of the first of three folds."""
    training = train(epochs=12, learning_rate=1e-2)
    list(training.epochs())
    return training


def repeatable(scores: list[EpochScore]) -> list[tuple]:
    """Everything of the scores but the times."""
    timed = {"rows_per_second"}
    return [(s.epoch, s.score, {k: v for k, v in s.metrics.items() if k not in timed}) for s in scores]


def weights(training: FoldTraining) -> list[float]:
    return torch.cat([weight.detach().flatten() for weight in training.network.module.parameters()]).tolist()


def test_it_learns_what_the_words_give_away(trained):
    """The validation rows are classified right, and both losses have fallen."""
    first, last = trained.scores[0], trained.scores[-1]
    assert trained.best.score > 0.95
    assert last.metrics["val_loss"] < first.metrics["val_loss"] / 2
    assert last.metrics["train_loss"] < first.metrics["train_loss"] / 2


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_head_only_training_reads_the_encoder_s_states_from_the_cache(train, inputs, pooling):
    """Its probabilities are those of the whole classifier with the same head."""
    training = train(epochs=2, model={"trainable_layers": 0, "pooling": pooling})
    list(training.epochs())
    whole = TextClassifier(training.job.params.model, num_outputs=3).eval()
    whole.head.load_state_dict(training.network.module.head.state_dict())
    rows = training.job.validation_rows
    with torch.no_grad():
        expected = whole(**inputs.tokens.batch(rows, max_length=24)).softmax(dim=1)
    torch.testing.assert_close(torch.tensor(training.predict(rows)), expected)
    assert set(training.network.trained) == {"head.linear.weight", "head.linear.bias"}


@pytest.mark.parametrize(("layers", "expected"), [(0, {1}), (1, {3})])
def test_a_head_alone_is_trained_by_one_thread(train, monkeypatch, layers, expected):
    """Whatever torch is told to use, which it is told again afterwards; an encoder is trained by all of them."""
    seen, run, before = set(), Head.forward, torch.get_num_threads()

    def forward(head: Head, pooled: torch.Tensor) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return run(head, pooled)

    monkeypatch.setattr(Head, "forward", forward)
    torch.set_num_threads(3)
    try:
        list(train(epochs=1, model={"trainable_layers": layers}).epochs())
        assert (seen, torch.get_num_threads()) == (expected, 3)
    finally:
        torch.set_num_threads(before)


def test_each_epoch_has_all_metrics(trained):
    """What trackers show: both losses on equal footing, the running one, the scores, the speed."""
    assert [score.epoch for score in trained.scores] == list(range(1, 13))
    assert set(trained.scores[0].metrics) == {
        "train_loss",
        "train_loss_running",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "val_log_loss",
        "val_macro_f1",
        "val_mcc",
        "val_weighted_f1",
        "gradient_norm",
        "learning_rate",
        "rows_per_second",
    }
    assert all(score.score == score.metrics["val_macro_f1"] for score in trained.scores)
    assert all(math.isfinite(value) for score in trained.scores for value in score.metrics.values())


def test_best_epoch_keeps_its_predictions(trained, make_job):
    """The first of the best epochs counts; its probabilities give its score."""
    job = make_job()
    scores = [score.score for score in trained.scores]
    assert trained.best.epoch == scores.index(max(scores)) + 1
    truth = job.labels[job.validation_rows]
    assert METRICS["macro_f1"](truth, trained.best_predictions, job.goal) == trained.best.score
    assert trained.best_predictions.shape == (18, 3)
    np.testing.assert_allclose(trained.best_predictions.sum(axis=1), 1, rtol=1e-5)


def test_score_is_the_studys_metric(train):
    """A study of accuracy is scored by it."""
    (score,) = train(metric="accuracy", epochs=1).epochs()
    assert score.score == score.metrics["val_accuracy"]


def test_validation_loss_is_the_trials_own_in_evaluation_mode(train, make_job, inputs):
    """It is the focal loss, smoothed and weighed as in training, without dropout, of the rows one by one."""
    settings = {"epochs": 1, "loss": "focal", "label_smoothing": 0.1, "model": {"dropout": 0.5}}
    training = train(**settings)
    (score,) = training.epochs()
    job = make_job(**settings)
    model = training.network.module.eval()
    batches = [inputs.tokens.batch(np.array([row]), max_length=24) for row in job.validation_rows]
    with torch.no_grad():
        logits = torch.cat([model(**batch) for batch in batches])
        labels = torch.tensor(job.labels[job.validation_rows])
        loss = build_loss(
            job.params.training,
            counts=job.counts(job.training_rows),
            label_names=job.label_names,
            device=torch.device("cpu"),
        )
        losses = loss.rows(logits, labels)
    assert score.metrics["val_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_training_loss_is_taken_of_the_same_original_rows_in_every_trial(train, make_job):
    """Resampling does not move the sample that both losses are compared on; each class has its share of it."""
    job, sample = make_job(), train(sampler="random_over").training_sample
    assert sample.tolist() == train(learning_rate=1e-5).training_sample.tolist()
    assert len(set(sample.tolist())) == min(len(job.training_rows), max(32, len(job.validation_rows) // 4))
    assert set(sample.tolist()) <= set(job.training_rows.tolist())
    shares = job.counts(sample) / len(sample) - job.counts(job.training_rows) / len(job.training_rows)
    assert np.abs(shares).max() <= 1 / len(sample)


def test_a_chosen_sample_has_each_row_as_often_and_the_labels_in_their_shares():
    """Numbers are spread as classes are; so the mean of a loss is that of all rows."""
    rows, numbers = np.arange(100, 400), np.random.default_rng(0).normal(size=500)
    drawn = [choose(rows, numbers, 40, seed=seed) for seed in range(2000)]
    assert all(len(np.unique(sample)) == 40 for sample in drawn)
    assert np.bincount(np.concatenate(drawn), minlength=400)[100:] == pytest.approx(2000 * 40 / 300, rel=0.3)
    means = np.array([numbers[sample].mean() for sample in drawn])
    assert means.mean() == pytest.approx(numbers[rows].mean(), abs=0.01)
    assert means.std() < numbers[rows].std() / math.sqrt(40) / 3


each_kind = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "focal", "class_weights": "class_balanced", "label_smoothing": 0.1},
        {"sampler": "random_over", "accumulation_steps": 3, "schedule": "cosine"},
        {"model": {"trainable_layers": 1, "pooling": "cls"}, "gradient_clip": None},
        {"model": {"trainable_layers": 0}, "sampler": "enn"},
        {
            "loss": "ldam",
            "class_weights": "inverse_frequency",
            "deferral": 0.5,
            "sampler": "smote",
            "sampler_ratio": 1.0,
        },
        {"precision": "bf16", "accumulation_steps": 2, "ema_decay": 0.9},
        {"optimiser": "sgd", "schedule": "plateau", "plateau_patience": 0, "rdrop_alpha": 1.0, "ema_decay": 0.9},
        {"optimiser": "schedule_free_adamw", "sampler": "class_balanced_batches", "layer_decay": 0.8},
        {"token_deletion": 0.2, "token_swap": 0.2, "token_masking": 0.1, "minority_augmentation": 2.0},
    ],
)


@each_kind
def test_interrupted_and_restored_is_undisturbed(train, settings):
    """Continued from a checkpoint in a fresh object, scores, predictions and weights are the same, bit for bit."""
    undisturbed, stopped, restored = train(**settings), train(**settings), train(**settings)
    list(undisturbed.epochs())
    next(stopped.epochs())
    torch.manual_seed(99)  # whatever else used torch's random state in between
    restored.restore(stopped.save())
    assert [score.epoch for score in restored.epochs()] == [2, 3]
    assert repeatable(restored.scores) == repeatable(undisturbed.scores)
    assert weights(restored) == weights(undisturbed)
    assert restored.best_predictions.tolist() == undisturbed.best_predictions.tolist()


@each_kind
def test_left_between_any_two_steps_and_continued_is_undisturbed(train, settings):
    """Also while it is scored, and from a fresh object each time: to the last bit, and each epoch counts once."""
    undisturbed = train(**settings)
    list(undisturbed.epochs())
    training, epochs, within = train(**settings), [], set()
    for leave_after in itertools.cycle([3, 0, 5, 1, 2, 9]):
        answers = itertools.chain(itertools.repeat(False, leave_after), itertools.repeat(True))
        epochs += [score.epoch for score in training.epochs(answers.__next__)]
        if training.finished:
            break
        checkpoint = training.save()
        within.add(unpack(checkpoint)[1].get("within_epoch", {}).get("step"))
        torch.manual_seed(99)
        training = train(**settings)
        training.restore(checkpoint)
        assert training.save() == checkpoint
    assert epochs == [1, 2, 3]
    assert len(within - {None}) >= 2
    assert repeatable(training.scores) == repeatable(undisturbed.scores)
    assert weights(training) == weights(undisturbed)
    assert training.best_predictions.tolist() == undisturbed.best_predictions.tolist()


def test_best_epoch_survives_a_restart(train):
    """An early best epoch is known, with its predictions, to whoever continues."""
    stopped, restored = train(epochs=2), train(epochs=2)
    list(stopped.epochs())
    restored.restore(stopped.save())
    assert restored.best == stopped.best
    assert restored.best_predictions.tolist() == stopped.best_predictions.tolist()
    assert restored.best_weights == stopped.best_weights
    assert list(restored.epochs()) == []


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"optimiser": "schedule_free_adamw"}])
def test_kept_weights_are_those_that_the_best_epoch_was_scored_by(train, settings):
    """In another training's model they predict what the best epoch predicted, though later epochs were trained."""
    training = train(epochs=4, patience=1, epoch_metric="log_loss", metric="accuracy", **settings)
    scores = iter([0.0, -1.0])
    for _ in training.epochs():
        training.scores[-1].metrics["val_log_loss"] = -next(scores)  # the first epoch is the best
    assert training.best.epoch == 1
    other = train(epochs=4, patience=1, epoch_metric="log_loss", metric="accuracy", **settings)
    kept = read_weights(training.best_weights, job=other.job)
    with torch.no_grad():
        for name, weight in other.network.trained.items():
            weight.copy_(kept[name])
    rows = training.job.validation_rows
    np.testing.assert_allclose(other.passes.evaluate(rows, epoch=1)[0], training.best_predictions, atol=1e-6)
    assert np.abs(training.predict(rows) - training.best_predictions).max() > 1e-3


def test_weights_of_another_job_are_refused(train, make_job):
    """Other rows or settings would make another model."""
    training = train(epochs=1)
    list(training.epochs())
    with pytest.raises(TrialError, match="another job"):
        read_weights(training.best_weights, job=make_job(epochs=1, seed=6))


def test_a_refit_trains_all_epochs_as_training_does_and_scores_none(train):
    """With the same rows, seed and epochs the weights are those of the last epoch of an ordinary training."""
    refitted, ordinary = train(epochs=2), train(epochs=2)
    assert list(refitted.refit()) == [1, 2]
    list(ordinary.epochs())
    assert refitted.scores == []
    assert weights(refitted) == weights(ordinary)


def test_training_leaves_torchs_random_state_alone(train):
    """Seeds are local to the training."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(train(epochs=1).epochs())
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_trains_differently(train):
    """Head, batch order and dropout follow the job's seed."""
    (one,), (other,) = train(epochs=1, seed=1).epochs(), train(epochs=1, seed=2).epochs()
    assert one.metrics["train_loss_running"] != other.metrics["train_loss_running"]


def test_checkpoint_holds_only_what_is_trained(train):
    """With one trainable layer the checkpoint is smaller by the rest of the encoder."""
    training = train(epochs=1, model={"trainable_layers": 1})
    list(training.epochs())
    names = {name.removeprefix("model/") for name in load(training.save()) if name.startswith("model/")}
    assert {name.split(".")[0] for name in names} == {"encoder", "head"}
    assert all(".layer.1." in name for name in names if name.startswith("encoder"))


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}])
def test_weights_of_the_best_epoch_are_stored_once_while_they_are_those_of_now(train, settings):
    """A checkpoint after a best epoch is smaller by them; with an average of the weights the two always differ."""
    training, restored = train(epochs=2, **settings), train(epochs=2, **settings)
    next(training.epochs())
    checkpoint = training.save()
    stored = {name for name in load(checkpoint) if name.startswith("best/")}
    assert stored == ({f"best/{name}" for name in training.network.state} if settings else set())
    restored.restore(checkpoint)
    assert restored.best_weights == training.best_weights
    assert restored.save() == checkpoint


def test_a_bit_of_a_weight_is_enough_to_store_it_twice():
    """The sign of 0 is kept, and NaN is what it was."""
    one, other = torch.tensor([0.0, math.nan]), torch.tensor([-0.0, math.nan])
    for now, names in ((one, set()), (other, {"best/w"})):
        packed = pack({"model/w": now, "best/w": one}, {})
        assert {name for name in load(packed) if name.startswith("best/")} == names
        assert unpack(packed)[0]["best/w"].view(torch.uint8).tolist() == one.view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"])
def test_a_checkpoint_is_a_safetensors_file(dtype):
    """Its library reads every kind of number, none and several of them, and the same names and values come out."""
    kind = getattr(torch, dtype)
    tensors = {"z/one": torch.ones((), dtype=kind), "none": torch.empty((0, 3)), "a": torch.eye(3).to(kind).T}
    packed = pack(tensors, {"said": "so"})
    assert unpack(packed)[1] == {"said": "so"}
    for read in (load(packed), unpack(packed)[0]):
        assert {name: (t.dtype, t.tolist()) for name, t in read.items()} == {
            name: (t.dtype, t.tolist()) for name, t in tensors.items()
        }


def flip(data: bytes, place: int) -> bytes:
    """Change one bit, as a disk does that forgets."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: b"",
        lambda data: b"\0" * len(data),
        lambda data: flip(data, -1000),
        lambda data: flip(data, data.index(b"train_loss")),
    ],
)
def test_damaged_checkpoint_is_refused_and_changes_nothing(train, damage):
    """The fold can then start afresh."""
    stopped, fresh = train(), train()
    next(stopped.epochs())
    before = weights(fresh)
    with pytest.raises(TrialError, match="the checkpoint is damaged"):
        fresh.restore(damage(stopped.save()))
    assert (weights(fresh), fresh.scores) == (before, [])


def test_checkpoint_of_another_job_is_refused(train):
    """Other settings would continue something else."""
    stopped = train()
    next(stopped.epochs())
    with pytest.raises(TrialError, match="another job"):
        train(learning_rate=1e-4).restore(stopped.save())


def test_incomplete_checkpoint_is_refused_and_changes_nothing(train):
    """A weight that is missing, or of another shape since the encoder's folder was replaced, is named."""
    stopped, fresh = train(), train()
    next(stopped.epochs())
    tensors, metadata = unpack(stopped.save())
    tensors["model/head.linear.weight"] = tensors["model/head.linear.weight"][:, :5]
    before = weights(fresh)
    with pytest.raises(TrialError, match=r"head\.linear\.weight is missing or of another shape"):
        fresh.restore(pack(tensors, metadata))
    assert (weights(fresh), fresh.scores) == (before, [])


def test_divergence_names_epoch_and_step(train):
    """A loss that is no longer finite ends the trial, and says when."""
    training = train(learning_rate=1.0, gradient_clip=None, warmup_ratio=0.0, epochs=50)
    with torch.no_grad():
        training.network.module.head.linear.weight.fill_(math.inf)
    with pytest.raises(Diverged, match=r"epoch 1, step 1 of 5: loss nan"):
        list(training.epochs())


@pytest.mark.parametrize("accumulation_steps", [2, 3, 7])
def test_accumulation_is_one_step_of_the_larger_batch(train, accumulation_steps):
    """The gradient is the mean over all rows of a step, also where the last step has fewer batches."""
    settings = {"epochs": 1, "model": {"dropout": 0.0, "encoder_dropout": 0.0}}
    accumulated = train(batch_size=8, accumulation_steps=accumulation_steps, **settings)
    steps = accumulated.passes.steps(1)
    assert [len(step) for step in steps] == {2: [2, 2, 1], 3: [3, 2], 7: [5]}[accumulation_steps]
    whole = train(batch_size=36, **settings)
    accumulated.network.module.train()
    loss = accumulated.passes.backward(steps[-1], epoch=1, step=0)
    rows = as_sample(np.concatenate([batch.rows for batch in steps[-1]]))
    expected = whole.passes.backward([rows], epoch=1, step=0)
    assert loss == pytest.approx(expected, rel=1e-5)
    for one, other in zip(accumulated.network.trained.values(), whole.network.trained.values(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped_to_their_norm(train):
    """The norm that is reported is the one before."""
    clipped, free = train(gradient_clip=0.01), train(gradient_clip=None)
    norms = {}
    for name, training in (("clipped", clipped), ("free", free)):
        training.network.module.eval()
        training.passes.backward(training.passes.steps(1)[0], epoch=1, step=0)
        norms[name] = training.passes.clip(), training.passes.clip()
    assert norms["clipped"] == pytest.approx((norms["free"][0], 0.01), rel=1e-3)
    assert norms["free"][0] == norms["free"][1]


def test_learning_rate_ends_near_0_over_all_epochs(trained, make_job):
    """After the warm-up it falls epoch by epoch, and is down to one step's share in the last."""
    rates = [score.metrics["learning_rate"] / 1e-2 for score in trained.scores]
    num_steps = 12 * math.ceil(len(make_job().training_rows) / 8)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(1 / (num_steps - round(num_steps * 0.1)))


def test_a_class_without_training_rows_does_not_matter(make_job, inputs):
    """A class that is in one fold only is scored as missed, and the class weights stay finite."""
    job = make_job(epochs=1, loss="focal", class_weights="inverse_frequency", sampler="minority_over")
    rows = job.training_rows[job.labels[job.training_rows] != 1]
    lacking = type(job)(**{name: getattr(job, name) for name in job.__slots__} | {"training_rows": rows})
    (score,) = FoldTraining(lacking, inputs=inputs, device="cpu").epochs()
    assert all(math.isfinite(value) for value in score.metrics.values())


def test_bf16_trains_close_to_fp32(train):
    """Where bfloat16 is asked for it is used, and the loss is computed in float32."""
    (half,), (full,) = train(epochs=1, precision="bf16").epochs(), train(epochs=1, precision="fp32").epochs()
    assert half.metrics["val_loss"] == pytest.approx(full.metrics["val_loss"], rel=0.05)
    assert half.metrics["val_loss"] != full.metrics["val_loss"]
