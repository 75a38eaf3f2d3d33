"""What people look at: the state of a study, its trials and its best one, as tables and as JSON."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from search.config import StudyConfig, config_from_record
from storage.catalog import list_studies
from storage.database import connect, migrate
from storage.ledger import Ledger
from storage.records import FoldRun, StudyRecord, TrialRecord, TrialState

NONE = "-"
FOLD_RUN_WORDS = {
    "done": "done",
    "leased": "running",
    "waiting": "waiting",
    "paused": "paused",
    "stopped": "stopped",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best complete trial: its mean over all folds with the sample standard deviation between them."""

    trial: int
    score: float
    std: float
    fold_scores: tuple[float, ...]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in numbers; `work_saved` is the share of its ended trials' epochs that stopping made unnecessary."""

    study: str
    state: str
    metric: str
    budget: int
    trials: dict[str, int]
    fold_runs: dict[str, int]
    best: Best | None
    epochs_trained: int
    epochs_left: float
    work_saved: float

    def as_json(self) -> dict[str, Any]:
        """Return the summary with plain types."""
        return asdict(self)


def summarise(ledger: Ledger) -> Summary:
    """Count a study's trials, fold runs and epochs and find its best complete trial."""
    record, trials, runs = ledger.study(), ledger.trials(), ledger.fold_runs()
    config = config_from_record(record.config)
    planned = {trial.number: _planned_epochs(config, trial) for trial in trials}
    trained: Counter[int] = Counter()
    for run in runs:
        trained[run.trial] += run.num_epochs
    ended = [trial.number for trial in trials if trial.state is not TrialState.RUNNING]
    planned_of_ended, trained_of_ended = sum(planned[n] for n in ended), sum(trained[n] for n in ended)
    work_saved = 1 - trained_of_ended / planned_of_ended if planned_of_ended else 0.0
    per_trial = statistics.fmean(planned.values()) if planned else config.folds.k * config.training.epochs
    to_come = max(0, config.budget.trials - len(trials)) * per_trial
    open_trials = [trial.number for trial in trials if trial.state is TrialState.RUNNING]
    under_way = sum(planned[n] - trained[n] for n in open_trials)
    return Summary(
        study=record.name,
        state=record.state.value,
        metric=record.metric,
        budget=config.budget.trials,
        trials=dict(Counter(trial.state.value for trial in trials)),
        fold_runs=dict(Counter(run.state.value for run in runs)),
        best=find_best(record, trials),
        epochs_trained=sum(trained.values()),
        epochs_left=(to_come + under_way) * (1 - work_saved),
        work_saved=work_saved,
    )


def find_best(record: StudyRecord, trials: Sequence[TrialRecord]) -> Best | None:
    """The complete trial with the best mean, the earliest of equals; a stopped trial is never the best."""
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.score is not None and math.isfinite(t.score)]
    if not complete:
        return None
    sign = 1 if record.direction == "maximize" else -1
    best = max(complete, key=lambda trial: (sign * (trial.score or 0.0), -trial.number))
    return Best(
        trial=best.number,
        score=best.score or 0.0,
        std=best.std or 0.0,
        fold_scores=tuple(score for score in best.fold_scores if score is not None),
        params=dict(best.params),
    )


def counts_line(summary: Summary) -> str:
    """Trials and fold runs by state in one line."""
    trials = _counted(summary.trials, {state: state for state in ("complete", "running", "stopped", "failed")})
    runs = _counted(summary.fold_runs, FOLD_RUN_WORDS)
    return f"trials {sum(summary.trials.values())}/{summary.budget} ({trials}); fold runs: {runs}"


def _counted(counts: dict[str, int], words: dict[str, str]) -> str:
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)) or "none"


def best_line(summary: Summary) -> str:
    """The best score with its spread, in one line."""
    if summary.best is None:
        return f"best {summary.metric}: none yet (no trial is complete)"
    best = summary.best
    spread = f"{best.score:.4f} ± {best.std:.4f} over {len(best.fold_scores)} folds"
    return f"best {summary.metric}: {spread} (trial {best.trial})"


def render_status(ledger: Ledger, *, most: int = 20) -> RenderableType:
    """A study as a table: its numbers, then its best trials and those still running."""
    record, trials, summary = ledger.study(), ledger.trials(), summarise(ledger)
    runs_by_trial: dict[int, list[FoldRun]] = defaultdict(list)
    for run in ledger.fold_runs():
        runs_by_trial[run.trial].append(run)
    table = Table(title=f"study {record.name} ({record.state.value})", title_justify="left")
    for column in ("trial", "state", f"{record.metric}", "folds", "epochs", "reason"):
        table.add_column(column, overflow="fold")
    for trial in _ranked(record, trials)[:most]:
        table.add_row(*_row(trial, runs_by_trial[trial.number]))
    lines = [
        counts_line(summary),
        best_line(summary),
        f"work saved by stopping: {summary.work_saved:.0%} of the ended trials' epochs",
    ]
    if len(trials) > most:
        lines.append(f"{len(trials) - most} more trials: --json shows all, with their params")
    return Group(table, *lines)


def summarise_all(url: str) -> list[Summary]:
    """Summarise every study of a database."""
    engine = connect(url, create=False)
    migrate(engine)
    return [summarise(Ledger(engine, record.id)) for record in list_studies(engine)]


def render_studies(summaries: Sequence[Summary]) -> RenderableType:
    """Studies as a table, one line each."""
    table = Table("study", "state", "trials", "best", "metric")
    for summary in summaries:
        best = f"{summary.best.score:.4f} ± {summary.best.std:.4f}" if summary.best else NONE
        trials = f"{sum(summary.trials.values())}/{summary.budget}"
        table.add_row(summary.study, summary.state, trials, best, summary.metric)
    return table


def render_best(summary: Summary) -> RenderableType:
    """The best trial's scores and params as a table."""
    if summary.best is None:
        return best_line(summary)
    table = Table(show_header=False)
    for fold, score in enumerate(summary.best.fold_scores):
        table.add_row(f"fold {fold}", f"{score:.4f}")
    table.add_section()
    for name, value in summary.best.params.items():
        table.add_row(name, show(value))
    return Group(best_line(summary), table)


def trials_as_json(ledger: Ledger) -> list[dict[str, Any]]:
    """All trials with plain types."""
    return [{**asdict(trial), "state": trial.state.value} for trial in ledger.trials()]


def show(value: Any) -> str:
    """A parameter's value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _planned_epochs(config: StudyConfig, trial: TrialRecord) -> int:
    return config.folds.k * int(trial.params.get("epochs", config.training.epochs))


def _ranked(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Running trials first, then complete ones from the best, then the others from the latest."""
    sign = 1 if record.direction == "maximize" else -1
    order = {TrialState.RUNNING: 0, TrialState.COMPLETE: 1, TrialState.STOPPED: 2, TrialState.FAILED: 3}
    return sorted(trials, key=lambda t: (order[t.state], -sign * (t.score or 0.0), -t.number))


def _row(trial: TrialRecord, runs: Sequence[FoldRun]) -> tuple[str, ...]:
    score = NONE
    if trial.score is not None:
        score = f"{trial.score:.4f} ± {trial.std or 0.0:.4f}"
    elif trial.estimate is not None:
        score = f"(about {trial.estimate:.4f})"
    folds = " ".join(NONE if value is None else f"{value:.3f}" for value in trial.fold_scores)
    epochs = str(sum(run.num_epochs for run in runs))
    return str(trial.number), trial.state.value, score, folds, epochs, trial.reason or ""
