"""Resampling of a fold's training rows against class imbalance. Validation rows never come here.

Neighbours are found among the frozen encoder's embeddings. SMOTE makes a point between two of them, but there is no
text between two texts. So a synthetic row is a pair of rows whose pooled states are mixed in training:

::

    row      3   8   8  12       rows of the data; a repeated row is there twice
    partner  3   8   5  12       the same row, unless it is mixed
    share    0   0  0.3  0       state = (1 - share) x state(row) + share x state(partner)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import EditedNearestNeighbours, NearMiss, RandomUnderSampler, TomekLinks
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from fold_search.objectives.errors import DataError, TrialError
from fold_search.objectives.params import TrainingParams

Rows = NDArray[np.int64]
Labels = NDArray[np.int64]
Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The rows that one fold trains on in an epoch; see above."""

    rows: Rows  # (n,) rows of the data, rising
    partners: Rows  # (n,) the row each is mixed with at the pooled representation; the same row where nothing is mixed
    shares: NDArray[np.float32]  # (n,) the partner's share of the mix; 0 where nothing is mixed

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Rows) -> "Sample":
        """Return what is at these positions, in their order."""
        return Sample(rows=self.rows[positions], partners=self.partners[positions], shares=self.shares[positions])


def as_sample(rows: Rows) -> Sample:
    """Return the rows as they are, nothing mixed."""
    return Sample(rows=rows, partners=rows, shares=np.zeros(len(rows), np.float32))


def resample(
    rows: Rows,
    labels: Labels,
    *,
    params: TrainingParams,
    seed: int,
    embeddings: Callable[[], Points],
    label_names: Sequence[str] = (),
) -> Sample:
    """Return the training rows after the sampler; some may be repeated, left out or mixed with one of their class.

    `labels` and `embeddings()`, (rows, dimensions), are those of all rows of the data; `rows` are the fold's training
    rows; `label_names` are for the message. If all rows have one class they are returned as they are. Raises
    TrialError if the sampler removes all rows of a class.
    """
    rows = np.sort(rows)
    own = labels[rows]
    everything = as_sample(rows)
    if params.sampler in ("none", "class_balanced_batches") or len(np.unique(own)) < 2:
        return everything

    def points() -> Points:
        return np.asarray(embeddings()[rows])

    if params.sampler in ("smote", "smote_enn"):
        sample = _mix(everything, own, points(), params=params, seed=seed)
    else:
        sample = _take(everything, _select(own, points, params=params, seed=seed))
    emptied = np.setdiff1d(own, labels[sample.rows])
    if len(emptied):
        found = int(np.sum(own == emptied[0]))
        label = repr(label_names[emptied[0]]) if label_names else emptied[0]
        raise TrialError(
            f"training.sampler {params.sampler} removes all training rows ({found}) of class {label}; "
            f"training.sampler_min_rows: {found + 1} keeps all rows of classes with fewer rows"
        )
    return sample


def draw(sample: Sample, labels: Labels, *, params: TrainingParams, seed: int, epoch: int) -> Sample:
    """Return what this epoch trains on: the sample itself, except with class_balanced_batches.

    Then as many rows as the sample has are drawn anew: each class equally often (give or take one row), and each row
    of a class once before any comes a second time.
    """
    if params.sampler != "class_balanced_batches" or len(sample) == 0:
        return sample
    rng = np.random.default_rng([seed, epoch])
    own = labels[sample.rows]
    classes = rng.permutation(np.unique(own))
    quota, num_larger = divmod(len(sample), len(classes))
    drawn = []
    for place, label in enumerate(classes):
        members = np.flatnonzero(own == label)
        rounds, rest = divmod(quota + (place < num_larger), len(members))
        drawn += [np.tile(members, rounds), rng.choice(members, rest, replace=False)]
    return _take(sample, np.concatenate(drawn))


def check_sampler(
    params: TrainingParams, *, labels: Labels, assignments: NDArray[np.int16], label_names: Sequence[str]
) -> None:
    """Refuse, by the class counts alone, what the sampler cannot do in some fold.

    `assignments` is each row's fold; rows with -1 are trained on in every fold. Raises DataError for enn and smote_enn
    if a class has no more training rows than there are neighbours to look at: other classes would always outvote its
    rows. near_miss and the random samplers never empty a class. tomek_links could, if every row of the largest class
    were in a link. Counts cannot tell that; `resample` raises if it happens.
    """
    if params.sampler not in ("enn", "smote_enn"):
        return
    needed = params.sampler_neighbors + 1
    for fold in range(int(assignments.max(initial=-1)) + 1):
        counts = np.bincount(labels[assignments != fold], minlength=len(label_names))
        small = np.flatnonzero((counts > 0) & (counts < needed) & (counts >= params.sampler_min_rows))
        if len(small):
            rarest = small[counts[small].argmin()]
            which = "label" if len(small) == 1 else f"{len(small)} labels, the rarest"
            raise DataError(
                f"training.sampler {params.sampler} with {params.sampler_neighbors} neighbours: found "
                f"{counts[rarest]} training rows in fold {fold} of {which} {label_names[rarest]!r}, expected {needed} "
                f"or more; training.sampler_min_rows: {needed} keeps all rows of classes with fewer rows"
            )


def _take(sample: Sample, positions: Rows) -> Sample:
    """Return what is at these positions of the sample, by rising rows."""
    return sample.take(positions[np.argsort(sample.rows[positions], kind="stable")])


def _select(labels: Labels, points: Callable[[], Points], *, params: TrainingParams, seed: int) -> Rows:
    """Return the positions of the rows that stay or are repeated."""
    counts = _counts(labels)
    untouched = [label for label, count in counts.items() if count < params.sampler_min_rows]
    match params.sampler:
        case "random_under" | "near_miss":
            untouched_rows = np.isin(labels, untouched)
            large = np.flatnonzero(~untouched_rows)
            at = points()[large] if params.sampler == "near_miss" else None
            kept = _cut(labels[large], at, params=params, seed=seed)
            return np.concatenate([np.flatnonzero(untouched_rows), large[kept]])
        case "tomek_links":
            # Only the largest class loses rows: with more classes, a link between two of them would lose both its rows.
            largest = max(counts, key=counts.__getitem__)
            links = TomekLinks(sampling_strategy=[label for label in (largest,) if label not in untouched])
            return _positions(links, labels, points())
        case "enn":
            # The others are cleaned for the sake of the smallest class, which keeps its rows.
            smallest = min(counts, key=counts.__getitem__)
            edited = [label for label in counts if label not in (smallest, *untouched)]
            return _edit(labels, points(), edited=edited, num_neighbors=params.sampler_neighbors)
        case _:
            ratio = 1.0 if params.sampler == "random_over" else params.sampler_ratio
            over = RandomOverSampler(sampling_strategy=_grown(counts, ratio), random_state=seed)
            return _positions(over, labels)


def _cut(labels: Labels, points: Points | None, *, params: TrainingParams, seed: int) -> Rows:
    """Return the positions that under-sampling keeps: at random, or if there are points those of NearMiss-1."""
    counts = _counts(labels)
    if len(counts) < 2:
        return np.arange(len(labels))
    smallest = min(counts.values())
    targets = {label: min(count, math.floor(smallest / params.sampler_ratio)) for label, count in counts.items()}
    if points is None:
        return _positions(RandomUnderSampler(sampling_strategy=targets, random_state=seed), labels)
    neighbors = min(params.sampler_neighbors, smallest)
    return _positions(NearMiss(sampling_strategy=targets, version=1, n_neighbors=neighbors), labels, points)


def _edit(labels: Labels, points: Points, *, edited: list[int], num_neighbors: int) -> Rows:
    """Return the positions that Wilson's edited nearest neighbours keep.

    A row of the edited classes stays if its class is the commonest among its neighbours (of equals, the first one).
    """
    neighbors = min(num_neighbors, len(labels) - 1)
    editor = EditedNearestNeighbours(sampling_strategy=edited, n_neighbors=neighbors, kind_sel="mode")
    return _positions(editor, labels, points)


def _mix(everything: Sample, labels: Labels, points: Points, *, params: TrainingParams, seed: int) -> Sample:
    """Return the rows and SMOTE's synthetic ones; with smote_enn without those that editing removes.

    A class with too few rows has fewer neighbours. A class with a single row has it repeated instead.
    """
    counts = _counts(labels)
    grown = _grown(counts, params.sampler_ratio)
    single = [label for label, count in counts.items() if count == 1]
    copies = [np.full(grown[label] - 1, np.flatnonzero(labels == label)[0]) for label in single]
    start = np.concatenate([np.arange(len(labels)), *copies])  # positions of the original rows and of the repeated
    smote = _RecordingSMOTE(
        sampling_strategy={label: target for label, target in grown.items() if label not in single},
        random_state=np.random.RandomState(seed),
        k_neighbors=_AvailableNeighbors(n_neighbors=params.sampler_neighbors + 1),
    )
    all_points, all_labels = smote.fit_resample(points[start], labels[start])
    sources, partners, shares = (np.concatenate(parts) for parts in zip(*smote.made_of_, strict=True))
    sample = Sample(
        rows=everything.rows[np.concatenate([start, sources])],
        partners=everything.rows[np.concatenate([start, partners])],
        shares=np.concatenate([np.zeros(len(start), np.float32), np.where(sources == partners, 0, shares)]),
    )
    if params.sampler == "smote":
        return _take(sample, np.arange(len(sample)))
    edited = [label for label, count in counts.items() if count >= params.sampler_min_rows]
    return _take(sample, _edit(all_labels, all_points, edited=edited, num_neighbors=params.sampler_neighbors))


class _AvailableNeighbors(NearestNeighbors):  # type: ignore[misc]
    """As many neighbours as asked for, or as there are."""

    def kneighbors(self, points: Points, return_distance: bool = True) -> Any:
        return super().kneighbors(points, min(self.n_neighbors, self.n_samples_fit_), return_distance)


class _RecordingSMOTE(SMOTE):  # type: ignore[misc]
    """imbalanced-learn's SMOTE, which also tells what each synthetic point was made of."""

    def _fit_resample(self, points: Points, labels: Labels) -> Any:
        nothing = np.empty(0, np.int64)
        self._labels = labels
        self.made_of_ = [(nothing, nothing, np.empty(0, np.float32))]  # sources, partners and shares, class by class
        return super()._fit_resample(points, labels)

    def _generate_samples(self, *arguments: Any) -> Any:
        # Positions within the class: `neighbors` (members, k), and of each new point its source, the column of its
        # neighbour and the share of that, `steps` (n, 1).
        _, _, neighbors, sources, columns, steps, label, *_ = arguments
        members = np.flatnonzero(self._labels == label)
        partners = members[neighbors[sources, columns]]
        self.made_of_.append((members[sources], partners, steps[:, 0].astype(np.float32)))
        return super()._generate_samples(*arguments)


def _counts(labels: Labels) -> dict[int, int]:
    """Return the rows of each class that is there."""
    classes, counts = np.unique(labels, return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _grown(counts: dict[int, int], ratio: float) -> dict[int, int]:
    """Return the rows of each class once the smaller ones have grown to this share of the largest."""
    least = math.floor(ratio * max(counts.values()))
    return {label: max(count, least) for label, count in counts.items()}


def _positions(sampler: Any, labels: Labels, points: Points | None = None) -> Rows:
    """Return the positions that one of imbalanced-learn's samplers chooses, with points or without."""
    sampler.fit_resample(np.empty((len(labels), 1)) if points is None else points, labels)
    return np.asarray(sampler.sample_indices_, dtype=np.int64)


def choose(rows: Rows, labels: NDArray[Any], size: int, *, seed: int) -> Rows:
    """Return so many of the rows at random, in their order; all of them if there are no more.

    Each is as likely as the others. Classes, or small and large numbers, have the share that they have among all rows.
    """
    if size >= len(rows):
        return rows
    random = np.random.default_rng((seed, 0))
    mixed = random.permutation(rows)
    by_label = mixed[np.argsort(labels[mixed], kind="stable")]
    places = (np.arange(size) + random.random()) * len(rows) / size  # one in each of so many equal parts
    return np.sort(by_label[places.astype(np.int64)])
