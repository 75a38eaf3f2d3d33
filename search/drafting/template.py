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
from fold_search.search.drafting.advice import reason
from fold_search.search.drafting.encoders import proposed_encoder
from fold_search.search.drafting.plan import Plan, concerns, propose
from fold_search.search.drafting.survey import name_some, readable
from fold_search.search.errors import ConfigError
from fold_search.search.reporting.times import in_words
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS, Choices, Range
from fold_search.search.study.sections import (
    ArtifactsConfig,
    BudgetConfig,
    FoldsConfig,
    GoalConfig,
    RaceConfig,
    StorageConfig,
    TrackersConfig,
    parse_time,
)

_WIDTH = 110
# What the short file always has, whether or not it is the default.
_SHORT = {"path", "label", "text", "image", "relation", "encoder", "max_length", "image_size", "k", "trials"}
_KEYS_OF_KIND = {"text": ("text", "separator"), "relation": ("relation",), "image": ("image", "images")}


def write_study_file(plan: Plan, path: Path, *, full: bool = False, overwrite: bool = False) -> None:
    """Write a study file that `load_config` accepts; with `full` every key, with its meaning.

    Raises ConfigError if it exists already or cannot be written.
    """
    text = "\n".join(_lines(plan, path.parent, full=full)) + "\n"
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
    meaning: str
    why: str = ""
    is_comment: bool = False
    group: str = ""
    chosen: bool = False  # for this data and machine: the short file has it too

    def comment(self, *, full: bool) -> str:
        return f"{self.meaning} {self.why}".strip() if full else self.why


def _lines(plan: Plan, folder: Path, *, full: bool) -> Iterator[str]:
    found = plan.found
    label = "a numeric label" if found.spread else f"{len(found.classes):,} classes"
    yield f"# Study file for {readable(found.spec.path.name)}: {found.num_rows:,} rows, {label}."
    if full:
        yield "# Run it as it is: search run --study NAME --config FILE. To search a parameter that is a comment,"
        yield "# remove the # before it; to leave a parameter at its default, add a #. All keys: docs/study-file.md."
    else:
        yield "# Run it as it is: search run --study NAME --config FILE. Keys that are not here have their defaults:"
        yield "# docs/study-file.md has all keys, and `search init --full` writes them all."
    if plan.fit:
        yield from (f"# {line}" for line in textwrap.wrap(reason(plan.fit), _WIDTH))
    for name, entries in _sections(plan, folder).items():
        shown = [entry for entry in entries if full or entry.chosen]
        if not shown:
            continue
        yield f"\n# {StudyConfig.model_fields[name].description}\n{name}:" if full else f"\n{name}:"
        # Python's sort is stable: entries without a heading come first, then one group after the other.
        groups = list(dict.fromkeys(["", *(entry.group for entry in shown)]))
        group = ""
        for entry in sorted(shown, key=lambda entry: groups.index(entry.group)):
            if entry.group != group:
                group = entry.group
                yield f"\n  # {group}"
            if comment := entry.comment(full=full):
                yield textwrap.fill(comment, _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
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
        "budget": _declared(BudgetConfig, values=_budget(plan)),
        "artifacts": _declared(ArtifactsConfig),
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
        chosen = name in values and ((name in _SHORT and value not in (None, ())) or value != field.default)
        entries.append(_Entry(key=name, value=value, meaning=field.description or "", why=why, chosen=chosen))
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
            meaning=PARAMETERS[name].field.description or "",
            why=proposal.why,
            is_comment=not proposal.searched,
            group=proposal.group,
            chosen=proposal.searched,
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
    encoder, why = proposed_encoder(plan.found.spec)
    if plan.encoder not in (None, encoder):
        encoder, why = str(plan.encoder), ""
    trained = {name: (value, f"Trained is {plan.way.words}.") for name, value in plan.way.params.items()}
    if plan.found.spec.kind != "image":
        return {"encoder": (encoder, why), "max_length": (plan.max_length, _length_why(plan)), **trained}
    width, height = (plan.found.lengths[side].most for side in ("width", "height"))
    sizes = f"95% of the images are at most {width:,} wide, 95% at most {height:,} high."
    return {"encoder": (encoder, why), "image_size": (plan.image_size, sizes), **trained}


def _budget(plan: Plan) -> _Values:
    values: dict[str, tuple[Any, str]] = {"trials": (plan.trials, _budget_why(plan))}
    if plan.seconds is not None:
        words = in_words(plan.seconds)
        values["time"] = (words if parse_time(words) == plan.seconds else plan.seconds, "")
    return values


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
    if plan.fit:
        cut = plan.fit.measured.share_cut(plan.max_length)
        return f"About {cut:.1%} of all tokens are cut off." if cut >= 0.001 else "Hardly any text is longer."
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
