"""What of a trial's settings goes together."""

import pytest
from pydantic import ValidationError

from fold_search.models.params import ModelParams
from fold_search.objectives.params import Params, TrainingParams


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"lora_rank": 8, "trainable_layers": 2}, "lora_rank 8 cannot go with trainable_layers 2: "),
        ({"lora_rank": 8, "reinit_layers": 1}, "reinit_layers 1 cannot go with lora_rank 8: "),
        ({"reinit_layers": 2, "trainable_layers": 1}, "reinit_layers 2 is above trainable_layers 1: "),
    ],
)
def test_adaptations_that_exclude_each_other_are_refused(model, message):
    """One line that names both settings."""
    with pytest.raises(ValidationError) as caught:
        Params(model=ModelParams(encoder="any", **model), training=TrainingParams())
    (problem,) = caught.value.errors()
    assert problem["msg"].startswith(f"Value error, {message}")
    assert "; expected " in problem["msg"]


def test_adaptations_that_fit_are_taken():
    """New layers among the trained ones, and low-rank updates by themselves."""
    for model in ({"reinit_layers": 2, "trainable_layers": 2}, {"reinit_layers": 2}, {"lora_rank": 8}):
        params = Params(model=ModelParams(encoder="any", **model), training=TrainingParams())
        assert model.items() <= params.model.model_dump().items()
