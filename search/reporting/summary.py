"""What there is to know of a study, of its trials and of its best one: numbers, also as JSON."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from fold_search.search.racing.audits import RaceFigures, paused_trials, race_figures, trial_states
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.live import Scores
from fold_search.search.racing.ties import Tie, tied_with
from fold_search.search.reporting.baselines import beats_all
from fold_search.search.reporting.provisional import find_provisional
from fold_search.search.study.attended import is_attended, present_runs
from fold_search.search.study.config import config_from_record
from fold_search.search.study.sections import BudgetConfig
from fold_search.search.study.space import most_trials
from fold_search.search.study.spending import Spending, spending
from fold_search.storage.catalog import list_studies
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import (
    BaselineRecord,
    Direction,
    FoldRun,
    FoldRunState,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialState,
)

INTERRUPTED = "interrupted"
UNENDED = ("running", "paused", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best complete trial: the mean of its fold scores with their sample standard deviation.

    `pooled` is the pooled score: the metric of the out-of-fold predictions of all rows together; None if predictions
    are missing.
    """

    trial: int
    score: float
    std: float
    pooled: float | None
    fold_scores: tuple[float, ...]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in numbers. Its state is `interrupted` if it has not ended and no process works on it.

    A trial that has not ended is `running`, `paused` or `waiting` (not begun). `work_saved` is the share of the ended
    trials' epochs that were not trained because the race stopped trials. Epochs that a fold skipped because of
    `patience` do not count, nor do those of diverged trials. An unfinished fold is assumed to need the same share of
    its epochs as the finished ones did. `failures` counts the trials that ended by a failure, by its kind. `used` are
    device hours and money.
    """

    study: str
    state: str
    metric: str
    direction: Direction
    budget: int
    trials: dict[str, int]
    failures: dict[str, int]
    fold_runs: dict[str, int]
    best: Best | None
    epochs_trained: int
    epochs_left: float
    work_saved: float
    race: RaceFigures
    used: Spending
    baselines: tuple[BaselineRecord, ...] = ()
    forecast: dict[str, Any] | None = None  # trials, workers and gpu_hours, at least and at most

    def as_json(self) -> dict[str, Any]:
        """Return the summary with plain types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the ledger says of a study at one time."""

    attended: bool
    record: StudyRecord
    runs: Sequence[FoldRun]
    trials: Sequence[TrialRecord]

    @property
    def plan(self) -> "Plan":
        """What the study may train."""
        return _plan(json.dumps(self.record.config))


def look(ledger: Ledger) -> Known:
    """Read what `summarise` counts."""
    # The fold runs first: a trial that is added between two looks is then among the trials. And the processes before
    # the state: a study that ends meanwhile was not interrupted.
    attended, record = is_attended(ledger), ledger.study()
    runs = present_runs(ledger)
    return Known(attended=attended, record=record, runs=runs, trials=ledger.trials())


def summarise(ledger: Ledger, known: Known | None = None) -> Summary:
    """Count a study's trials, fold runs and epochs and find its best complete trial; `known` if it was read already."""
    known = known or look(ledger)
    attended, record, runs, trials, plan = known.attended, known.record, known.runs, known.trials, known.plan
    needed = _epochs_needed(trials, runs, usual=plan.epochs)
    trained: Counter[int] = Counter()
    untrained: defaultdict[int, float] = defaultdict(float)
    for run in runs:
        trained[run.trial] += run.num_epochs
        untrained[run.trial] += needed[run.id] - run.num_epochs
    stopped = [trial for trial in trials if trial.state is TrialState.STOPPED and trial.failure is None]
    saved = sum(untrained[trial.number] for trial in stopped)
    trained_of_ended = sum(trained[trial.number] for trial in trials if trial.state is not TrialState.RUNNING)
    work_saved = saved / (saved + trained_of_ended) if saved else 0.0
    per_trial = sum(needed.values()) / len(trials) if trials else plan.folds * plan.epochs
    to_come = max(0, plan.trials - len(trials)) * per_trial
    under_way = sum(untrained[trial.number] for trial in trials if trial.state is TrialState.RUNNING)
    return Summary(
        study=record.name,
        state=record.state.value if attended or record.state is not StudyState.RUNNING else INTERRUPTED,
        metric=record.metric,
        direction=record.direction,
        budget=plan.trials,
        trials=dict(Counter(trial_states(trials, runs).values())),
        failures=dict(Counter(trial.failure.value for trial in trials if trial.failure)),
        fold_runs=dict(Counter(run.state.value for run in runs)),
        best=find_best(record, trials),
        epochs_trained=sum(trained.values()),
        epochs_left=(to_come + under_way) * (1 - work_saved),
        work_saved=work_saved,
        race=race_figures(trials, runs, record.direction),
        used=spending(ledger, plan.budget),
        baselines=tuple(ledger.baselines()),
        forecast=record.provenance.get("forecast"),
    )


def summarise_all(url: str) -> list[Summary]:
    """Summarise every study of a database."""
    engine = connect(url, create=False)
    migrate(engine)
    return [summarise(Ledger(engine, record.id)) for record in list_studies(engine)]


def most_epochs(ledger: Ledger, trial: int) -> int:
    """The epochs of a fold run of the trial, unless its patience ends it earlier."""
    return int(ledger.params()[trial].get("epochs", _plan(json.dumps(ledger.study().config)).epochs))


def find_best(record: StudyRecord, trials: Sequence[TrialRecord]) -> Best | None:
    """The complete trial with the best mean, the earliest of equals; a stopped trial is never the best."""
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.score is not None and math.isfinite(t.score)]
    if not complete:
        return None
    best = max(complete, key=lambda trial: (worth(record, trial), -trial.number))
    return Best(
        trial=best.number,
        score=best.score or 0.0,
        std=best.std or 0.0,
        pooled=best.pooled,
        fold_scores=tuple(score for score in best.fold_scores if score is not None),
        params=dict(best.params),
    )


def ranked(
    record: StudyRecord, trials: Sequence[TrialRecord], *, expected: Mapping[int, float] = MappingProxyType({})
) -> list[TrialRecord]:
    """Complete trials from the best, then those that are open, then the others, each from the latest.

    Open trials come by what is `expected` of them, those of which nothing is known last.
    """
    order = {TrialState.COMPLETE: 0, TrialState.RUNNING: 1, TrialState.STOPPED: 2, TrialState.FAILED: 3}

    def place(trial: TrialRecord) -> tuple[int, float, int]:
        known = replace(trial, score=expected.get(trial.number)) if trial.state is TrialState.RUNNING else trial
        complete = trial.state is TrialState.COMPLETE
        return order[trial.state], -worth(record, known), trial.number if complete else -trial.number

    return sorted(trials, key=place)


def worth(record: StudyRecord, trial: TrialRecord) -> float:
    """The score so that larger is better; what has none is worth least."""
    if trial.score is None or not math.isfinite(trial.score):
        return -math.inf
    return trial.score if record.direction == "maximize" else -trial.score


def best_ties(ledger: Ledger, best: int) -> list[Tie]:
    """The complete trials that cannot be told from the best one, the nearest first."""
    complete = [trial for trial in ledger.trials() if trial.state is TrialState.COMPLETE]
    return tied_with(
        best, {t.number: [score if score is not None else math.nan for score in t.fold_scores] for t in complete}
    )


def best_as_json(ledger: Ledger) -> dict[str, Any] | None:
    """The best trial with plain types, what its folds were trained on, and the trials that cannot be told from it.

    Without a complete trial it is `provisional`: what there is of the one that is expected to end best.

    `samples` has null where it is not recorded.
    """
    summary = summarise(ledger)
    best, used = summary.best, asdict(summary.used)
    baselines = [asdict(baseline) for baseline in summary.baselines]
    if best is None:
        found = find_provisional(ledger)
        return found.as_json() | {"used": used, "baselines": baselines} if found else None
    samples = samples_of(ledger, best.trial)
    tied = [asdict(tie) for tie in best_ties(ledger, best.trial)]
    return {
        "provisional": False,
        **asdict(best),
        "num_validation_rows_used": num_leaked(samples),
        "samples": samples,
        "tied": tied,
        "used": used,
        "baselines": baselines,
        "beats_baselines": beats_all(summary.baselines, best.fold_scores, summary.direction),
    }


def trials_as_json(ledger: Ledger) -> list[dict[str, Any]]:
    """All trials with plain types; a paused one, `paused`, has the estimate of its final mean by now."""
    runs, trials = present_runs(ledger), ledger.trials()
    states, paused = trial_states(trials, runs), estimate_trials(ledger, paused_trials(trials, runs))
    return [
        {
            **asdict(trial),
            "state": states[trial.number],
            "paused": trial.number in paused,
            "estimate": paused.get(trial.number, trial.estimate),
        }
        for trial in trials
    ]


def trials_as_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """All trials as the rows of one table: a column for each number, fold and param; None where there is none."""
    known = trials_as_json(ledger)
    names = list(dict.fromkeys(name for trial in known for name in trial["params"]))
    plain = ("number", "state", "score", "std", "pooled", "estimate", "chance", "audited", "failure", "reason")
    return [
        {name: trial[name] for name in plain}
        | {f"fold_{fold}": score for fold, score in enumerate(trial["fold_scores"])}
        | {name: trial["params"].get(name) for name in names}
        for trial in known
    ]


def estimate_trials(ledger: Ledger, trials: Collection[int]) -> dict[int, float | None]:
    """What the final mean of each of these trials is expected to be."""
    expected = estimates(Scores(ledger).matrix()) if trials else {}
    return {trial: expected.get(trial) for trial in trials}


def samples_of(ledger: Ledger, trial: int) -> list[dict[str, Any] | None]:
    """What each fold of a trial was trained on; None where that is not recorded."""
    return [run.sample for run in ledger.fold_runs() if run.trial == trial]


def num_leaked(samples: Sequence[Mapping[str, Any] | None]) -> int | None:
    """Validation rows that were trained on; None where that is not known of every fold, and none is known of."""
    known = [int(sample["num_validation_rows_used"]) for sample in samples if sample]
    return sum(known) if sum(known) or len(known) == len(samples) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The most that a study trains: its trials, the folds of each, and the epochs of one that samples no number."""

    trials: int
    folds: int
    epochs: int
    budget: BudgetConfig


@lru_cache(maxsize=16)
def _plan(recorded: str) -> Plan:
    """Read the plan from a study's config as JSON.

    It is remembered, since it takes up to 0.2 s and a live view asks every second; by its text, since another
    `search run` may change the budget at any time.
    """
    config = config_from_record(json.loads(recorded))
    return Plan(trials=most_trials(config), folds=config.folds.k, epochs=config.training.epochs, budget=config.budget)


def _epochs_needed(trials: Sequence[TrialRecord], runs: Sequence[FoldRun], *, usual: int) -> dict[int, float]:
    """The epochs that each fold run took, or would take were it trained to its end, by its id.

    `usual` are those of a trial that samples no number of epochs.
    """
    most = {trial.number: int(trial.params.get("epochs", usual)) for trial in trials}
    done = [run for run in runs if run.state is FoldRunState.DONE]
    # Below 1 where patience ends folds early.
    share = sum(run.num_epochs for run in done) / sum(most[run.trial] for run in done) if done else 1.0
    return {
        run.id: run.num_epochs if run.state is FoldRunState.DONE else max(run.num_epochs, share * most[run.trial])
        for run in runs
    }
