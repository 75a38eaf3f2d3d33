"""What the race did and what that was worth: stops, pauses, and how often its stated chances were wrong; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from fold_search.storage.records import Direction, FoldRun, FoldRunState, TrialRecord, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceFigures:
    """The race of a study in numbers.

    `stated_chance` is the sum of the chances to be the best at which trials were stopped, so the number of false stops
    that the race itself expects; None where no stop had one. A share of would-be stops is audited: those trials run on,
    `audits_complete` of them to their end. A false stop is one whose trial became better than the best of all trials
    that were not audited; `false_stop_low` and `false_stop_high` are the 95% interval (Clopper and Pearson 1934) of
    their share, `audited_chance` the sum of the chances that were stated of the complete ones.
    """

    stops: int
    stated_chance: float | None
    paused: int
    audited: int
    audits_complete: int
    audited_chance: float
    false_stops: int
    false_stop_low: float
    false_stop_high: float


def race_figures(trials: Sequence[TrialRecord], runs: Sequence[FoldRun], direction: Direction) -> RaceFigures:
    """Count what the race did with these trials, whose fold runs `runs` are; what diverged it did not stop."""
    sign = 1.0 if direction == "maximize" else -1.0
    stopped = [trial for trial in trials if trial.state is TrialState.STOPPED and trial.failure is None]
    stated = [trial.chance for trial in stopped if trial.chance is not None]
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and math.isfinite(_score(trial))]
    ended = [trial for trial in complete if trial.audited]
    best = max((sign * _score(trial) for trial in complete if not trial.audited), default=-math.inf)
    false_stops = sum(sign * _score(trial) > best for trial in ended)
    interval = binomtest(false_stops, len(ended)).proportion_ci(0.95, method="exact") if ended else (0.0, 1.0)
    return RaceFigures(
        stops=len(stopped),
        stated_chance=sum(stated) if stated else None,
        paused=len(paused_trials(trials, runs)),
        audited=sum(trial.audited for trial in trials),
        audits_complete=len(ended),
        audited_chance=sum(trial.chance or 0.0 for trial in ended),
        false_stops=false_stops,
        false_stop_low=float(interval[0]),
        false_stop_high=float(interval[1]),
    )


def paused_trials(trials: Sequence[TrialRecord], runs: Sequence[FoldRun]) -> set[int]:
    """The trials that have not ended, were begun, and are trained by nobody at the moment."""
    begun = {run.trial for run in runs if run.num_epochs}
    trained = {run.trial for run in runs if run.state is FoldRunState.LEASED}
    running = {trial.number for trial in trials if trial.state is TrialState.RUNNING}
    return (running & begun) - trained


def trial_states(trials: Sequence[TrialRecord], runs: Sequence[FoldRun]) -> dict[int, str]:
    """What each trial is doing, by number: one that has not ended is running, paused, or waits for its first epoch."""
    paused = paused_trials(trials, runs)
    trained = {run.trial for run in runs if run.state is FoldRunState.LEASED}
    states = {trial.number: trial.state.value for trial in trials}
    for number in (number for number, state in states.items() if state == TrialState.RUNNING and number not in trained):
        states[number] = "paused" if number in paused else "waiting"
    return states


def race_line(figures: RaceFigures) -> str:
    """What the race did, in one line."""
    stops = f"race: {figures.stops} stopped"
    if figures.stated_chance is not None:
        stops += f" at chances of being the best that add up to {figures.stated_chance:.2g}"
    line = f"{stops}, {figures.paused} paused"
    if not figures.audited:
        return line
    return (
        f"{line}; {figures.audited} spared to check the chances, {figures.audits_complete} of them complete: "
        f"{figures.false_stops} would have been false stops (95%: {figures.false_stop_low:.0%} to "
        f"{figures.false_stop_high:.0%} of them; stated {figures.audited_chance:.2g})"
    )


def _score(trial: TrialRecord) -> float:
    return math.nan if trial.score is None else trial.score
