"""The training losses: cross entropy and focal, with label smoothing and one weight per class."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.params import TrainingParams


def class_weights(counts: NDArray[np.int64], *, params: TrainingParams) -> NDArray[np.float64] | None:
    """Return the focal loss's alpha, (classes,), from the training rows' class counts; None if it has no effect.

    Inverse frequency is 1 / n, class-balanced (1 - beta) / (1 - beta^n) (Cui et al. 2019), scaled so that the mean
    weight of a training row is 1. A class without training rows weighs as if it had one.
    """
    if params.loss != "focal" or params.focal_alpha == "none":
        return None
    present = np.maximum(counts, 1).astype(np.float64)
    beta = params.class_balanced_beta
    weights = 1 / present if params.focal_alpha == "inverse_frequency" else (1 - beta) / (1 - beta**present)
    scale: float = counts.sum() / (weights * counts).sum()
    return weights * scale


def row_losses(logits: Tensor, labels: Tensor, *, params: TrainingParams, alpha: Tensor | None) -> Tensor:
    """Return each row's loss, (rows,), from logits (rows, classes) and labels (rows,).

    With q the target of `labels` after smoothing and p the predicted probabilities: the row's class weight times
    sum_c q_c (1 - p_c)^gamma (-log p_c) (Lin et al. 2017), which is cross entropy for gamma 0.
    """
    log_p = torch.log_softmax(logits, dim=1)
    terms = -log_p
    if params.loss == "focal" and params.focal_gamma > 0:
        # -expm1 keeps 1 - p exact near 0; the floor keeps the gradient of its power finite for gamma below 1.
        terms = terms * (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** params.focal_gamma
    smoothing = params.label_smoothing
    losses = (1 - smoothing) * terms.gather(1, labels[:, None]).squeeze(1)
    if smoothing > 0:
        losses = losses + smoothing * terms.mean(dim=1)
    return losses if alpha is None else losses * alpha[labels]
