"""A study, its trials and its best one as tables for a terminal."""

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table

from fold_search.search.racing.audits import paused_trials, race_line, trial_states
from fold_search.search.racing.verdicts import percent
from fold_search.search.reporting.lines import best_line, counts_line, leak_line, sample_line, show, ties_line
from fold_search.search.reporting.summary import Summary, best_ties, estimate_trials, samples_of, summarise, worth
from fold_search.search.study.attended import present_runs
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import OPEN_STATES, FoldRun, StudyRecord, TrialRecord, TrialState

NONE = "-"


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
    samples = samples_of(ledger, best.trial)
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


def _ranked(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Running trials first, then complete ones from the best, then the others, each from the latest."""
    order = {TrialState.RUNNING: 0, TrialState.COMPLETE: 1, TrialState.STOPPED: 2, TrialState.FAILED: 3}

    def place(trial: TrialRecord) -> tuple[int, float, int]:
        complete = trial.state is TrialState.COMPLETE
        return order[trial.state], -worth(record, trial), trial.number if complete else -trial.number

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
