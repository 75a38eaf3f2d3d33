"""The learning rate of every step against torch's schedulers, and when training has gone on long enough."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.schedules import is_out_of_patience, learning_rate_factor, plateau_falls

PEAK = 0.25
LENGTHS = {
    "num_epochs": st.integers(1, 7),
    "steps_per_epoch": st.integers(1, 9),
    "warmup": st.integers(0, 12) | st.floats(0.0, 0.99),
    "lowest": st.just(0.0) | st.floats(0.0, PEAK),
}
SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, math.nan, math.inf, -math.inf]), max_size=12)


def make_params(warmup: float = 0, **settings) -> TrainingParams:
    by = {"warmup_steps": warmup} if isinstance(warmup, int) else {"warmup_ratio": warmup}
    return TrainingParams(learning_rate=PEAK, **by, **settings)


def our_rates(params: TrainingParams, num_epochs: int, steps_per_epoch: int) -> list[float]:
    return [
        PEAK * learning_rate_factor(step, params=params, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
        for step in range(num_epochs * steps_per_epoch)
    ]


def torch_rates(scheduler: str, num_steps: int, num_warmup: int, **settings) -> list[float]:
    """The rates of torch's scheduler of that name after torch's own warm-up."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    warmup = lr_scheduler.LinearLR(optimiser, start_factor=1 / (num_warmup + 1), total_iters=num_warmup)
    after = getattr(lr_scheduler, scheduler)(optimiser, **settings)
    sequence = lr_scheduler.SequentialLR(optimiser, [warmup, after], milestones=[num_warmup])
    rates = []
    for _ in range(num_steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        sequence.step()
    return rates


def warmup_of(warmup: float, num_steps: int) -> int:
    return min(warmup if isinstance(warmup, int) else round(warmup * num_steps), num_steps - 1)


@given(**LENGTHS)
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_smooth_schedules_are_torchs(schedule, num_epochs, steps_per_epoch, warmup, lowest):
    """After torch's linear warm-up they fall as torch's do, to the lowest rate one step after the last."""
    num_steps = num_epochs * steps_per_epoch
    num_warmup = warmup_of(warmup, num_steps)
    left = num_steps - num_warmup
    scheduler, settings = {
        "constant": ("ConstantLR", {"factor": 1.0}),
        "linear": ("LinearLR", {"start_factor": 1.0, "end_factor": lowest / PEAK, "total_iters": left}),
        "cosine": ("CosineAnnealingLR", {"T_max": left, "eta_min": lowest}),
    }[schedule]
    params = make_params(warmup, schedule=schedule, min_learning_rate=lowest)
    expected = torch_rates(scheduler, num_steps, num_warmup, **settings)
    assert our_rates(params, num_epochs, steps_per_epoch) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(**LENGTHS, restart_epochs=st.integers(1, 4), restart_factor=st.integers(1, 3))
def test_cosine_restarts_are_torchs(num_epochs, steps_per_epoch, warmup, lowest, restart_epochs, restart_factor):
    """SGDR, each cycle restart_factor times as long as the one before, counted from the end of the warm-up."""
    num_steps = num_epochs * steps_per_epoch
    params = make_params(
        warmup,
        schedule="cosine_restarts",
        restart_epochs=restart_epochs,
        restart_factor=restart_factor,
        min_learning_rate=lowest,
    )
    cycles = {"T_0": restart_epochs * steps_per_epoch, "T_mult": restart_factor, "eta_min": lowest}
    expected = torch_rates("CosineAnnealingWarmRestarts", num_steps, warmup_of(warmup, num_steps), **cycles)
    assert our_rates(params, num_epochs, steps_per_epoch) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(**LENGTHS, decay_epochs=st.integers(1, 3), decay_factor=st.floats(0.1, 0.9))
def test_step_is_torchs_with_a_floor(num_epochs, steps_per_epoch, warmup, lowest, decay_epochs, decay_factor):
    """It falls every decay_epochs epochs from the end of the warm-up, but never below the lowest rate."""
    num_steps = num_epochs * steps_per_epoch
    num_warmup = warmup_of(warmup, num_steps)
    params = make_params(
        warmup, schedule="step", decay_epochs=decay_epochs, decay_factor=decay_factor, min_learning_rate=lowest
    )
    settings = {"step_size": decay_epochs * steps_per_epoch, "gamma": decay_factor}
    expected = torch_rates("StepLR", num_steps, num_warmup, **settings)
    expected[num_warmup:] = [max(rate, lowest) for rate in expected[num_warmup:]]
    assert our_rates(params, num_epochs, steps_per_epoch) == pytest.approx(expected, rel=1e-6)


@given(scores=SCORES, patience=st.integers(0, 3), maximize=st.booleans(), lowest=st.floats(0.0, PEAK))
def test_plateau_is_torchs(scores, patience, maximize, lowest):
    """After any scores, NaN and infinities too, the rate is that of ReduceLROnPlateau with a threshold of 0."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimiser,
        "max" if maximize else "min",
        factor=0.3,
        patience=patience,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=lowest,
        eps=0.0,
    )
    for score in scores:
        scheduler.step(score)
    params = make_params(
        schedule="plateau", decay_factor=0.3, plateau_patience=patience, min_learning_rate=lowest, epochs=20
    )
    falls = plateau_falls(scores, params=params, maximize=maximize)
    factor = learning_rate_factor(0, params=params, num_epochs=20, steps_per_epoch=3, num_falls=falls)
    assert PEAK * factor == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)


@given(**LENGTHS)
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cosine_restarts", "step", "plateau"])
def test_every_schedule_reaches_its_peak_and_keeps_its_floor(schedule, num_epochs, steps_per_epoch, warmup, lowest):
    """However long the warm-up, it ends with the learning rate that was asked for, and no step is lost at 0."""
    rates = our_rates(make_params(warmup, schedule=schedule, min_learning_rate=lowest), num_epochs, steps_per_epoch)
    peak = warmup_of(warmup, len(rates))
    assert rates[peak] == max(rates) == pytest.approx(PEAK)
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert min(rates[peak:]) >= lowest * (1 - 1e-12)
    assert min(rates) > 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "step"])
def test_schedule_free_has_the_warm_up_only(schedule):
    """Whatever the schedule says: it belongs to the other optimisers."""
    params = make_params(3, optimiser="schedule_free_adamw", schedule=schedule)
    assert our_rates(params, 2, 4) == [PEAK * part for part in (0.25, 0.5, 0.75, 1, 1, 1, 1, 1)]


@given(scores=st.lists(st.integers(0, 4), min_size=1, max_size=12), patience=st.integers(1, 4), maximize=st.booleans())
def test_patience_counts_from_the_first_best_epoch(scores, patience, maximize):
    """An equal score is no better one."""
    best = np.argmax(scores) if maximize else np.argmin(scores)
    expected = len(scores) - 1 - best >= patience
    assert is_out_of_patience(scores, patience=patience, maximize=maximize) == expected


def test_patience_without_a_limit_without_scores_and_with_nan():
    """None trains on for ever, nothing happens before the first epoch, and NaN is never better."""
    assert not is_out_of_patience([0.5] * 50, patience=None, maximize=True)
    assert not is_out_of_patience([], patience=1, maximize=True)
    assert is_out_of_patience([0.5, math.nan], patience=1, maximize=False)
    assert not is_out_of_patience([math.nan, 0.5], patience=1, maximize=True)
