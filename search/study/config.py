"""The study file as frozen models: its keys, and how it is loaded, recorded and compared."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fold_search.models.params import ModelParams
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.params import Params, TrainingParams
from fold_search.search.errors import ConfigError
from fold_search.search.study.columns import check_columns
from fold_search.search.study.encoder_places import anchored, as_begun, starting_here
from fold_search.search.study.overrides import lay_over
from fold_search.search.study.parameters import (
    Choices,
    Domain,
    Range,
    check_combinations,
    check_conditions,
    check_domains,
)
from fold_search.search.study.sections import (
    ArtifactsConfig,
    BudgetConfig,
    FoldsConfig,
    GoalConfig,
    RaceConfig,
    Section,
    StorageConfig,
    TrackersConfig,
)
from fold_search.search.study.study_file import parse_override, read_study_file, text_at
from fold_search.search.study.wording import describe, is_unquoted, location, unmet

_MAY_CHANGE = {"budget", "artifacts", "storage", "trackers"}


class StudyConfig(Section):
    """The whole study file."""

    study: GoalConfig = Field(GoalConfig(), description="The metric to optimise, and how trials are proposed.")
    data: DataSpec = Field(description="The data file and its columns.")
    model: ModelParams = Field(description="The encoder and its head. Values sampled from space replace these.")
    training: TrainingParams = Field(
        TrainingParams(), description="How folds are trained. Values sampled from space replace these."
    )
    space: dict[str, Domain] = Field(
        default_factory=dict, description="What to search: fields of model and training, each with a range or choices."
    )
    folds: FoldsConfig = Field(
        FoldsConfig(), description="How rows are split for cross-validation. The split is fixed when the study begins."
    )
    race: RaceConfig = Field(RaceConfig(), description="When trials are paused or stopped early.")
    budget: BudgetConfig = Field(BudgetConfig(), description="When the search ends: at the first of these limits.")
    artifacts: ArtifactsConfig = Field(
        ArtifactsConfig(), description="Which trained weights and checkpoints are kept in storage.artifacts."
    )
    storage: StorageConfig = Field(
        StorageConfig(), description="Where the study is stored. Relative paths start at the working directory."
    )
    trackers: TrackersConfig = Field(
        TrackersConfig(), description="Where results are published. null or false switches a tracker off."
    )

    @field_validator("space", mode="before")
    @classmethod
    def _drop_what_is_not_searched(cls, space: object) -> object:
        return {name: form for name, form in space.items() if form is not None} if isinstance(space, dict) else space

    @field_validator("space")
    @classmethod
    def _fits_the_fields(cls, space: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
        return check_domains(space)

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        Params(model=self.model, training=self.training)
        check_conditions(self.space, self.fixed)
        check_combinations(self.space, self.fixed)
        check_columns(self.data, self.model, self.space)
        for name, domain in self.space.items() if self.study.sampler == "grid" else ():
            if domain.values() is None:
                raise unmet(
                    "a step, because the sampler is grid",
                    path=("space", name),
                    found=domain.model_dump(exclude_defaults=True),
                )
        return self

    @property
    def fixed(self) -> dict[str, Any]:
        """The fixed value of every parameter, searched or not."""
        return {**self.model.model_dump(), **self.training.model_dump()}


def load_config(path: Path, overrides: Sequence[str] = (), *, notes: list[str] | None = None) -> StudyConfig:
    """Read the study file, then apply `section.field=value` overrides to it.

    A relative path, of data or of an encoder, starts at the study file's folder; in an override, at the working
    directory. An override of a searched parameter fixes it, as `space.NAME=null` does. Parameters that then have no
    effect are not searched either; `notes` gets a line for each. Raises ConfigError, one line.
    """
    sections = read_study_file(path)
    _anchor(sections, path.parent)
    settings = [parse_override(text) for text in overrides]
    dropped = lay_over(sections, settings)
    if notes is not None:
        notes += dropped
    _anchor(sections, Path.cwd())
    config = _validated(sections, source=path, overrides=overrides)
    if config.storage.encoders is not None:
        raise ConfigError(
            f"{path}: storage.encoders: cannot be set in a study file, where relative encoder folders start at its "
            "folder"
        )
    return starting_here(config)


def config_from_record(record: Mapping[str, Any], overrides: Sequence[str] = ()) -> StudyConfig:
    """Return the config of a record by `to_record`, to which `overrides` were applied; raises ConfigError, one line."""
    return _validated(record, source="the study's record", overrides=overrides)


def to_record(config: StudyConfig) -> dict[str, Any]:
    """Return all sections as JSON values, without passwords; `config_from_record` reads them."""
    return config.model_dump(mode="json")


def fingerprint(config: StudyConfig) -> str:
    """Return the sha256 of all that must not change when the study is continued."""
    return hashlib.sha256(json.dumps(_lasting(config), sort_keys=True).encode()).hexdigest()


def differences(begun: StudyConfig, now: StudyConfig) -> list[str]:
    """Return the changes that a study must not have, such as "training.epochs: 3 -> 4"; empty if it may be continued.

    An encoder's folder may be named relative to another working directory.
    """
    before, after = _written_leaves(begun), _written_leaves(as_begun(begun, now))
    return [
        f"{key}: {before.get(key, 'nothing')} -> {after.get(key, 'nothing')}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _lasting(config: StudyConfig) -> dict[str, Any]:
    # The files may be moved or rewritten; the ledger has a fingerprint of their content.
    moved = {"path", "extra", "images", "encoding", "quotes"}
    apart = {"data": moved, "study": {"baselines"}}
    return config.model_dump(mode="json", exclude={**dict.fromkeys(_MAY_CHANGE, True), **apart})


def _written_leaves(config: StudyConfig) -> dict[str, str]:
    """Each key of what must not change with its value as text, a range without what it leaves open."""
    sections = _lasting(config) | {"space": config.model_dump(mode="json", exclude_defaults=True).get("space", {})}
    return {f"{section}.{key}": json.dumps(value) for section, keys in sections.items() for key, value in keys.items()}


def _anchor(sections: Mapping[str, Any], folder: Path) -> None:
    data, model, space = (sections.get(name) for name in ("data", "model", "space"))
    for key in ("path", "extra", "images"):
        if isinstance(data, dict) and isinstance(data.get(key), str):
            data[key] = os.path.abspath(folder / os.path.expanduser(data[key]))
    if isinstance(model, dict) and isinstance(model.get("encoder"), str):
        model["encoder"] = anchored(model["encoder"], folder)
    encoders = space.get("encoder") if isinstance(space, dict) else None
    encoders = encoders.get("choices") if isinstance(encoders, dict) else encoders
    if isinstance(encoders, list):
        encoders[:] = [anchored(name, folder) if isinstance(name, str) else name for name in encoders]


def _validated(sections: Mapping[str, Any], *, source: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    try:
        as_json = json.dumps(sections, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError(f"{source}: expected finite numbers, text, lists and sections only") from None
    try:
        # As JSON, because pydantic's strict mode then takes lists for tuples and text for paths, and nothing else.
        return StudyConfig.model_validate_json(as_json, strict=True)
    except ValidationError as error:
        # A misspelt key comes before the key that is missing because of it.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    path = location(problems[0])
    overridden = any(parse_override(text).concerns(path) for text in overrides)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = text_at(source, overrides, path) if isinstance(source, Path) and is_unquoted(problems[0]) else None
    what = describe(problems[0], StudyConfig, unquoted=text, in_shell=overridden)
    raise ConfigError(f"{'--set ' if overridden else f'{source}: '}{what}{more}")
