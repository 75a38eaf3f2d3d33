"""What the race did: stops, pauses, and audits, which check how often its stops are wrong; pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from fold_search.search.racing.verdicts import percent
from fold_search.storage.records import Direction, FoldRun, FoldRunState, TrialRecord, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceFigures:
    """The race of a study in numbers.

    At each stop the race records its estimated chance that the trial would have become the best. `stated_chance` is the
    sum of these over all stops, so the number of false stops that the race expects; None if no stop has one.

    An audit is a trial that the race would have stopped, but that is trained to its end as a check. `audits_complete`
    of the `audited` ones are complete. A stop would have been false if the trial became better than the best of all
    trials that were not audited: `false_stops`. `false_stop_low` and `false_stop_high` are the 95% interval (Clopper
    and Pearson 1934) of their share. `audited_chance` is the sum of the estimated chances of the complete audits.
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
    """Count what the race did with these trials and their fold runs. Diverged trials were not stopped by the race."""
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
    """The trials that were begun, have not ended, and are not being trained now."""
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
    """What the race did, in a line, and what its audits found, if there are any, in a second one."""
    line = f"race: {_trials(figures.stops)} stopped early, {figures.paused} paused"
    if figures.stated_chance is not None:
        whom = "it" if figures.stops == 1 else "one of the stopped trials"
        line += f"; estimated risk that {whom} was the best: {percent(min(figures.stated_chance, 1.0))}"
    return f"{line}\n{_audit_line(figures)}" if figures.audited else line


def _audit_line(figures: RaceFigures) -> str:
    """How many stops would have been wrong; of several audits with the share's interval and what the race expected."""
    count = figures.audits_complete
    whom = f"{_trials(count or figures.audited)} that the race would have stopped"
    if not count:
        return f"audit: training on {whom}, as a check"
    if count == 1:
        right = "wrong" if figures.false_stops else "right"
        return f"audit: {whom} was trained to the end as a check; stopping it would have been {right}"
    interval = f"95% interval: {figures.false_stop_low:.0%} to {figures.false_stop_high:.0%}"
    estimate = f"the race estimated {percent(figures.audited_chance / count)}"
    wrong = f"{figures.false_stops} of these stops would have been wrong ({interval}; {estimate})"
    return f"audit: {whom} were trained to the end as a check; {wrong}"


def _trials(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def _score(trial: TrialRecord) -> float:
    return math.nan if trial.score is None else trial.score
