"""Which row is in which fold: stratified by class, with duplicates together, and the same for the same seed."""

import hashlib
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from fold_search.objectives.errors import DataError

EXTRA = -1  # the fold of rows that are only ever trained on


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, num_folds: int, seed: int, stratified: bool
) -> NDArray[np.int16]:
    """Return each row's fold, (rows,), from 0.

    Rows of one group share a fold. A group counts once, for the class that most of its rows have. Stratified: each
    class is spread evenly, and a class with fewer groups than folds is in as many folds as it has groups.
    Raises DataError if there are more folds than groups (stratified: than groups of the largest class).
    """
    group_labels, group_of_row = _label_groups(labels, groups)
    largest = int(np.bincount(group_labels).max()) if stratified else len(group_labels)
    if num_folds > largest:
        found = "the largest class has" if stratified else "there are"
        raise DataError(f"{num_folds} folds are too many: {found} {largest} rows that are no duplicates")
    splitter = (StratifiedKFold if stratified else KFold)(num_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(group_labels), dtype=np.int16)
    with warnings.catch_warnings():
        # Users hear of these classes from `small_classes`.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(group_labels)), group_labels)):
            folds[held_out] = fold
    return folds[group_of_row]


def small_classes(labels: NDArray[np.int64], groups: NDArray[np.int64], num_folds: int) -> list[int]:
    """Return the classes with fewer groups than folds: some folds have no row of them."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    counts = np.bincount(pairs[0], minlength=int(labels.max()) + 1)
    return [int(label) for label in np.flatnonzero(counts < num_folds)]


def split(
    assignments: NDArray[np.int16],
    groups: NDArray[np.int64],
    fold: int,
    *,
    contents: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the training rows and the validation rows of `fold`, each sorted.

    Extra rows (EXTRA) are trained on in every fold, except where they share a group or their content with a validation
    row.
    """
    validation = np.flatnonzero(assignments == fold)
    repeated = assignments == EXTRA
    repeated &= np.logical_or.reduce([np.isin(of, of[validation]) for of in (groups, contents) if of is not None])
    return np.flatnonzero((assignments != fold) & ~repeated), validation


def fingerprint_folds(assignments: NDArray[np.int16]) -> str:
    """Return the sha256 of the folds of all rows."""
    return hashlib.sha256(assignments.astype("<i2").tobytes()).hexdigest()


def _label_groups(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each group's commonest label (of equal ones the smaller), and each row's position among the groups."""
    _, group_of_row = np.unique(groups, return_inverse=True)
    pairs, counts = np.unique(np.stack([group_of_row, labels]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    return pairs[1][order][first], group_of_row
