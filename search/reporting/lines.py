"""A study's numbers in words, one line each."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fold_search.search.racing.ties import Tie
from fold_search.search.reporting.summary import INTERRUPTED, UNENDED, Summary, num_leaked
from fold_search.search.study.defaults import DATABASE
from fold_search.search.study.spending import in_hours
from fold_search.storage.database import redact
from fold_search.storage.records import Failure, TrialRecord

MOST_TIES = 8
FOLD_RUN_WORDS = {
    "done": "done",
    "leased": "running",
    "waiting": "waiting",
    "paused": "paused",
    "stopped": "stopped",
    "failed": "failed",
}


def counts_line(summary: Summary) -> str:
    """Trials and fold runs by state in one line."""
    trials = _counted(summary.trials, {state: state for state in ("complete", *UNENDED, "stopped", "failed")})
    runs = _counted(summary.fold_runs, FOLD_RUN_WORDS)
    failures = _counted(summary.failures, {kind.value: kind.words for kind in Failure})
    line = f"trials {sum(summary.trials.values())}/{summary.budget} ({trials}); fold runs: {runs}"
    return f"{line}; failures: {failures}" if summary.failures else line


def num_ended(summary: Summary) -> int:
    """How many trials have ended."""
    return sum(count for state, count in summary.trials.items() if state not in UNENDED)


def ended_words(summary: Summary) -> str:
    """How many of the budget's trials have ended, in words."""
    return f"{num_ended(summary)} of {summary.budget} trials ended"


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


def used_line(summary: Summary) -> str:
    """The device hours that are used, and their price if there is one, in one line."""
    money = summary.used.money_in_words
    return f"used: {summary.used.hours_in_words}{money and f'; money {money}'}"


def forecast_line(summary: Summary) -> str | None:
    """What `search plan` or `search init` had foreseen for the study; None if neither was asked."""
    if summary.forecast is None:
        return None
    low, high = summary.forecast["gpu_hours"]
    trials = counted(summary.forecast["trials"], "trial")
    return f"forecast for {trials}: {in_hours(low, high, unit=summary.used.unit)}"


def how_to_continue(summaries: Sequence[Summary], *, storage: str | None) -> list[str]:
    """A line for each study that was interrupted, with the command; `storage` is what the user named, if anything."""
    where = [] if storage is None else ["--storage", redact(storage)]
    lines = []
    for summary in summaries:
        if summary.state == INTERRUPTED:
            worker = shlex.join(["search", "worker", "--study", summary.study, *where])
            same = f"continue with the same `search run` command, or with: {worker}"
            lines.append(f"not finished: no process is running it; {summary.used.used_up or same}")
    return lines


def what_next(study: str, *, url: str) -> list[str]:
    """The commands for what a study is run for; `url` is its database."""
    where = [] if url == DATABASE else ["--storage", redact(url)]
    commands = {
        "the model, to predict with": ["export", "--study", study, *where, "--out", "model"],
        "all trials": ["status", "--study", study, *where],
        "one page to read and to send": ["report", "--study", study, *where],
        "where the model fails": ["diagnose", "--study", study, *where],
        "the dashboards": ["serve", "--study", study, *where],
    }
    lines = {shlex.join(["search", *words]): what for what, words in commands.items()}
    width = max(map(len, lines))
    return ["next:", *(f"  {line:{width}}  # {what}" for line, what in lines.items())]


def ties_line(ties: Sequence[Tie]) -> str:
    """The trials that are tied with the best one, in one line."""
    named = ", ".join(f"{tie.trial} ({tie.score:.4f})" for tie in ties[:MOST_TIES])
    more = f" and {len(ties) - MOST_TIES} more" if len(ties) > MOST_TIES else ""
    tied = f"trials {named}{more}" if ties else "no other trial"
    return f"tied with the best within the noise between folds: {tied}"


def sample_line(sample: Mapping[str, Any]) -> str:
    """How resampling changed the training rows of a fold, in one line."""
    before, after = sum(sample["counts_before"]), sum(sample["counts_after"])
    if sample["counts_before"] == sample["counts_after"]:
        return f"{sample['num_rows_in']} rows"
    synthetic = f" ({sample['num_synthetic']} synthetic)" if sample["num_synthetic"] else ""
    sizes = f"class sizes {_ends(sample['counts_before'])} become {_ends(sample['counts_after'])}"
    rows = f"{after} rows" if after == before else f"{after} rows instead of {before}"
    return f"{rows}{synthetic}; {sizes}"


def _ends(counts: Sequence[int]) -> str:
    present = [count for count in counts if count] or [0]
    return f"{min(present)} to {max(present)}"


def leak_line(samples: Sequence[Mapping[str, Any] | None]) -> str:
    """How many validation rows were also trained on, in one line."""
    leaked = num_leaked(samples)
    if leaked:
        return f"LEAK: {leaked} validation rows were also used for training; the scores are not valid"
    if leaked is None:
        return "leak check: not recorded for every fold"
    return "leak check: no validation row was used for training"


def trial_score(trial: TrialRecord, expected: float | None) -> str:
    """A trial's score, or what it is `expected` to be; nothing where neither is known."""
    if trial.score is not None:
        return f"{trial.score:.4f} ± {trial.std or 0.0:.4f}"
    return "" if expected is None else f"about {expected:.4f}"


def show_params(params: Mapping[str, Any]) -> str:
    """Params in one line."""
    return " ".join(f"{name}={show(value)}" for name, value in params.items())


def counted(count: int, what: str) -> str:
    """How many there are, in words: 1 trial, 2 trials."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def show(value: Any) -> str:
    """A parameter's value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
