"""The baselines of a study in words, and whether its best trial is better than they are."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from fold_search.search.racing.corrected import corrected_scores
from fold_search.search.racing.ties import ALPHA, resampled_t_test
from fold_search.storage.records import BaselineRecord, Direction, TrialState
from fold_search.storage.view import LedgerView


def score_words(found: BaselineRecord) -> str:
    """What a baseline reaches, or why that is not known."""
    if found.score is None:
        return f"no score ({found.reason})"
    spread = f"{found.score:.4f} ± {found.std or 0.0:.4f}"
    return f"{spread} ({found.reason})" if found.reason else spread


def baselines_line(baselines: Sequence[BaselineRecord]) -> str:
    """All baselines in one line; empty where there is none."""
    return f"baselines: {', '.join(f'{found.label} {score_words(found)}' for found in baselines)}" if baselines else ""


def strongest(baselines: Sequence[BaselineRecord], direction: Direction) -> BaselineRecord | None:
    """The baseline with the best score; None if no one has a score."""
    sign = 1 if direction == "maximize" else -1
    scored = [found for found in baselines if found.score is not None and math.isfinite(found.score)]
    return max(scored, key=lambda found: sign * (found.score or 0.0), default=None)


def is_beaten(baseline: BaselineRecord, fold_scores: Sequence[float], direction: Direction) -> bool:
    """Whether a trial is better than the baseline by more than the noise between the folds, which are the same."""
    return _gains_surely(fold_scores, baseline.fold_scores, direction)


def is_better(baseline: BaselineRecord, fold_scores: Sequence[float], direction: Direction) -> bool:
    """Whether the baseline is better than a trial by more than the noise between the folds."""
    return _gains_surely(baseline.fold_scores, fold_scores, direction)


def _gains_surely(ones: Sequence[float], others: Sequence[float], direction: Direction) -> bool:
    sign = 1 if direction == "maximize" else -1
    gains = [sign * (one - other) for one, other in zip(ones, others, strict=True)]
    # One-sided: only what is better counts.
    return sum(gains) > 0 and float(resampled_t_test(gains)) / 2 < ALPHA


def beats_all(baselines: Sequence[BaselineRecord], fold_scores: Sequence[float], direction: Direction) -> bool | None:
    """Whether a trial beats the strongest baseline; None where there is none."""
    baseline = strongest(baselines, direction)
    return None if baseline is None else is_beaten(baseline, fold_scores, direction)


def better_baseline(ledger: LedgerView, trial: int | None, scores: Mapping[int, float], *, name: str) -> str | None:
    """Why the baseline `name` is rather exported than this trial; None if it is not as good on the same folds.

    `scores` are those of the trial by their folds. If it has all of them, what it gained by being chosen is taken off
    first: nobody chose the baseline. Without a trial any baseline that has a score is better.
    """
    study = ledger.study()
    baseline = strongest([found for found in ledger.baselines() if found.name == name], study.direction)
    if baseline is None or baseline.score is None:
        return None
    if trial is None or not scores:
        return f"{baseline.label} is all there is: no epoch is trained yet"
    maximise = study.direction == "maximize"
    mean, sign = fmean(scores.values()), 1 if maximise else -1
    other = fmean(baseline.fold_scores[fold] for fold in scores)
    if sign * (other - mean) > 0:
        where = "" if len(scores) == study.num_folds else f" on {len(scores)} of {study.num_folds} folds"
        return f"{baseline.label} is better: {study.metric} {other:.4f} against {mean:.4f} of trial {trial}{where}"
    curves = _curves(ledger)
    if trial not in curves:
        return None
    corrected = fmean(corrected_scores(curves, maximise=maximise))
    if sign * (other - corrected) < 0:
        return None
    return (
        f"{baseline.label} is as good: {study.metric} {other:.4f} against {mean:.4f} of trial {trial}, which is about "
        f"{corrected:.4f} without the luck of the best of several trials and epochs; --trial {trial} exports the trial"
    )


def _curves(ledger: LedgerView) -> dict[int, list[list[float]]]:
    """The score after each epoch of each fold of the complete trials."""
    complete = {trial.number for trial in ledger.trials() if trial.state is TrialState.COMPLETE}
    curves: dict[int, dict[int, list[float]]] = {trial: {} for trial in complete}
    for epoch in ledger.epochs():
        if epoch.trial in complete:
            curves[epoch.trial].setdefault(epoch.fold, []).append(epoch.score)
    num_folds = ledger.study().num_folds
    return {
        trial: [folds[fold] for fold in sorted(folds)] for trial, folds in curves.items() if len(folds) == num_folds
    }


def verdict_line(baselines: Sequence[BaselineRecord], fold_scores: Sequence[float], direction: Direction) -> str:
    """What the best trial is worth beside the strongest baseline, in one line; empty where there is none."""
    baseline = strongest(baselines, direction)
    if baseline is None:
        return ""
    if is_beaten(baseline, fold_scores, direction):
        return f"the best trial is better than {baseline.label} by more than the noise between folds"
    mean, sign = sum(fold_scores) / len(fold_scores), 1 if direction == "maximize" else -1
    found = f"{mean:.4f} against {baseline.score:.4f} of {baseline.label}"
    if sign * (mean - (baseline.score or 0.0)) <= 0:
        return f"{found}: no trial is better so far, so fine-tuning is hardly worth it here"
    return f"{found}: no more than the noise between folds, so fine-tuning is hardly worth it here so far"
