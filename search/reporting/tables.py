"""The state of a study, its trials and its best trial, as tables and as JSON."""

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table

from fold_search.search.racing.audits import RaceFigures, paused_trials, race_figures, race_line, trial_states
from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.live import Scores
from fold_search.search.racing.ties import Tie, tied_with
from fold_search.search.racing.verdicts import percent
from fold_search.search.study.attended import is_attended, present_runs
from fold_search.search.study.config import StudyConfig, config_from_record
from fold_search.search.study.space import most_trials
from fold_search.storage.catalog import list_studies
from fold_search.storage.database import connect, migrate, redact
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import (
    OPEN_STATES,
    Direction,
    Failure,
    FoldRun,
    FoldRunState,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialState,
)

NONE = "-"
INTERRUPTED = "interrupted"
UNENDED = ("running", "paused", "waiting")
MOST_TIES = 8
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
    its epochs as the finished ones did. `failures` counts the trials that ended by a failure, by its kind.
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

    def as_json(self) -> dict[str, Any]:
        """Return the summary with plain types."""
        return asdict(self)


def summarise(ledger: Ledger) -> Summary:
    """Count a study's trials, fold runs and epochs and find its best complete trial."""
    # The fold runs first: a trial that is added between two looks is then among the trials. And the processes before
    # the state: a study that ends meanwhile was not interrupted.
    attended, record, runs, trials = is_attended(ledger), ledger.study(), present_runs(ledger), ledger.trials()
    config = config_from_record(record.config)
    budget, needed = most_trials(config), _epochs_needed(config, trials, runs)
    trained: Counter[int] = Counter()
    untrained: defaultdict[int, float] = defaultdict(float)
    for run in runs:
        trained[run.trial] += run.num_epochs
        untrained[run.trial] += needed[run.id] - run.num_epochs
    stopped = [trial for trial in trials if trial.state is TrialState.STOPPED and trial.failure is None]
    saved = sum(untrained[trial.number] for trial in stopped)
    trained_of_ended = sum(trained[trial.number] for trial in trials if trial.state is not TrialState.RUNNING)
    work_saved = saved / (saved + trained_of_ended) if saved else 0.0
    per_trial = sum(needed.values()) / len(trials) if trials else config.folds.k * config.training.epochs
    to_come = max(0, budget - len(trials)) * per_trial
    under_way = sum(untrained[trial.number] for trial in trials if trial.state is TrialState.RUNNING)
    return Summary(
        study=record.name,
        state=record.state.value if attended or record.state is not StudyState.RUNNING else INTERRUPTED,
        metric=record.metric,
        direction=record.direction,
        budget=budget,
        trials=dict(Counter(trial_states(trials, runs).values())),
        failures=dict(Counter(trial.failure.value for trial in trials if trial.failure)),
        fold_runs=dict(Counter(run.state.value for run in runs)),
        best=find_best(record, trials),
        epochs_trained=sum(trained.values()),
        epochs_left=(to_come + under_way) * (1 - work_saved),
        work_saved=work_saved,
        race=race_figures(trials, runs, record.direction),
    )


def find_best(record: StudyRecord, trials: Sequence[TrialRecord]) -> Best | None:
    """The complete trial with the best mean, the earliest of equals; a stopped trial is never the best."""
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.score is not None and math.isfinite(t.score)]
    if not complete:
        return None
    best = max(complete, key=lambda trial: (_worth(record, trial), -trial.number))
    return Best(
        trial=best.number,
        score=best.score or 0.0,
        std=best.std or 0.0,
        pooled=best.pooled,
        fold_scores=tuple(score for score in best.fold_scores if score is not None),
        params=dict(best.params),
    )


def counts_line(summary: Summary) -> str:
    """Trials and fold runs by state in one line."""
    trials = _counted(summary.trials, {state: state for state in ("complete", *UNENDED, "stopped", "failed")})
    runs = _counted(summary.fold_runs, FOLD_RUN_WORDS)
    failures = _counted(summary.failures, {kind.value: kind.words for kind in Failure})
    line = f"trials {sum(summary.trials.values())}/{summary.budget} ({trials}); fold runs: {runs}"
    return f"{line}; failures: {failures}" if summary.failures else line


def _counted(counts: dict[str, int], words: dict[str, str]) -> str:
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)) or "none"


def best_line(summary: Summary) -> str:
    """The best score with its spread, in one line."""
    metric = summary.metric if summary.direction == "maximize" else f"{summary.metric} (smaller is better)"
    if summary.best is None:
        return f"best {metric}: none yet (no trial is complete)"
    best = summary.best
    spread = f"{best.score:.4f} ± {best.std:.4f} over {len(best.fold_scores)} folds"
    pooled = "" if best.pooled is None else f", all rows pooled {best.pooled:.4f}"
    return f"best {metric}: {spread}{pooled} (trial {best.trial})"


def render_status(ledger: Ledger, *, most: int = 20) -> RenderableType:
    """A study as a table: its numbers, then its best trials and those still running."""
    record, runs, trials, summary = ledger.study(), present_runs(ledger), ledger.trials(), summarise(ledger)
    runs_by_trial: dict[int, list[FoldRun]] = defaultdict(list)
    for run in runs:
        runs_by_trial[run.trial].append(run)
    states, paused = trial_states(trials, runs), estimate_trials(ledger, paused_trials(trials, runs))
    table = Table(title=f"study {record.name} ({summary.state}): {record.metric}", title_justify="left")
    for column in ("trial", "state", "score", "pooled", "epochs"):
        table.add_column(column, no_wrap=True)
    table.add_column("folds", min_width=len("0.123"))
    table.add_column("reason", overflow="fold", min_width=len("expected"))
    for trial in _ranked(record, trials)[:most]:
        expected = paused.get(trial.number, trial.estimate)
        table.add_row(*_row(trial, runs_by_trial[trial.number], state=states[trial.number], expected=expected))
    lines = [
        counts_line(summary),
        best_line(summary),
        f"stopping trials early saved {summary.work_saved:.0%} of the epochs of ended trials",
        race_line(summary.race),
    ]
    if len(trials) > most:
        lines.append(f"{len(trials) - most} more trials; --json shows all, with their params")
    return Group(table, *lines)


def summarise_all(url: str) -> list[Summary]:
    """Summarise every study of a database."""
    engine = connect(url, create=False)
    migrate(engine)
    return [summarise(Ledger(engine, record.id)) for record in list_studies(engine)]


def how_to_continue(summaries: Sequence[Summary], *, storage: str | None) -> list[str]:
    """A line for each study that was interrupted, with the command; `storage` is what the user named, if anything."""
    where = [] if storage is None else ["--storage", redact(storage)]
    interrupted = [summary.study for summary in summaries if summary.state == INTERRUPTED]
    commands = [shlex.join(["search", "worker", "--study", study, *where]) for study in interrupted]
    return [
        f"interrupted: no process is running it; continue with the same `search run` command, or with: {line}"
        for line in commands
    ]


def render_studies(summaries: Sequence[Summary]) -> RenderableType:
    """Studies as a table, one line each."""
    table = Table(Column("study", overflow="fold"), "state", "trials", "best", "metric")
    for summary in summaries:
        best = f"{summary.best.score:.4f} ± {summary.best.std:.4f}" if summary.best else NONE
        trials = f"{sum(summary.trials.values())}/{summary.budget}"
        table.add_row(summary.study, summary.state, trials, best, summary.metric)
    return table


def render_best(ledger: Ledger) -> RenderableType:
    """The best trial's scores, what its folds were trained on where a sampler changed it, and its params."""
    summary = summarise(ledger)
    best = summary.best
    if best is None:
        return best_line(summary)
    samples = _samples(ledger, best.trial)
    resampled = any(sample["counts_before"] != sample["counts_after"] for sample in samples if sample)
    table = Table(show_header=False)
    for fold, (score, sample) in enumerate(zip(best.fold_scores, samples, strict=True)):
        table.add_row(f"fold {fold}", f"{score:.4f}", *([sample_line(sample)] if resampled and sample else []))
    table.add_section()
    for name, value in best.params.items():
        table.add_row(name, show(value))
    return Group(
        best_line(summary), table, ties_line(best_ties(ledger, best.trial)), leak_line(samples), race_line(summary.race)
    )


def best_ties(ledger: Ledger, best: int) -> list[Tie]:
    """The complete trials that cannot be told from the best one, the nearest first."""
    complete = [trial for trial in ledger.trials() if trial.state is TrialState.COMPLETE]
    return tied_with(
        best, {t.number: [score if score is not None else math.nan for score in t.fold_scores] for t in complete}
    )


def ties_line(ties: Sequence[Tie]) -> str:
    """The trials that are tied with the best one, in one line."""
    named = ", ".join(f"{tie.trial} ({tie.score:.4f})" for tie in ties[:MOST_TIES])
    more = f" and {len(ties) - MOST_TIES} more" if len(ties) > MOST_TIES else ""
    tied = f"trials {named}{more}" if ties else "no other trial"
    return f"tied with the best within the noise between folds: {tied}"


def best_as_json(ledger: Ledger) -> dict[str, Any] | None:
    """The best trial with plain types, what its folds were trained on, and the trials that cannot be told from it.

    `samples` has null where it is not recorded.
    """
    best = summarise(ledger).best
    if best is None:
        return None
    samples = _samples(ledger, best.trial)
    tied = [asdict(tie) for tie in best_ties(ledger, best.trial)]
    return {**asdict(best), "num_validation_rows_used": _num_leaked(samples), "samples": samples, "tied": tied}


def sample_line(sample: Mapping[str, Any]) -> str:
    """How resampling changed the training rows of a fold, in one line."""
    before, after = sum(sample["counts_before"]), sum(sample["counts_after"])
    if sample["counts_before"] == sample["counts_after"]:
        return f"{sample['num_rows_in']} rows"
    synthetic = f" ({sample['num_synthetic']} synthetic)" if sample["num_synthetic"] else ""
    sizes = f"class sizes {_ends(sample['counts_before'])} become {_ends(sample['counts_after'])}"
    return f"{after} rows instead of {before}{synthetic}; {sizes}"


def leak_line(samples: Sequence[Mapping[str, Any] | None]) -> str:
    """How many validation rows were also trained on, in one line."""
    leaked = _num_leaked(samples)
    if leaked:
        return f"LEAK: {leaked} validation rows were also used for training; the scores are not valid"
    if leaked is None:
        return "leak check: not recorded for every fold"
    return "leak check: no validation row was used for training"


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


def estimate_trials(ledger: Ledger, trials: Collection[int]) -> dict[int, float | None]:
    """What the final mean of each of these trials is expected to be."""
    expected = estimates(Scores(ledger).matrix()) if trials else {}
    return {trial: expected.get(trial) for trial in trials}


def show(value: Any) -> str:
    """A parameter's value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _epochs_needed(config: StudyConfig, trials: Sequence[TrialRecord], runs: Sequence[FoldRun]) -> dict[int, float]:
    """The epochs that each fold run took, or would take were it trained to its end, by its id."""
    most = {trial.number: int(trial.params.get("epochs", config.training.epochs)) for trial in trials}
    done = [run for run in runs if run.state is FoldRunState.DONE]
    # Below 1 where patience ends folds early.
    share = sum(run.num_epochs for run in done) / sum(most[run.trial] for run in done) if done else 1.0
    return {
        run.id: run.num_epochs if run.state is FoldRunState.DONE else max(run.num_epochs, share * most[run.trial])
        for run in runs
    }


def _samples(ledger: Ledger, trial: int) -> list[dict[str, Any] | None]:
    return [run.sample for run in ledger.fold_runs() if run.trial == trial]


def _num_leaked(samples: Sequence[Mapping[str, Any] | None]) -> int | None:
    """Validation rows that were trained on; None where that is not known of every fold, and none is known of."""
    known = [int(sample["num_validation_rows_used"]) for sample in samples if sample]
    return sum(known) if sum(known) or len(known) == len(samples) else None


def _ends(counts: Sequence[int]) -> str:
    present = [count for count in counts if count] or [0]
    return f"{min(present)} to {max(present)}"


def _worth(record: StudyRecord, trial: TrialRecord) -> float:
    """The score so that larger is better; what has none is worth least."""
    if trial.score is None or not math.isfinite(trial.score):
        return -math.inf
    return trial.score if record.direction == "maximize" else -trial.score


def _ranked(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Running trials first, then complete ones from the best, then the others, each from the latest."""
    order = {TrialState.RUNNING: 0, TrialState.COMPLETE: 1, TrialState.STOPPED: 2, TrialState.FAILED: 3}

    def place(trial: TrialRecord) -> tuple[int, float, int]:
        complete = trial.state is TrialState.COMPLETE
        return order[trial.state], -_worth(record, trial), trial.number if complete else -trial.number

    return sorted(trials, key=place)


def _row(trial: TrialRecord, runs: Sequence[FoldRun], *, state: str, expected: float | None) -> tuple[str, ...]:
    """A trial's cells; `expected` is its estimate, if it has one."""
    score = NONE
    if trial.score is not None:
        score = f"{trial.score:.4f} ± {trial.std or 0.0:.4f}"
    elif expected is not None:
        score = f"(about {expected:.4f})"
    pooled = NONE if trial.pooled is None else f"{trial.pooled:.4f}"
    folds = " ".join(NONE if value is None else f"{value:.3f}" for value in trial.fold_scores)
    epochs = str(sum(run.num_epochs for run in runs))
    chance, reason = f"{percent(trial.chance or 0.0)} chance", trial.reason or ""
    notes = [f"{chance} to be the best"] if trial.chance is not None and chance not in reason else []
    notes += ["audit"] if trial.audited else []
    notes += [reason] if reason else []
    notes += [
        f"fold {run.fold} will be tried again: {run.reason}" for run in runs if run.failure and run.state in OPEN_STATES
    ]
    return str(trial.number), state, score, pooled, epochs, folds, "; ".join(notes)
