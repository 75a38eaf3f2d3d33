"""Notes on a study's rows before it runs: what is allowed, but often a mistake."""

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.data.folds import EXTRA, small_classes
from fold_search.objectives.data.names import alike_names, class_name
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.rows import rows_together
from fold_search.words import listed

_MOST_ALIKE = 5


def notes_on(dataset: Dataset, config: StudyConfig, assignments: NDArray[np.int16]) -> list[str]:
    """Return one line for each; `assignments` are the folds that the study has, (rows,)."""
    return [*_small_classes(dataset, config), *_alike(dataset), *_split_texts(dataset, config, assignments)]


def _small_classes(dataset: Dataset, config: StudyConfig) -> list[str]:
    if dataset.spec.task == "regression":
        return []
    own = len(dataset.labels) - dataset.num_extra
    classes = small_classes(dataset.strata[:own], rows_together(dataset, config)[:own], config.folds.k)
    small = [dataset.label_names[label] for label in classes]
    if not small:
        return []
    named = listed(map(class_name, small), most=8)
    return [
        f"{len(small)} classes have fewer rows than there are folds ({config.folds.k}), so some folds validate without "
        f"them: {named}"
    ]


def _alike(dataset: Dataset) -> list[str]:
    """Say which classes are probably meant as one."""
    groups = alike_names(dataset.label_names)
    if not groups:
        return []
    own = len(dataset.labels) - dataset.num_extra
    rows = np.bincount(dataset.strata[:own], minlength=len(dataset.label_names)).tolist()
    counts = dict(zip(dataset.label_names, rows, strict=True))
    named = "; ".join(group.describe(counts) for group in groups[:_MOST_ALIKE])
    more = f"; and {len(groups) - _MOST_ALIKE} more such" if len(groups) > _MOST_ALIKE else ""
    return [
        f"some class names look alike: {named}{more}. Each stays a class; if they mean the same, give them the same "
        "name"
    ]


def _split_texts(dataset: Dataset, config: StudyConfig, assignments: NDArray[np.int16]) -> list[str]:
    """Say how many rows are validated in one fold while another row with their text is in another, and why."""
    own = assignments != EXTRA
    contents, folds = dataset.contents[own], assignments[own]
    pairs = np.unique(contents * config.folds.k + folds) // config.folds.k
    several = pairs[:-1][pairs[1:] == pairs[:-1]]
    count = int(np.isin(contents, several).sum())
    if not count:
        return []
    same = "image file" if config.data.image is not None else "text"
    if config.data.group is not None:
        why = f"data.group puts the rows of one {config.data.group} into one fold, whatever their {same}"
    elif not config.folds.group_duplicates:
        why = "folds.group_duplicates is false, so scores may be better than on new rows"
    else:
        why = (
            "an earlier version of this program made these folds and did not see that the texts are the same. The "
            "study goes on with them, but its scores are too good; a new study name makes new folds"
        )
    return [f"{count:,} rows have the same {same} as a row in another fold: {why}"]
