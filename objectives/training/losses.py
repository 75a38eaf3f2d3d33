"""The losses: pure functions of single rows, and the one that a trial's settings ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fold_search.objectives.loss_params import REGRESSION_LOSSES
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.weights import class_weights


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return sum_c q_c (-log p_c), (rows,), of logits and target shares q, both (rows, classes)."""
    return functional.cross_entropy(logits, target, reduction="none")


def focal(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return sum_c q_c (1 - p_c)^gamma (-log p_c), (rows,) (Lin et al. 2017), which is cross entropy for gamma 0."""
    log_p = logits.log_softmax(dim=1)
    return (target * torch.exp(gamma * _log_rest(log_p)) * -log_p).sum(dim=1)


def dice(logits: Tensor, one_hot: Tensor, *, alpha: float, smoothing: float) -> Tensor:
    """Return the self-adjusting Dice loss, (rows,), in [0, 1] (Li et al. 2020).

    It is the mean over the classes of 1 - (2 w q + s) / (w + q + s) with w = (1 - p)^alpha p. The authors' own code
    sums over the classes and takes the denominator over the whole batch. Here each row stands alone, so the loss does
    not depend on the other rows of the batch. For a single row, theirs is this one times the number of classes.
    """
    log_p = logits.log_softmax(dim=1)
    weighted = torch.exp(alpha * _log_rest(log_p) + log_p)
    return (1 - (2 * weighted * one_hot + smoothing) / (weighted + one_hot + smoothing)).mean(dim=1)


def ldam(logits: Tensor, target: Tensor, *, one_hot: Tensor, margins: Tensor) -> Tensor:
    """Return cross entropy, (rows,), after subtracting the margin from the logit of each row's label (Cao et al. 2019).

    Logits are scaled cosines, and `margins`, (classes,), have the same scale.
    """
    return cross_entropy(logits - one_hot * margins, target)


def logit_adjusted(logits: Tensor, target: Tensor, *, adjustment: Tensor) -> Tensor:
    """Return cross entropy, (rows,), of the logits plus `adjustment`, (classes,): tau log prior (Menon et al. 2021)."""
    return cross_entropy(logits + adjustment, target)


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return KL(q || p), (rows,), of target shares q, (rows, classes), where 0 log 0 = 0 (Kullback and Leibler 1951).

    It is cross entropy less the target's entropy: 0 where the prediction is the smoothed target.
    """
    return functional.kl_div(logits.log_softmax(dim=1), target, reduction="none").sum(dim=1)


def r_drop(one: Tensor, other: Tensor) -> Tensor:
    """Return half of KL(p || r) + KL(r || p), (rows,), of two passes' logits (rows, classes) (Liang et al. 2021)."""
    log_p, log_r = one.log_softmax(dim=1), other.log_softmax(dim=1)
    return ((log_p.exp() - log_r.exp()) * (log_p - log_r)).sum(dim=1) / 2


def regression_loss(predictions: Tensor, targets: Tensor, *, params: TrainingParams) -> Tensor:
    """Return the squared, absolute or Huber loss (Huber 1964), (rows,), of predictions and targets, both (rows,)."""
    if params.loss == "mse":
        return functional.mse_loss(predictions, targets, reduction="none")
    if params.loss == "mae":
        return functional.l1_loss(predictions, targets, reduction="none")
    return functional.huber_loss(predictions, targets, reduction="none", delta=params.huber_delta)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """One fold's loss: a trial's settings, and the vectors that follow from the fold's training rows, on one device.

    The vectors are (classes,) in float64, empty for a numeric label. Losses are at least float32, whatever the
    outputs are.
    """

    params: TrainingParams
    log_prior: Tensor
    spread: Tensor  # each class's share of what label smoothing spreads
    weights: Tensor | None

    def rows(self, outputs: Tensor, targets: Tensor, *, progress: float = 1.0) -> Tensor:
        """Return each row's loss, (rows,), times the weight of its label's class where there are weights.

        `outputs` are logits (rows, classes) and `targets` int64 classes (rows,); for a numeric label (rows, 1) and
        floats (rows,). `progress` is the share of the epochs that are done: LDAM uses its class weights only from
        `deferral` on (deferred re-weighting, Cao et al. 2019).
        """
        outputs = _widened(outputs)
        if self.params.loss in REGRESSION_LOSSES:
            return regression_loss(outputs.squeeze(1), targets.to(outputs), params=self.params)
        losses = self._class_losses(outputs, targets)
        if self.weights is None or (self.params.loss == "ldam" and progress < self.params.deferral):
            return losses
        return losses * self.weights.to(losses)[targets]

    def divergence(self, one: Tensor, other: Tensor) -> Tensor:
        """Return R-Drop's divergence of two passes' outputs, (rows,), not yet multiplied by `rdrop_alpha`.

        For a numeric label it is the squared difference (Liang et al. 2021, on STS-B).
        """
        one, other = _widened(one), _widened(other)
        if self.params.loss in REGRESSION_LOSSES:
            return (one - other).squeeze(1).square()
        return r_drop(one, other)

    def _class_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        params = self.params
        one_hot = functional.one_hot(labels, logits.shape[1]).to(logits)
        target = (1 - params.label_smoothing) * one_hot + params.label_smoothing * self.spread.to(logits)
        log_prior = self.log_prior.to(logits)
        match params.loss:
            case "focal":
                return focal(logits, target, gamma=params.focal_gamma)
            case "dice":
                return dice(logits, one_hot, alpha=params.dice_alpha, smoothing=params.dice_smoothing)
            case "ldam":
                # The margin of a class shrinks with the fourth root of its rows over the rarest class's.
                margins = params.ldam_scale * params.ldam_margin * torch.exp((log_prior.min() - log_prior) / 4)
                return ldam(logits, target, one_hot=one_hot, margins=margins)
            case "logit_adjusted":
                return logit_adjusted(logits, target, adjustment=params.adjustment_tau * log_prior)
            case "kl_divergence":
                return kl_divergence(logits, target)
            case _:
                return cross_entropy(logits, target)


def build_loss(
    params: TrainingParams,
    *,
    counts: NDArray[np.int64],
    label_names: Sequence[str],
    device: torch.device,
    before: NDArray[np.int64] | None = None,
) -> Loss:
    """Return the loss for settings that `check_loss` accepts.

    `counts`, (classes,), are the training rows of each class after sampling, `before` those before it; both are empty
    for a numeric label. A class without training rows counts as having one.
    """
    present = np.maximum(counts, 1)
    prior = present / present.sum()
    match params.smoothing_prior if params.loss == "kl_divergence" else "uniform":
        case "uniform":
            spread = np.full(len(prior), 1 / max(len(prior), 1))
        case "class_frequency":
            spread = prior
        case dict() as given:
            spread = np.array([given[label] for label in label_names])
    weights = class_weights(counts, params=params, label_names=label_names, before=before)
    return Loss(
        params=params,
        log_prior=torch.from_numpy(np.log(prior)).to(device),
        spread=torch.from_numpy(spread).to(device),
        weights=None if weights is None else torch.from_numpy(weights).to(device),
    )


def _widened(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _log_rest(log_p: Tensor) -> Tensor:
    """Return log(1 - p), (rows, classes): exact even where p rounds to 1, and with finite gradients everywhere."""
    # Only the likeliest class can be near 1. Its 1 - p is the sum of all other classes.
    top = log_p.argmax(dim=1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf)
    return torch.log1p(-others.exp()).scatter(1, top, others.logsumexp(dim=1, keepdim=True))
