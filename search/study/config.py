"""The study file as frozen models: its keys, and how it is loaded, recorded and compared."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from fold_search.models.params import ModelParams
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import METRICS, TOP_K
from fold_search.search.errors import ConfigError
from fold_search.search.study import defaults
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
from fold_search.search.study.study_file import parse_override, read_study_file, text_at
from fold_search.search.study.wording import describe, is_unquoted, location, renamed, unmet, without_password
from fold_search.words import nearest

_DURATION = re.compile(r"(?:(?P<d>\d{1,9})d)?(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?(?:(?P<s>\d{1,9})s)?")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_MAY_CHANGE = {"budget", "artifacts", "storage", "trackers"}


def _parse_time(value: object) -> float | None:
    """Seconds of "1h30m", or of a number of seconds."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        counts = _DURATION.fullmatch(str(value))
        seconds = sum(int(count) * _SECONDS[unit] for unit, count in counts.groupdict("0").items()) if counts else 0.0
    if not seconds > 0:
        raise unmet("a time above 0 such as 2h, 90m, 1h30m or a number of seconds")
    return seconds


def _check_time(value: Any) -> Any:
    seconds = _parse_time(value)
    return seconds if isinstance(value, int) else value


def _switch(value: object) -> object:
    """Let `mlflow: null` and `mlflow: false` switch a tracker off, and `true` switch it on."""
    return {"enabled": bool(value)} if value is None or isinstance(value, bool) else value


def _check_metric(name: str | None) -> str | None:
    if name is not None and name not in METRICS:
        close = nearest(name, METRICS)
        raise unmet(f"a metric; did you mean {close}?" if close else f"one of {', '.join(METRICS)}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# An address's password is in neither a dump nor a repr of the study file.
Address = Annotated[str, Field(min_length=1, repr=False), PlainSerializer(without_password)]


class GoalConfig(_Section):
    """The score and the sampler of Optuna's study."""

    metric: str = Field("macro_f1", description="The validation score. A fold's score is that of its best epoch.")
    epoch_metric: str | None = Field(
        None, description="The metric that chooses the best epoch of a fold; null: the same as metric."
    )
    top_k: int = Field(TOP_K, ge=1, description="The k of top_k_accuracy, ndcg_at_k and map_at_k.")
    negative_label: str | None = Field(
        None, description="The class that micro_f1_without_negative leaves out, such as no_relation."
    )
    positive_label: str | None = Field(None, description="The class of class_precision, class_recall and class_f1.")
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="How Optuna proposes trials. grid: every combination once, in order."
    )
    defaults: bool = Field(
        True,
        description="Whether the first trial has the usual values of what is searched instead of random ones, as near "
        "to them as the ranges allow: a known good start. Not with the sampler grid.",
    )
    diverged: Literal["worst", "failed"] = Field(
        "worst",
        description="What happens to a trial whose loss, gradients or score become infinite or NaN. worst: it is "
        "stopped and gets the worst score of the metric (no score for mae, mse and r2, which have no worst one), so "
        "the sampler avoids such params. failed: it counts as failed, and the sampler learns nothing from it.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of proposals, initial weights and batch order.")

    _is_known = field_validator("metric", "epoch_metric")(_check_metric)


class FoldsConfig(_Section):
    """The K folds of cross-validation."""

    k: int = Field(5, ge=2, le=100, description="Number of folds.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the split.")
    stratified: bool = Field(True, description="Whether each fold has the same share of each class.")
    group_duplicates: bool = Field(True, description="Whether rows with the same text are put in the same fold.")


class RaceConfig(_Section):
    """The race: it chooses what is trained next, and stops trials early."""

    rule: Annotated[Literal["paired", "early_stopping_cv", "none"], BeforeValidator(renamed)] = Field(
        "paired",
        description="paired: train first what is most likely to become the best trial for its cost, judged by scores "
        "on the same folds and by params; pause the others; stop what is very unlikely to win. early_stopping_cv "
        "(once called forgiving): stop a trial if its mean over the finished folds is not better than the best trial's "
        "worst of them. none: train every trial to the end.",
    )
    risk: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Accepted risk that the trial which would have won without a race is stopped. Below 0.03 much more "
        "is trained, because early epochs cannot tell that surely. Only with paired.",
    )
    order: Literal["adaptive", "breadth"] = Field(
        "adaptive",
        description="What is trained next. breadth: the first fold of every trial before any second fold. adaptive: "
        "the most promising fold run. Only with paired.",
    )
    audit: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the trials that are trained to the end even if the race would stop them. They show "
        "whether the race's estimated risks are true. Only with paired.",
    )
    min_trials: int | None = Field(
        None,
        ge=1,
        description="Nothing is stopped before this many trials have finished their first fold (paired; null: 4) or "
        "all folds (early_stopping_cv; null: 8).",
    )
    min_epochs: int = Field(1, ge=1, description="Epochs that a fold run trains before it may be stopped or paused.")

    @property
    def fewest_trials(self) -> int:
        """`min_trials`, or the rule's default."""
        return self.min_trials or (8 if self.rule == "early_stopping_cv" else 4)


class BudgetConfig(_Section):
    """The limits of the search."""

    trials: int = Field(30, ge=1, description="Number of trials of the whole study, over all its runs.")
    time: Annotated[str | float | None, PlainValidator(_check_time)] = Field(
        None,
        description="Time limit of one `search run`, counted from the command: 2h, 90m, 1h30m or seconds; null: no "
        "limit. When the time gets short, the folds of the best trial go before all others.",
    )
    max_failures: int = Field(
        10,
        ge=1,
        description="A run ends after this many failed trials in a row, with the reason; the same command continues "
        "it. Diverged trials do not count, because the sampler learns from them.",
    )
    until: Literal["used", "no-expected-gain"] = Field(
        "used",
        description="When new trials end. used: when the budget is used up. no-expected-gain: earlier if ten more "
        "trials are expected to improve the best score by less than its noise over the folds; never before 20 trials.",
    )

    @property
    def seconds(self) -> float | None:
        """`time` in seconds."""
        return _parse_time(self.time)


class StorageConfig(_Section):
    """The addresses of what is kept."""

    url: Address = Field(
        defaults.DATABASE,
        description="SQLAlchemy URL of the study's database. Its password goes into SEARCH_STORAGE_PASSWORD.",
    )
    artifacts: Address = Field("studies/artifacts", description="Folder or fsspec URL of checkpoints and predictions.")
    cache: str = Field("studies/cache", min_length=1, description="Folder of tokens and embeddings; may be deleted.")
    encoders: str | None = Field(
        None,
        min_length=1,
        description="Only with `--set` in commands without a study file, such as `search worker`: the folder where "
        "relative encoder folders start on this machine. In a study file they start at the file's folder.",
    )


class ArtifactsConfig(_Section):
    """What stays on disk: trained weights, checkpoints."""

    keep: Literal["best", "top", "all", "none"] = Field(
        "best",
        description="Which complete trials keep their trained weights: the best one, the `top` best, all, or none. "
        "`search export` trains again what was not kept.",
    )
    top: int = Field(5, ge=1, description="How many trials keep their weights if keep is top.")
    paused_checkpoints: int = Field(
        100,
        ge=0,
        description="How many paused fold runs keep a checkpoint; those that took longest keep theirs. The others "
        "train their epochs again if the race resumes them.",
    )


class MlflowConfig(_Section):
    """Publishing to MLflow."""

    enabled: bool = Field(True, description="Whether results are published to MLflow.")
    uri: Address = Field(
        defaults.MLFLOW,
        description="MLflow tracking URI: a database or a server. Its password goes into MLFLOW_TRACKING_PASSWORD.",
    )


class NeptuneConfig(_Section):
    """Publishing to Neptune."""

    enabled: bool = Field(False, description="Whether results are published to Neptune. It needs the extra `neptune`.")
    directory: str = Field("studies/neptune", min_length=1, description="Folder of the offline runs.")


class TrackersConfig(_Section):
    """The trackers that the publisher fills."""

    mlflow: Annotated[MlflowConfig, BeforeValidator(_switch)] = Field(MlflowConfig(), description="MLflow.")
    neptune: Annotated[NeptuneConfig, BeforeValidator(_switch)] = Field(
        NeptuneConfig(),
        description="Neptune: online if NEPTUNE_API_TOKEN and NEPTUNE_PROJECT are set, else offline.",
    )


class StudyConfig(_Section):
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
    return config.model_dump(mode="json", exclude={**dict.fromkeys(_MAY_CHANGE, True), "data": moved})


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
