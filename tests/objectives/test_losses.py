"""The losses against formulas written out in float64, and their gradients against differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from objectives.losses import class_weights, row_losses
from objectives.params import TrainingParams

LOGITS = torch.tensor(np.random.default_rng(0).normal(scale=3, size=(6, 4)))
LABELS = torch.tensor([0, 1, 2, 3, 0, 0])
ALPHA = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)


def by_hand(gamma: float, smoothing: float, alpha: torch.Tensor) -> list[float]:
    """Return the losses of all rows, one class after the other."""
    losses = []
    for logits, label in zip(LOGITS.numpy(), LABELS.tolist(), strict=True):
        p = np.exp(logits) / np.exp(logits).sum()
        target = np.where(np.arange(4) == label, 1 - smoothing, 0) + smoothing / 4
        losses.append(alpha[label].item() * (-target * (1 - p) ** gamma * np.log(p)).sum())
    return losses


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_focal_loss_is_its_formula(gamma, smoothing, alpha):
    """Each row: its class weight times the smoothed focal sum over all classes."""
    params = TrainingParams(loss="focal", focal_gamma=gamma, label_smoothing=smoothing)
    expected = by_hand(gamma, smoothing, torch.ones(4) if alpha is None else alpha)
    assert row_losses(LOGITS, LABELS, params=params, alpha=alpha).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", [{"loss": "cross_entropy"}, {"loss": "focal", "focal_gamma": 0.0}])
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_cross_entropy_is_torchs_and_focal_with_gamma_0(settings, smoothing):
    """Without gamma and alpha the focal loss is cross entropy."""
    losses = row_losses(LOGITS, LABELS, params=TrainingParams(label_smoothing=smoothing, **settings), alpha=None)
    expected = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_gradients_are_those_of_the_formula(gamma):
    """Differences in float64 agree with backward."""
    params = TrainingParams(loss="focal", focal_gamma=gamma, label_smoothing=0.1)
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: row_losses(x, LABELS, params=params, alpha=ALPHA), (logits,))


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_certain_rows_have_finite_gradients(gamma):
    """A probability that rounds to 1 makes neither the loss nor its gradient anything but 0."""
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    params = TrainingParams(loss="focal", focal_gamma=gamma)
    losses = row_losses(logits, torch.tensor([0, 0]), params=params, alpha=None)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 200.0]
    assert torch.isfinite(logits.grad).all()


def test_class_weights_are_those_of_the_papers():
    """Inverse frequency, and (1 - beta) / (1 - beta^n) of Cui et al. 2019, up to their common factor."""
    counts = np.array([100, 10, 1])
    inverse = class_weights(counts, params=TrainingParams(loss="focal", focal_alpha="inverse_frequency"))
    balanced = class_weights(
        counts, params=TrainingParams(loss="focal", focal_alpha="class_balanced", class_balanced_beta=0.9)
    )
    assert (inverse / inverse[2]).tolist() == pytest.approx([0.01, 0.1, 1.0])
    assert (balanced / balanced[2]).tolist() == pytest.approx([0.1 / (1 - 0.9**100), 0.1 / (1 - 0.9**10), 1.0])


@given(
    counts=st.lists(st.integers(0, 10_000), min_size=2, max_size=9).filter(any),
    kind=st.sampled_from(["inverse_frequency", "class_balanced"]),
    beta=st.sampled_from([0.0, 0.9, 0.9999]),
)
def test_mean_weight_of_a_training_row_is_1(counts, kind, beta):
    """Weights move attention between classes and leave the loss's size alone, also with classes that have no row."""
    params = TrainingParams(loss="focal", focal_alpha=kind, class_balanced_beta=beta)
    weights = class_weights(np.array(counts), params=params)
    assert np.isfinite(weights).all()
    assert np.average(weights, weights=counts) == pytest.approx(1)


@pytest.mark.parametrize("settings", [{"loss": "focal"}, {"focal_alpha": "class_balanced"}])
def test_alpha_needs_the_focal_loss_and_a_kind(settings):
    """Cross entropy has no class weights, nor has focal with alpha none."""
    assert class_weights(np.array([3, 4]), params=TrainingParams(**settings)) is None
