"""`python -m fold_search.search.drafting.reference` writes docs/study-file.md, the reference of the study file."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from fold_search.objectives.scoring.metrics import METRICS, Metric
from fold_search.search.drafting.template import as_yaml
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS, Parameter
from fold_search.search.study.wording import section_of

PATH = Path(__file__).resolve().parents[2] / "docs" / "study-file.md"

_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", NoneType: "null"}

_INTRODUCTION = """\
# The study file

Generated from the models by `python -m fold_search.search.drafting.reference`; do not edit.

`search init DATA --label COLUMN --text COLUMN` writes a study file for a data file. `search run --study NAME --config
FILE` runs it. Only the sections `data` and `model` are required. Unknown keys and values of the wrong type are errors.

**Overrides.** `--set section.key=value` overrides one key for one command. The value is written as in the file. To stop
searching a parameter, fix it (`--set training.dropout=0.1`) or use `--set space.NAME=null`. Parameters that then have
no effect are not searched either; a note names them.

**YAML.** Numbers may be written as `1e-5`. Aliases (`*name`) and repeated keys are errors. YAML reads `yes`, `no`,
`on`, `off` and `true` as truth values, and `01` as a number. If such a word is the name of a class or a column, put it
in quotes: `positive_label: "yes"`, or `--set 'study.positive_label="yes"'`. A key needs no quotes:
`class_weights: {yes: 2, no: 1}`.

**Continuing a study.** `budget`, `artifacts`, `storage` and `trackers` may change. The data file may be moved or saved
in another encoding. Any other change is an error that names what differs.

**Secrets** come from environment variables:

| variable | secret |
| --- | --- |
| `SEARCH_STORAGE_PASSWORD`, or `SEARCH_STORAGE_PASSWORD_FILE` with the name of a file | password of `storage.url` |
| `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_PASSWORD_FILE` | password of `trackers.mlflow.uri` |
| `NEPTUNE_API_TOKEN` and `NEPTUNE_PROJECT` | Neptune is used online |
"""

_METRICS = """\
Each of these can be `metric` or `epoch_metric`. A fold's score is computed on its validation rows, and a trial's score
is the mean over its folds. Tables also show the **pooled score**: the same metric, computed once on the out-of-fold
predictions of all rows together. It varies less if classes are rare.
"""

_SEARCHED = ("model", "training")

_SPACE = """\
Each key is a field of `model` or `training`. It is searched, and its value there is the default.

| form | meaning |
|---|---|
| `{low: 0.0, high: 0.5}` | any number between the two, both included |
| `{low: 1e-5, high: 1e-3, log: true}` | the same on a log scale; `low` must be above 0 |
| `{low: 2, high: 8, step: 2}` | 2, 4, 6 or 8; `high` must be a whole number of steps above `low` |
| `[8, 16, 32]` or `{choices: [8, 16, 32]}` | one of these |

The field must accept every value. A field with a condition ("Only with") is sampled only in trials where the condition
is true. If it can never be true, searching the field is an error. With `study.sampler: grid` every range needs a
`step`, except ranges of whole numbers.
"""


def reference() -> str:
    """Return the whole page as Markdown."""
    return "\n".join([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for name, field in StudyConfig.model_fields.items():
        yield f"## `{name}`\n\n{field.description}\n"
        if name == "space":
            yield _SPACE
        elif name in _SEARCHED:
            parameters = [parameter for parameter in PARAMETERS.values() if parameter.section == name]
            yield _table(
                ("key", "meaning", "type", "default", "suggested range", "source"), map(_parameter, parameters)
            )
        else:
            yield _table(("key", "meaning", "type", "default"), _keys(field.annotation))
        if name == "study":
            yield _METRICS
            yield _table(("metric", "meaning", "better", "for", "source"), map(_metric, METRICS.values()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join([*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""])


def _keys(model: Any, prefix: str = "") -> Iterator[Sequence[str]]:
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None or field.annotation is not inner:
            yield f"`{prefix}{name}`", field.description or "", _type(field), _default(field)
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")


def _parameter(parameter: Parameter) -> Sequence[str]:
    """What can be searched: with its condition, the range that `search init` proposes, and where it comes from."""
    conditions = [f"Only with `{other}: {' | '.join(values)}`." for other, values in parameter.when.items()]
    return (
        f"`{parameter.name}`",
        " ".join([parameter.field.description or "", *conditions]),
        _type(parameter.field),
        _default(parameter.field),
        f"`{as_yaml(parameter.suggested)}`" if parameter.suggested else "",
        parameter.declared.get("source") or "",
    )


def _metric(metric: Metric) -> Sequence[str]:
    better = "larger" if metric.direction == "maximize" else "smaller"
    return f"`{metric.name}`", metric.meaning, better, metric.task, metric.source


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{as_yaml(field.default)}`"


def _type(field: FieldInfo) -> str:
    """The type in words, and the bounds."""
    bounds = [_bound(limit) for limit in field.metadata]
    return ", ".join([_words(field.annotation), *filter(None, bounds)])


def _words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"{_words(get_args(annotation)[0])}, or a list"
    if get_origin(annotation) is dict:
        return "`{name: number}`"
    if section_of(annotation) is annotation:
        return "a section"
    if get_args(annotation):
        return " or ".join(map(_words, get_args(annotation)))
    return _TYPES[annotation]


def _bound(limit: object) -> str:
    match limit:
        case Ge(ge=bound):
            return f"≥ {bound}"
        case Gt(gt=bound):
            return f"> {bound}"
        case Le(le=bound):
            return f"≤ {bound}"
        case Lt(lt=bound):
            return f"< {bound}"
        case MinLen():
            return "not empty"
    return ""


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
