"""The sections of the study file that are not declared by the rooms below: what may stand in each."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from fold_search.objectives.scoring.metrics import METRICS, TOP_K
from fold_search.search.study import defaults
from fold_search.search.study.wording import refused, renamed, unmet, without_password
from fold_search.words import nearest

_DURATION = re.compile(r"(?:(?P<d>\d{1,9})d)?(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?(?:(?P<s>\d{1,9})s)?")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_time(value: object) -> float | None:
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
    seconds = parse_time(value)
    return seconds if isinstance(value, int) else value


def _switch(value: object) -> object:
    """Let `mlflow: null` and `mlflow: false` switch a tracker off, and `true` switch it on."""
    return {"enabled": bool(value)} if value is None or isinstance(value, bool) else value


def _check_metric(name: str | None) -> str | None:
    if name is not None and name not in METRICS:
        close = nearest(name, METRICS)
        raise unmet(f"a metric; did you mean {close}?" if close else f"one of {', '.join(METRICS)}")
    return name


class Section(BaseModel):
    """A section: nothing else may stand in it, and it does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# An address's password is in neither a dump nor a repr of the study file.
Address = Annotated[str, Field(min_length=1, repr=False), PlainSerializer(without_password)]


class GoalConfig(Section):
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
    baselines: bool = Field(
        True,
        description="Whether simple models are scored on the same folds, to compare the trials with: the majority "
        "class, TF-IDF with a linear model for texts and relations, and a linear model on the frozen encoder for "
        "images and relations of which only heads are trained. They are no trials.",
    )
    diverged: Literal["worst", "failed"] = Field(
        "worst",
        description="What happens to a trial whose loss, gradients or score become infinite or NaN. worst: it is "
        "stopped and gets the worst score of the metric (no score for mae, mse and r2, which have no worst one), so "
        "the sampler avoids such params. failed: it counts as failed, and the sampler learns nothing from it.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of proposals, initial weights and batch order.")

    _is_known = field_validator("metric", "epoch_metric")(_check_metric)


class FoldsConfig(Section):
    """The K folds of cross-validation."""

    k: int = Field(5, ge=2, le=100, description="Number of folds.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the split.")
    stratified: bool = Field(True, description="Whether each fold has the same share of each class.")
    group_duplicates: bool = Field(True, description="Whether rows with the same text are put in the same fold.")


class RaceConfig(Section):
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


class BudgetConfig(Section):
    """The limits of the search."""

    trials: int = Field(30, ge=1, description="Number of trials of the whole study, over all its runs.")
    time: Annotated[str | float | None, PlainValidator(_check_time)] = Field(
        None,
        description="Time limit of one `search run`, counted from the command: 2h, 90m, 1h30m or seconds; null: no "
        "limit. When the time gets short, the folds of the best trial go before all others.",
    )
    gpu_hours: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Device hours of the whole study, over all its runs and machines: the hours that workers hold a "
        "GPU, from the start of their processes to their end. Without a GPU the hours of each worker count. null: no "
        "limit.",
    )
    money: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Money for the whole study: its device hours times price_per_hour, in any currency. null: no "
        "limit.",
    )
    price_per_hour: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Price of one device hour. All hours of the study count at the price that is set now. Without "
        "budget.money it limits nothing and is only shown.",
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
        return parse_time(self.time)

    @property
    def is_shared(self) -> bool:
        """Whether hours or money are limited, which all runs of the study share."""
        return self.gpu_hours is not None or self.money is not None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.money is not None and self.price_per_hour is None:
            raise refused("needs budget.price_per_hour, the price of one device hour", path=("budget", "money"))
        return self


class StorageConfig(Section):
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


class ArtifactsConfig(Section):
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


class MlflowConfig(Section):
    """Publishing to MLflow."""

    enabled: bool = Field(True, description="Whether results are published to MLflow.")
    uri: Address = Field(
        defaults.MLFLOW,
        description="MLflow tracking URI: a database or a server. Its password goes into MLFLOW_TRACKING_PASSWORD.",
    )


class NeptuneConfig(Section):
    """Publishing to Neptune."""

    enabled: bool = Field(False, description="Whether results are published to Neptune. It needs the extra `neptune`.")
    directory: str = Field("studies/neptune", min_length=1, description="Folder of the offline runs.")


class TrackersConfig(Section):
    """The trackers that the publisher fills."""

    mlflow: Annotated[MlflowConfig, BeforeValidator(_switch)] = Field(MlflowConfig(), description="MLflow.")
    neptune: Annotated[NeptuneConfig, BeforeValidator(_switch)] = Field(
        NeptuneConfig(),
        description="Neptune: online if NEPTUNE_API_TOKEN and NEPTUNE_PROJECT are set, else offline.",
    )
