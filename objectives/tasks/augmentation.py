"""Changes the tokens of training rows at random: deletion, swap, masking, replacement; more often in rare classes."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fold_search.objectives.errors import DataError
from fold_search.objectives.params import AugmentationParams

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Probabilities = NDArray[np.float64]  # (rows, 1)
Replace = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]  # (ids, mask, chosen, generator) -> ids

MAX_PROBABILITY = 0.9


class Augmentation:
    """Changes the tokens of batches: deletion first, then swap, masking and replacement, each on what is left.

    `counts` are the training rows of each class, None for a numeric label. `special` are the token ids that are never
    changed. `replace` draws new tokens for the chosen ones, as `models.masked_language.draw_replacements` does; only
    token_replacement needs it. Raises DataError if tokens are to be masked and there is no mask token.
    """

    def __init__(
        self,
        params: AugmentationParams,
        *,
        counts: NDArray[np.int64] | None,
        special: Collection[int],
        pad_id: int,
        mask_id: int | None,
        replace: Replace | None,
    ) -> None:
        if params.token_masking > 0 and mask_id is None:
            raise DataError(
                f"training.token_masking is {params.token_masking:g}, but the encoder's tokenizer has no mask token; "
                "expected 0"
            )
        if params.token_replacement > 0 and replace is None:
            raise ValueError("token_replacement needs something that replaces tokens")
        self._params = params
        self._strengths = None if counts is None else strengths(counts, params.minority_augmentation)
        self._special = np.array([*special, *([] if mask_id is None else [mask_id])], dtype=np.int64)
        self._pad_id = pad_id
        self._mask_id = mask_id
        self._replace = replace

    def __call__(
        self, batch: dict[str, Tensor], labels: NDArray[Any], *, random: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (rows, tokens), changed; `labels`, (rows,), decide how strongly.

        The tensors are on the CPU; those given are not changed. After a deletion the rest moves up, with padding on the
        right, and one ordinary token of a row always stays. Tokens whose `marks` (if given) are not 0 are not changed,
        and the marks move with them. All random numbers come from `random`.
        """
        ids, mask = batch["input_ids"].numpy().copy(), batch["attention_mask"].numpy().astype(bool)
        marks = batch["marks"].numpy() if "marks" in batch else np.zeros_like(ids)
        factor = np.ones(len(ids)) if self._strengths is None else self._strengths[labels]

        def probability(value: float) -> Probabilities:
            return np.minimum(value * factor, MAX_PROBABILITY)[:, None]

        params = self._params
        if params.token_deletion > 0:
            ordinary = self._ordinary(ids, mask, marks)
            stays = mask & ~_chosen_to_delete(ordinary, probability(params.token_deletion), random)
            marks, _ = _close_up(marks, stays, pad_id=0)
            ids, mask = _close_up(ids, stays, pad_id=self._pad_id)
        if params.token_swap > 0:
            _swap(ids, self._ordinary(ids, mask, marks), probability(params.token_swap), random)
        if self._mask_id is not None and params.token_masking > 0:
            chosen = self._ordinary(ids, mask, marks) & (random.random(ids.shape) < probability(params.token_masking))
            ids = np.where(chosen, self._mask_id, ids)
        input_ids, attention_mask = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
        if self._replace is not None and params.token_replacement > 0:
            ordinary = self._ordinary(ids, mask, marks)
            chosen = ordinary & (random.random(ids.shape) < probability(params.token_replacement))
            generator = torch.Generator().manual_seed(int(random.integers(2**63)))
            input_ids = self._replace(input_ids, attention_mask, torch.from_numpy(chosen), generator)
        changed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return changed | ({"marks": torch.from_numpy(marks)} if "marks" in batch else {})

    def _ordinary(self, ids: Ids, mask: Mask, marks: Ids) -> Mask:
        ordinary: Mask = mask & (marks == 0) & ~np.isin(ids, self._special)
        return ordinary


def strengths(counts: NDArray[np.int64], minority_augmentation: float) -> NDArray[np.float64]:
    """Return the factor for each class's probabilities, (classes,), from its number of training rows, (classes,).

    It is 1 for the largest class and `minority_augmentation` for the smallest that has rows. Between them it is linear
    in the logarithm of the rows. If all are equally large, it is 1 for all.
    """
    logs = np.log(np.maximum(counts, 1))
    present = logs[counts > 0]
    rarity = (present.max() - logs) / (np.ptp(present) or 1.0)
    factors: NDArray[np.float64] = 1 + (minority_augmentation - 1) * rarity.clip(0, 1)
    return factors


def _chosen_to_delete(ordinary: Mask, probability: Probabilities, random: np.random.Generator) -> Mask:
    """Return which tokens are deleted. The token with a row's largest draw always stays, so that one is left."""
    draws = np.where(ordinary, random.random(ordinary.shape), -1.0)
    chosen: Mask = ordinary & (draws < probability) & (draws < draws.max(axis=1, keepdims=True, initial=-1.0))
    return chosen


def _close_up(ids: Ids, keep: Mask, *, pad_id: int) -> tuple[Ids, Mask]:
    """Return the kept ids, in their order, and their mask, both as wide as the longest row."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, : keep.sum(axis=1).max()]
    mask = np.take_along_axis(keep, order, axis=1)
    return np.where(mask, np.take_along_axis(ids, order, axis=1), pad_id), mask


def _swap(ids: Ids, ordinary: Mask, probability: Probabilities, random: np.random.Generator) -> None:
    """Pair the ordinary tokens of each row at random, and let each pair change places with that probability.

    With an odd number one token has no pair; the probability of the others is raised to make up for it.
    """
    lengths = ordinary.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(ordinary, random.random(ids.shape), 2.0), axis=1)
    num_pairs = ids.shape[1] // 2
    paired = 2 * np.arange(num_pairs) + 1 < lengths
    probability = probability * lengths / np.maximum(lengths - lengths % 2, 1)
    rows, pairs = np.nonzero(paired & (random.random(paired.shape) < probability))
    first, second = order[rows, 2 * pairs], order[rows, 2 * pairs + 1]
    ids[rows, first], ids[rows, second] = ids[rows, second], ids[rows, first]
