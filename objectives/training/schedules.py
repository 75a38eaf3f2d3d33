"""The learning rate of each optimiser step, and what the epochs' scores so far say about going on."""

import math
from collections.abc import Iterator, Sequence

from fold_search.objectives.params import TrainingParams


def learning_rate_factor(
    step: int, *, params: TrainingParams, num_epochs: int, steps_per_epoch: int, num_falls: int = 0
) -> float:
    """Return what the learning rate is multiplied by at optimiser step `step`, counted from 0; in (0, 1].

    It rises evenly to 1 in the warm-up, which is never all steps. Then it follows the schedule, whose epochs count from
    the end of the warm-up. linear and cosine would reach min_learning_rate one step after the last. Cycles of
    cosine_restarts are not fitted to the epochs: the last one is cut where training ends (SGDR, Loshchilov and Hutter
    2017, equation 5). The schedule plateau needs `num_falls`, from `plateau_falls`. A schedule-free optimiser has only
    the warm-up.
    """
    num_steps = num_epochs * steps_per_epoch
    num_warmup = min(_warmup_steps(params, num_steps), num_steps - 1)
    since = max(step - num_warmup, 0)
    rise = min((step + 1) / (num_warmup + 1), 1.0)
    floor = params.min_learning_rate / params.learning_rate
    if params.optimiser == "schedule_free_adamw" or params.schedule == "constant":
        return rise
    if params.schedule == "step":
        return rise * max(params.decay_factor ** (since // (params.decay_epochs * steps_per_epoch)), floor)
    if params.schedule == "plateau":
        return rise * max(params.decay_factor**num_falls, floor)
    if params.schedule == "cosine_restarts":
        progress = _cycle_progress(since, params.restart_epochs * steps_per_epoch, factor=params.restart_factor)
    else:
        progress = since / (num_steps - num_warmup)
    fall = 1 - progress if params.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return rise * (floor + (1 - floor) * fall)


def plateau_falls(scores: Sequence[float], *, params: TrainingParams, maximize: bool) -> int:
    """Return how often the schedule plateau has fallen after epochs of these scores, (epochs,).

    As torch's ReduceLROnPlateau with a threshold of 0 and no cool-down: it falls when more than plateau_patience epochs
    in a row were not better than the best before them. Then the count begins again. NaN is never better.
    """
    falls = waited = 0
    for better in _betterments(scores, maximize=maximize):
        waited = 0 if better else waited + 1
        if waited > params.plateau_patience:
            falls, waited = falls + 1, 0
    return falls


def is_out_of_patience(scores: Sequence[float], *, patience: int | None, maximize: bool) -> bool:
    """Whether the last `patience` of these epochs' scores, (epochs,), were no better than the best before them.

    With None it never runs out. NaN is never better.
    """
    if patience is None:
        return False
    betterments = list(_betterments(scores, maximize=maximize))
    return len(betterments) >= patience and not any(betterments[-patience:])


def _warmup_steps(params: TrainingParams, num_steps: int) -> int:
    return round(num_steps * params.warmup_ratio) if params.warmup_steps is None else params.warmup_steps


def _cycle_progress(since: int, length: int, *, factor: int) -> float:
    """Return how far, in [0, 1), step `since` is in its cycle. The first cycle has `length` steps, later ones more."""
    while since >= length:
        since, length = since - length, length * factor
    return since / length


def _betterments(scores: Sequence[float], *, maximize: bool) -> Iterator[bool]:
    best = -math.inf
    for score in scores:
        gain = score if maximize else -score
        yield gain > best
        best = max(best, gain)
