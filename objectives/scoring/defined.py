"""Which metrics are defined for the data of a study."""

from fold_search.objectives.errors import DataError
from fold_search.objectives.scoring.metrics import METRICS, TOP_K, Goal, Task
from fold_search.words import nearest


def check_metric(
    name: str,
    *,
    task: Task,
    num_classes: int,
    has_negative: bool,
    has_positive: bool,
    top_k: int = TOP_K,
    key: str = "study.metric",
) -> None:
    """Raise DataError, which names the setting `key`, if the metric is unknown or undefined for such data."""
    known = [metric.name for metric in METRICS.values() if metric.task == task]
    if name not in METRICS:
        close = nearest(name, known)
        advice = f"did you mean {close!r}?" if close else f"expected one of {', '.join(known)}"
        raise DataError(f"{key}: there is no metric {name!r}; {advice}")
    metric = METRICS[name]
    if metric.task != task:
        kind = "classes" if task == "classification" else "a numeric label"
        raise DataError(f"{key}: {name} is undefined for {kind}; expected one of {', '.join(known)}")
    if metric.needs and not {"negative": has_negative, "positive": has_positive}[metric.needs]:
        raise DataError(f"{key}: {name} needs a class; study.{metric.needs}_label must name it, and is not set")
    if name == "top_k_accuracy" and top_k >= num_classes:
        raise DataError(
            f"{key}: {name} is always 1 with study.top_k {top_k} and {num_classes} classes; "
            f"expected study.top_k below {num_classes}"
        )


def defined_metrics(goal: Goal, *, task: Task, num_classes: int) -> list[str]:
    """Return the metrics that are defined for such data; those of one class only if the goal names it."""
    names = []
    for name in METRICS:
        try:
            check_metric(
                name,
                task=task,
                num_classes=num_classes,
                has_negative=goal.negative is not None,
                has_positive=goal.positive is not None,
                top_k=goal.top_k,
            )
        except DataError:
            continue
        names.append(name)
    return names
