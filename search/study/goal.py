"""What a study is scored by: the metrics that its file names, on the classes that its data has."""

from collections.abc import Sequence

from fold_search.objectives.data.names import quoted, which_label
from fold_search.objectives.errors import DataError
from fold_search.objectives.scoring.defined import check_metric
from fold_search.objectives.scoring.metrics import METRICS, Goal, Metric
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig


def study_metric(config: StudyConfig) -> Metric:
    """The metric that trials are ranked by."""
    return METRICS[config.study.metric]


def make_goal(config: StudyConfig, label_names: Sequence[str]) -> Goal:
    """Return the goal on these classes, none for a numeric label.

    Raises ConfigError if a metric says nothing about them or a label that the file names is not among them.
    """
    study = config.study
    goal = Goal(
        metric=study.metric,
        epoch_metric=study.epoch_metric or study.metric,
        top_k=study.top_k,
        negative=_index("negative_label", study.negative_label, label_names),
        positive=_index("positive_label", study.positive_label, label_names),
    )
    for key, name in (("study.metric", goal.metric), ("study.epoch_metric", goal.epoch_metric)):
        try:
            check_metric(
                name,
                task=config.data.task,
                num_classes=len(label_names),
                has_negative=goal.negative is not None,
                has_positive=goal.positive is not None,
                top_k=goal.top_k,
                key=key,
            )
        except DataError as error:
            raise ConfigError(str(error)) from None
    return goal


def _index(key: str, label: str | None, label_names: Sequence[str]) -> int | None:
    if label is None:
        return None
    if label not in label_names:
        raise ConfigError(
            f"study.{key}: found {quoted(label)}, which is not a label of the data; {which_label(label, label_names)}"
        )
    return list(label_names).index(label)
