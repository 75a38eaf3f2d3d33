"""The network of a fold: what goes into it for mixed and for augmented rows, and the head on top."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.tasks.text import TextInputs
from fold_search.objectives.training.fold import FoldTraining
from fold_search.objectives.training.networks import Network
from fold_search.objectives.training.sampling import Sample, as_sample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(inputs: TextInputs, make_job: Callable[..., FoldJob]) -> Callable[..., Network]:
    """Build an untrained network, in evaluation mode, with settings as `make_job` takes them."""

    def network(**settings) -> Network:
        torch.manual_seed(0)
        built = Network(make_job(**settings), inputs=inputs, device=CPU)
        built.module.eval()
        return built

    return network


def batches(network: Network, sample: Sample, **options) -> torch.Tensor:
    """Return the token ids of the rows that are not mixed into others."""
    return network.inputs(sample, **options).own["input_ids"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("trainable_layers", [None, 0])
@torch.inference_mode()
def test_a_mixed_row_is_the_head_of_the_interpolated_states(network, inputs, pooling, trainable_layers):
    """The outputs are computed by hand from each row's own states, on the whole classifier and on cached states."""
    net = network(model={"pooling": pooling, "trainable_layers": trainable_layers})
    rows, partners, shares = np.array([3, 10, 40, 50]), np.array([3, 26, 44, 28]), np.array([0, 0.25, 0, 1], "f4")
    outputs = net.outputs(net.inputs(Sample(rows=rows, partners=partners, shares=shares)))
    encoder = network(model={"pooling": pooling}).module

    def state(row: int) -> torch.Tensor:
        return encoder.pooled(**inputs.tokens.batch(np.array([row]), max_length=24))[0]

    mixed = [(1 - s) * state(a) + s * state(b) for a, b, s in zip(rows, partners, shares.tolist(), strict=True)]
    linear = net.module.head.linear
    torch.testing.assert_close(outputs, torch.stack(mixed) @ linear.weight.T + linear.bias)


@torch.inference_mode()
def test_smotes_mixed_rows_are_trained_as_such(inputs, make_job):
    """A step's loss, without dropout, is that of the interpolated states under the source's label."""
    silent = {"trainable_layers": 0, "dropout": 0.0}
    job = make_job(sampler="smote", sampler_ratio=1.0, batch_size=100, model=silent)
    training = FoldTraining(job, inputs=inputs, device="cpu")
    ((batch,),) = training.passes.steps(1)
    assert (batch.shares > 0).sum() == training.sample.num_synthetic > 0
    states = torch.from_numpy(np.array(inputs.pooled(pooling="mean", max_length=24)))
    share = torch.from_numpy(batch.shares)[:, None]
    logits = training.network.module.head((1 - share) * states[batch.rows] + share * states[batch.partners])
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(job.labels[batch.rows]))
    losses = training.passes.training_losses(batch, epoch=1, random=np.random.default_rng(0))
    torch.testing.assert_close(losses.mean(), expected)


@pytest.mark.parametrize("trainable_layers", [None, 0])
@torch.inference_mode()
def test_ldam_has_a_cosine_head(network, trainable_layers):
    """Its logits are cosines times the scale; no other loss's are."""
    model = {"trainable_layers": trainable_layers}
    net = network(loss="ldam", ldam_scale=7.0, model=model)
    inputs = net.inputs(as_sample(np.arange(5)))
    states, weight = net.module.pooled(**inputs.own), net.module.head.linear.weight
    expected = 7 * torch.cosine_similarity(states[:, None], weight[None], dim=2)
    torch.testing.assert_close(net.outputs(inputs), expected)
    assert network(model=model).module.head.scale is None


def test_augmentation_changes_what_is_trained_on_only(network):
    """The same rows, evaluated, are the tokens as they are."""
    plain, net = network(), network(token_deletion=0.4, token_swap=0.4, token_masking=0.4)
    sample = as_sample(np.arange(12))
    own = batches(plain, sample)
    assert torch.equal(batches(net, sample), own)
    assert not torch.equal(batches(net, sample, random=np.random.default_rng(0)), own)
    assert torch.equal(batches(plain, sample, random=np.random.default_rng(0)), own)


def test_partners_are_augmented_too(network):
    """Both parts of a mixed row are training rows."""
    net, rows = network(token_masking=0.9), np.arange(4)
    mixed = Sample(rows=rows, partners=rows + 20, shares=np.full(4, 0.5, np.float32))
    seen = net.inputs(mixed, random=np.random.default_rng(0)).partners
    assert seen is not None
    assert not torch.equal(seen["input_ids"], batches(net, as_sample(rows + 20)))


def test_tokens_are_replaced_by_the_encoders_own_head(inputs, make_job, tmp_path):
    """A head that is sure of one word puts it in place of every chosen token, in training alone."""
    folder = Path(shutil.copytree(inputs.encoder, tmp_path / "with_head"))
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    certain = 7
    torch.nn.init.constant_(model.cls.predictions.bias, -100.0)
    with torch.no_grad():
        model.cls.predictions.bias[certain] = 100.0
    model.save_pretrained(folder)
    job = make_job(token_replacement=0.9)
    with_head = job.params.model.model_copy(update={"encoder": str(folder)})
    job = replace(job, params=job.params.model_copy(update={"model": with_head}))
    net = Network(job, inputs=replace(inputs, encoder=str(folder)), device=CPU)
    sample = as_sample(np.arange(12))
    before, after = batches(net, sample), batches(net, sample, random=np.random.default_rng(0))
    changed = before != after
    assert (after[changed] == certain).all()
    special = torch.isin(before, torch.tensor(inputs.tokens.special_ids))
    assert 0.8 < changed[~special].float().mean() < 0.98
    assert not changed[special].any()
