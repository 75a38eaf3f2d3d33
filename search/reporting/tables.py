"""A study, its trials and its best one as tables for a terminal."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table

from fold_search.search.racing.audits import paused_trials, race_line, trial_states
from fold_search.search.racing.verdicts import percent
from fold_search.search.reporting.baselines import baselines_line, verdict_line
from fold_search.search.reporting.lines import (
    best_line,
    counts_line,
    forecast_line,
    leak_line,
    sample_line,
    show,
    ties_line,
    trial_score,
    used_line,
)
from fold_search.search.reporting.provisional import Provisional, find_provisional
from fold_search.search.reporting.summary import Summary, best_ties, estimate_trials, ranked, samples_of, summarise
from fold_search.search.study.attended import present_runs
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import OPEN_STATES, FoldRun, FoldRunState, TrialRecord, TrialState

NONE = "-"
NARROW = 60  # columns of a terminal
COLUMNS = ("trial", "state", "score", "pooled", "folds", "epochs", "why")
NARROW_COLUMNS = ("trial", "state", "score")
NUMBERS = ("trial", "folds", "epochs")


def render_status(ledger: Ledger, *, width: int = 80, most: int = 20, reasons: bool = False) -> RenderableType:
    """A study as a table, a line for each trial, the best first; then its numbers.

    `width` is the terminal's: below 60 columns fewer columns of the table are shown. With `reasons` every trial's
    reason follows in full.
    """
    record, runs, trials, summary = ledger.study(), present_runs(ledger), ledger.trials(), summarise(ledger)
    runs_by_trial: dict[int, list[FoldRun]] = defaultdict(list)
    for run in runs:
        runs_by_trial[run.trial].append(run)
    states, paused = trial_states(trials, runs), estimate_trials(ledger, paused_trials(trials, runs))
    title = f"study {record.name} ({summary.state}): {record.metric}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = NARROW_COLUMNS if width < NARROW else COLUMNS
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in NUMBERS else "left")
    shown = ranked(record, trials)[:most]
    for trial in shown:
        expected = paused.get(trial.number, trial.estimate)
        cells = _cells(trial, runs_by_trial[trial.number], state=states[trial.number], expected=expected)
        table.add_row(*(cells[column] for column in columns))
    lines = [f"trial {trial.number}: {why}" for trial in shown if (why := _reason(trial, runs_by_trial[trial.number]))]
    lines = lines if reasons else []
    if any(trial.chance is not None for trial in shown):
        lines.append("about, p: the score that the race expects of a trial, and its chance to be the best")
    lines += [
        counts_line(summary),
        best_line(summary),
        *filter(None, [baselines_line(summary.baselines), _verdict(summary)]),
        f"stopping trials early saved {summary.work_saved:.0%} of the epochs of ended trials",
        race_line(summary.race),
        used_line(summary),
        *filter(None, [forecast_line(summary)]),
    ]
    if len(trials) > most:
        lines.append(f"{len(trials) - most} more trials; --csv and --json show all, with their params")
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
        found = find_provisional(ledger)
        provisional = [_provisional(found, summary.metric)] if found else []
        lines = [*filter(None, [baselines_line(summary.baselines)]), used_line(summary)]
        return Group(best_line(summary), *provisional, *lines)
    samples = samples_of(ledger, best.trial)
    resampled = any(sample["counts_before"] != sample["counts_after"] for sample in samples if sample)
    table = Table(show_header=False)
    for fold, (score, sample) in enumerate(zip(best.fold_scores, samples, strict=True)):
        table.add_row(f"fold {fold}", f"{score:.4f}", *([sample_line(sample)] if resampled and sample else []))
    table.add_section()
    for name, value in best.params.items():
        table.add_row(name, show(value))
    lines = [
        baselines_line(summary.baselines),
        _verdict(summary),
        ties_line(best_ties(ledger, best.trial)),
        leak_line(samples),
        race_line(summary.race),
        used_line(summary),
    ]
    return Group(best_line(summary), table, *filter(None, lines))


def _provisional(found: Provisional, metric: str) -> RenderableType:
    """What there is by now of the trial that is expected to end best."""
    table = Table(show_header=False)
    for run, score in zip(found.runs, found.scores, strict=True):
        table.add_row(f"fold {run.fold}", f"{score:.4f}")
    table.add_section()
    for name, value in found.trial.params.items():
        table.add_row(name, show(value))
    return Group(
        f"provisional {metric}: {fmean(found.scores):.4f} (trial {found.trial.number}; {found.reason}); "
        "`search export` exports it",
        table,
    )


def _cells(trial: TrialRecord, runs: Sequence[FoldRun], *, state: str, expected: float | None) -> dict[str, str]:
    """A trial's cells by their columns; `expected` is its estimate, if it has one."""
    done = sum(run.state is FoldRunState.DONE for run in runs)
    return {
        "trial": str(trial.number),
        "state": state,
        "score": trial_score(trial, expected) or NONE,
        "pooled": NONE if trial.pooled is None else f"{trial.pooled:.4f}",
        "folds": f"{done}/{len(runs)}",
        "epochs": str(sum(run.num_epochs for run in runs)),
        "why": _why(trial, runs),
    }


def _verdict(summary: Summary) -> str:
    """What the best trial is worth beside the baselines; empty where there is none of either."""
    best = summary.best
    return verdict_line(summary.baselines, best.fold_scores, summary.direction) if best else ""


def _why(trial: TrialRecord, runs: Sequence[FoldRun]) -> str:
    """Why a trial is where it is, in a word or two: its chance to be the best, an audit, a failure."""
    notes = [trial.failure.words] if trial.failure else []
    notes += ["audit"] if trial.audited else []
    if trial.chance is not None and (trial.state is not TrialState.COMPLETE or trial.audited):
        notes.append(f"p={trial.chance:.2g}")
    notes += [f"fold {run.fold}: {run.failure.words}" for run in runs if run.failure and run.state in OPEN_STATES]
    return ", ".join(notes) or ("see --reasons" if trial.reason else "")


def _reason(trial: TrialRecord, runs: Sequence[FoldRun]) -> str:
    """The reason in full."""
    chance, reason = f"{percent(trial.chance or 0.0)} chance", trial.reason or ""
    notes = [f"{chance} to be the best"] if trial.chance is not None and chance not in reason else []
    notes += ["audit"] if trial.audited else []
    notes += [reason] if reason else []
    notes += [
        f"fold {run.fold} will be tried again: {run.reason}" for run in runs if run.failure and run.state in OPEN_STATES
    ]
    return "; ".join(notes)
