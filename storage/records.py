"""What the ledger hands out: the states, and one frozen record per study, trial, fold run, epoch, claim and event."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, Literal, Protocol

Direction = Literal["maximize", "minimize"]


class StudyState(StrEnum):
    """Whether a study still wants trials. FAILED: too many trials in a row failed."""

    RUNNING = auto()
    FINISHED = auto()
    FAILED = auto()


class TrialState(StrEnum):
    """RUNNING until it is decided how the trial ends. After that none of its fold runs is claimed."""

    RUNNING = auto()
    COMPLETE = auto()
    STOPPED = auto()
    FAILED = auto()


class FoldRunState(StrEnum):
    """A fold run changes between WAITING, LEASED and PAUSED. DONE, STOPPED and FAILED are final."""

    WAITING = auto()
    LEASED = auto()
    PAUSED = auto()
    DONE = auto()
    STOPPED = auto()
    FAILED = auto()


class Failure(StrEnum):
    """What kind of thing went wrong with a fold run; `words` are for people.

    DIVERGED: loss, gradients or score are not finite. OUT_OF_MEMORY: not even one row at a time fits. LOST_WORKER: its
    process died or hung. CONFIGURATION: the params cannot be trained on this data. CODE_ERROR: any other exception.
    """

    DIVERGED = auto()
    OUT_OF_MEMORY = auto()
    LOST_WORKER = auto()
    CONFIGURATION = auto()
    DATA_ERROR = auto()
    MODEL_ERROR = auto()
    STORAGE_ERROR = auto()
    CODE_ERROR = auto()

    @property
    def words(self) -> str:
        """The kind in plain words."""
        return self.value.replace("_", " ")


OPEN_STATES = frozenset({FoldRunState.WAITING, FoldRunState.LEASED, FoldRunState.PAUSED})


class EventKind(StrEnum):
    """What happened, and the keys of its payload.

    | kind | payload |
    |---|---|
    | study_created | name, config, metric, direction, num_folds, fingerprints, provenance |
    | trial_started | params |
    | trial_audited | reason, chance |
    | fold_started | owner, attempt, num_epochs |
    | fold_sampled | num_rows_in, num_rows_out, num_synthetic, num_validation_rows_used, counts_before, counts_after, |
    | | rows_in, rows_out, proof |
    | out_of_memory | device, shape, rows |
    | epoch | score, standing, metrics, seconds |
    | fold_finished | state, score, best_epoch, reason, failure, seconds; also for fold runs that never started |
    | fold_released | state (waiting or paused), reason, failure, owner |
    | trial_finished | state, score, std, pooled, estimate, reason, failure, chance, audited, params, fold_scores, |
    | | best (trial and score, or null) |
    | baseline | name, label, score, std, pooled, fold_scores, reason, seconds |
    | study_finished | state (finished or failed), reason, race (work_saved and the figures of the race) |
    | study_reopened | nothing |
    """

    STUDY_CREATED = auto()
    TRIAL_STARTED = auto()
    TRIAL_AUDITED = auto()
    FOLD_STARTED = auto()
    FOLD_SAMPLED = auto()
    OUT_OF_MEMORY = auto()
    EPOCH = auto()
    FOLD_FINISHED = auto()
    FOLD_RELEASED = auto()
    TRIAL_FINISHED = auto()
    BASELINE = auto()
    STUDY_FINISHED = auto()
    STUDY_REOPENED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A study: what is searched, on which data, since when (seconds since 1970, the database's clock)."""

    id: int
    name: str
    state: StudyState
    config: dict[str, Any]
    metric: str
    direction: Direction
    num_folds: int
    fingerprints: dict[str, str]
    provenance: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial and the score of each of its folds, None where the fold run is not DONE.

    `score` is their mean. `pooled` is the pooled score: the same metric of the out-of-fold predictions of all rows
    together. `chance` is the race's estimate that the trial is the best after all folds, from when it last paused or
    stopped the trial. An `audited` trial would have been stopped at that chance, but is trained on as a check.
    `failure` is that of the fold run that ended the trial, if one did.
    """

    number: int
    state: TrialState
    params: dict[str, Any]
    score: float | None
    std: float | None
    pooled: float | None
    estimate: float | None
    reason: str | None
    chance: float | None
    audited: bool
    failure: Failure | None
    told: bool
    fold_scores: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRun:
    """One fold of one trial; `owner` is who holds it or held it last.

    `attempt` counts from 1. It rises when a lease is lost, not when a worker gives the fold run back. `num_epochs` are
    the epochs recorded so far and `seconds` the time they took. `sample` says what resampling made of the training
    rows. `failure` is what went wrong when the fold run last ended or was given back; None if nothing did.
    """

    id: int
    trial: int
    fold: int
    state: FoldRunState
    owner: str | None
    token: int
    expires_at: float | None
    attempt: int
    reason: str | None
    score: float | None
    best_epoch: int | None
    num_epochs: int
    checkpoint: str | None
    predictions: str | None
    sample: dict[str, Any] | None
    seconds: float
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """What a simple model, no trial, reaches on the same folds; `label` is its name for people.

    `score` is the mean of the folds, `std` and `pooled` are as a trial's. They are None, and there are no
    `fold_scores`, where it could not be computed: then `reason` says why. Beside a score it says what was left out.
    """

    name: str
    label: str
    score: float | None = None
    std: float | None = None
    pooled: float | None = None
    fold_scores: tuple[float, ...] = ()
    reason: str | None = None
    seconds: float = 0.0


class ScoredEpoch(Protocol):
    """What a training reports after an epoch (counted from 1); objectives' EpochScore is one."""

    @property
    def epoch(self) -> int:
        """From 1."""

    @property
    def score(self) -> float:
        """The study's metric on the validation rows."""

    @property
    def standing(self) -> float:
        """The score that the fold would have if it ended now: that of the best epoch so far."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Whatever else was measured."""

    @property
    def seconds(self) -> float:
        """How long the epoch took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One recorded epoch of a fold run."""

    trial: int
    fold: int
    epoch: int
    score: float
    standing: float
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A fold run under a lease. Every write shows its `token`; a later claim has a larger one (see storage.leases)."""

    fold_run: int
    trial: int
    fold: int
    token: int
    attempt: int
    owner: str
    params: dict[str, Any]
    checkpoint: str | None
    num_epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of a study; sequences start at 1 and have no gaps."""

    sequence: int
    at: float
    kind: EventKind
    trial: int | None
    fold: int | None
    epoch: int | None
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How long one worker has held its device, or its `share` of one that several workers use.

    `seconds` are those of the share: two workers on one GPU for an hour are half an hour each. They go up to now while
    the worker is `live`, which is while its role has not lapsed; `at` is when they were written last.
    """

    role: str
    device: str
    share: float
    seconds: float
    at: float
    live: bool
