"""The learning rate of every step, and which weights decay."""

import pytest
from torch import nn

from objectives.schedules import decay_groups, learning_rate_factor


def factors(num_steps: int, warmup_ratio: float, schedule: str) -> list[float]:
    return [
        learning_rate_factor(step, num_steps=num_steps, warmup_ratio=warmup_ratio, schedule=schedule)
        for step in range(num_steps)
    ]


def test_linear_rises_to_1_and_falls_to_0_after_the_last_step():
    """No step is wasted on a learning rate of 0."""
    assert factors(8, 0.25, "linear") == pytest.approx([1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_cosine_falls_along_half_a_cosine():
    """It passes 1/2 half way."""
    assert factors(4, 0.0, "cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_schedule_reaches_1_once_and_stays_positive(num_steps, warmup_ratio, schedule):
    """The peak is the learning rate that was asked for, whatever the number of steps."""
    values = factors(num_steps, warmup_ratio, schedule)
    assert max(values) == 1.0
    assert min(values) > 0
    assert values.count(1.0) == 1


def test_biases_and_normalisation_weights_do_not_decay():
    """Matrices decay, vectors do not."""
    model = nn.ModuleDict({"linear": nn.Linear(2, 3), "norm": nn.LayerNorm(3)})
    decayed, plain = decay_groups(list(model.parameters()), weight_decay=0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert decayed["params"] == [model["linear"].weight]
    assert {id(weight) for weight in plain["params"]} == {
        id(weight) for weight in (model["linear"].bias, model["norm"].weight, model["norm"].bias)
    }
