"""The space: what is suggested, under which conditions, and what a study may search at all."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fold_search.models.params import ModelParams
from fold_search.objectives.params import TrainingParams
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.parameters import PARAMETERS, Choices, Range
from fold_search.search.study.space import field_values, grid, position, resolve, suggest, usual

FOCAL: dict[str, Any] = {
    "class_balanced_beta": [0.9, 0.999],
    "class_weights": ["none", "class_balanced"],
    "focal_gamma": {"low": 0.5, "high": 4},
    "loss": ["cross_entropy", "focal"],
}


def config_of(space: dict[str, Any], **sections: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {"data": {"path": "rows.csv", "label": "l", "text": "t"}, "model": {"encoder": "e"}, "space": space, **sections}
    )


def refusal(tmp_path: Path, space: str, more: str = "") -> str:
    path = tmp_path / "study.yaml"
    path.write_text(f"data: {{path: d, label: l, text: t}}\nmodel: {{encoder: e}}\nspace: {{{space}}}\n{more}")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    return str(refused.value).removeprefix(f"{path}: ")


def test_no_name_is_both_a_field_of_the_model_and_of_the_training():
    """The space names fields without their section."""
    assert not ModelParams.model_fields.keys() & TrainingParams.model_fields.keys()


def test_conditions_name_earlier_fields_and_values_that_these_can_have():
    """Sampling in the order of declaration has then seen all that a condition needs."""
    names = list(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        for other, allowed in parameter.when.items():
            assert names.index(other) < names.index(name)
            assert PARAMETERS[other].check(Choices(choices=tuple(allowed))).values() == allowed


def test_every_suggested_range_fits_its_field():
    """What `search init` proposes is accepted by the study file."""
    suggested = {name: domain for name, parameter in PARAMETERS.items() if (domain := parameter.suggested)}
    assert {"learning_rate", "loss", "sampler", "focal_gamma"} <= suggested.keys()
    for name, domain in suggested.items():
        needed = {other: allowed[0] for other, allowed in PARAMETERS[name].when.items()}
        assert config_of({name: domain}, training=needed).space == {name: domain}


def test_values_become_those_of_the_field():
    """A whole number in the file is a float where the field is one."""
    space = config_of({"learning_rate": {"low": 1e-5, "high": 1, "log": True}, "dropout": [0, 0.1]}).space
    assert repr(space["learning_rate"].high) == "1.0"
    assert repr(space["dropout"].values()) == "[0.0, 0.1]"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("los: [focal]", 'space.los: found "los", expected a field of model or training; did you mean loss?'),
        ("dropout: 5", "space.dropout: found 5, expected a range such as {low: 1, high: 5} or a list of choices"),
        ("dropout: {low: 0.1}", "space.dropout.high: missing"),
        ("dropout: {low: a, high: 0.3}", 'space.dropout.low: found "a", expected a number'),
        ("dropout: {low: 0.1, high: 0.3, log: 1}", "space.dropout.log: found 1, expected true or false"),
        ("dropout: {low: 0.3, high: 0.1}", 'space.dropout: found {"low": 0.3, "high": 0.1}, expected low below high'),
        ("dropout: {low: 0.3, high: 0.3}", 'space.dropout: found {"low": 0.3, "high": 0.3}, expected low below high'),
        ("dropout: {low: 0.1, high: 1}", "space.dropout.high: found 1, expected less than 1.0"),
        ("dropout: [0.1, 1.5]", "space.dropout[1]: found 1.5, expected less than 1.0"),
        ("dropout: {choices: [0.1, [0.2]]}", "space.dropout.choices[1]: found [0.2], expected a single value"),
        ("dropout: []", "space.dropout.choices: found [], expected a list that is not empty"),
        ("dropout: [0.1, 0.1]", "space.dropout: found [0.1, 0.1], expected choices without duplicates"),
        ("dropout: {low: 0, high: 0.5, step: 0.3}", "space.dropout: found {"),
        ("dropout: {low: 0, high: 0.5, step: 0}", "space.dropout: found {"),
        ("learning_rate: {low: 0, high: 1e-3, log: true}", "space.learning_rate: found {"),
        ("learning_rate: {low: 1e-4, high: 1e-3, log: true, step: 1e-4}", "space.learning_rate: found {"),
        ("epochs: {low: 1.5, high: 3}", "space.epochs.low: found 1.5, expected a whole number"),
        ("epochs: {low: 1, high: 3, step: 0.5}", "space.epochs.step: found 0.5, expected a whole number"),
        ("epochs: [1, two]", 'space.epochs[1]: found "two", expected a whole number'),
        ("loss: {low: 1, high: 2}", 'space.loss: found {"low": 1, "high": 2}, expected a list of choices'),
        ("loss: [focal, hinge]", "space.loss[1]: found \"hinge\", expected 'cross_entropy', 'focal', 'dice', 'ldam', "),
        (
            "gamma: [1, 2]",
            'space.gamma: found "gamma", expected a field of model or training; did you mean focal_gamma?',
        ),
        (
            "focal_alpha: [none]",
            'space.focal_alpha: found "focal_alpha", expected a field of model or training; did you ',
        ),
        (
            "focal_gamma: [1, 2]",
            "space.focal_gamma: has no effect, because training.loss is cross_entropy, expected focal",
        ),
        (
            "loss: [cross_entropy], focal_gamma: [1, 2]",
            "space.focal_gamma: has no effect, because space.loss is cross_entropy",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tmp_path, space, message):
    """The line names the parameter and the end or choice that is wrong."""
    assert refusal(tmp_path, space).startswith(message)


def test_a_condition_is_followed_to_its_own(tmp_path):
    """Beta depends on the weights and these on the loss."""
    message = refusal(
        tmp_path, "class_balanced_beta: [0.9, 0.99]", "training: {class_weights: class_balanced, loss: dice}"
    )
    assert message == (
        "space.class_balanced_beta: has no effect, because training.loss is dice, expected cross_entropy or focal or "
        "ldam"
    )


@pytest.mark.parametrize(
    ("space", "more", "message"),
    [
        (
            "loss: [focal, dice]",
            "training: {label_smoothing: 0.1}",
            "space.loss: label_smoothing 0.1 cannot go with loss dice: Dice compares sets of rows, and a smoothed ",
        ),
        (
            "learning_rate: {low: 1e-5, high: 1e-3, log: true}",
            "training: {min_learning_rate: 2e-5}",
            "space.learning_rate: min_learning_rate 2e-05 is above learning_rate 1e-05; expected at most that",
        ),
        (
            "token_deletion: {low: 0, high: 0.2}, pooling: [mean, cls], trainable_layers: [0, 2]",
            "",
            "space.token_deletion: token_deletion cannot go with trainable_layers 0: the head alone is trained on the ",
        ),
    ],
)
def test_values_that_cannot_go_together_are_refused_before_anything_is_trained(tmp_path, space, more, message):
    """Two that are searched, or one of them fixed, with the reason."""
    assert refusal(tmp_path, space, more).startswith(message)


def test_values_that_cannot_go_together_may_stand_in_a_space_that_never_combines_them():
    """Label smoothing is sampled with the losses alone that are defined with it."""
    config = config_of({"loss": ["cross_entropy", "dice"], "label_smoothing": [0.0, 0.1]})
    assert suggest(optuna.trial.FixedTrial({"loss": "dice"}), config) == {"loss": "dice"}


def test_a_grid_needs_values_that_can_be_listed(tmp_path):
    """A range without a step has no end of them."""
    message = refusal(tmp_path, "dropout: {low: 0, high: 0.5}", "study: {sampler: grid}")
    assert message.startswith("space.dropout: found {")
    assert message.endswith("expected a step, because the sampler is grid")


def test_parameters_are_suggested_only_where_they_have_an_effect():
    """Conditions hold along the chain: beta needs class-balanced weights, which need focal loss."""
    names = {"none": {"loss", "focal_gamma", "class_weights"}, "class_balanced": set(FOCAL)}
    for alpha, expected in names.items():
        trial = optuna.trial.FixedTrial(
            {"loss": "focal", "class_weights": alpha, "focal_gamma": 1.0, "class_balanced_beta": 0.9}
        )
        assert suggest(trial, config_of(FOCAL)).keys() == expected
    trial = optuna.trial.FixedTrial({"loss": "dice", "class_weights": "class_balanced"})
    config = config_of(FOCAL | {"loss": ["dice", "focal"]})
    assert suggest(trial, config) == {"loss": "dice"}


def test_a_condition_may_be_met_by_a_fixed_value():
    """With focal loss fixed, its gamma is always suggested."""
    config = config_of({"focal_gamma": {"low": 1, "high": 2}}, training={"loss": "focal"})
    assert suggest(optuna.trial.FixedTrial({"focal_gamma": 1.5}), config) == {"focal_gamma": 1.5}


def test_every_form_is_suggested_by_optuna():
    """Ranges, steps, log scales, whole numbers, choices with null."""
    config = config_of(
        {
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
            "epochs": {"low": 2, "high": 8, "step": 2},
            "batch_size": {"low": 4, "high": 64, "log": True},
            "encoder_dropout": [None, 0.1],
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    samples = [suggest(study.ask(), config) for _ in range(30)]
    assert {sample["encoder_dropout"] for sample in samples} == {None, 0.1}
    assert {sample["epochs"] for sample in samples} == {2, 4, 6, 8}
    assert all(resolve(config, sample).training.epochs == sample["epochs"] for sample in samples)


def test_what_is_sampled_overrides_what_is_fixed():
    """The rest keeps its fixed value."""
    params = resolve(config_of(FOCAL, training={"focal_gamma": 5.0}), {"loss": "focal"})
    assert (params.training.loss, params.training.focal_gamma, params.model.encoder) == ("focal", 5.0, "e")


@pytest.mark.parametrize(
    ("sampled", "message"),
    [
        ({"epochs": 0}, "the parameters of a trial: training.epochs: found 0, expected at least 1"),
        ({"epoch": 1}, "the parameters of a trial: training.epoch: unknown key; did you mean epochs?"),
    ],
)
def test_parameters_that_the_models_refuse_are_a_config_error(sampled, message):
    """They come from a database that another version may have written."""
    with pytest.raises(ConfigError) as refused:
        resolve(config_of({}), sampled)
    assert str(refused.value) == message


def test_a_grid_has_each_distinct_combination_once():
    """Parameters without effect do not multiply the grid."""
    space = FOCAL | {"focal_gamma": {"low": 1, "high": 2, "step": 0.5}}
    combinations = grid(config_of(space))
    assert len(combinations) == (1 + 2) + 3 * (1 + 2)
    assert combinations[0] == {"loss": "cross_entropy", "class_weights": "none"}
    assert {
        "loss": "focal",
        "focal_gamma": 1.5,
        "class_weights": "class_balanced",
        "class_balanced_beta": 0.9,
    } in combinations


def test_a_grid_is_what_optuna_would_accept():
    """Each combination can be enqueued and is suggested unchanged."""
    config = config_of(FOCAL | {"focal_gamma": {"low": 1, "high": 2, "step": 0.5}})
    for combination in grid(config):
        assert suggest(optuna.trial.FixedTrial(combination), config) == combination


def test_an_endless_grid_is_refused():
    """Before it fills the memory."""
    everything = {"epochs": {"low": 1, "high": 1000}, "batch_size": {"low": 1, "high": 1000}}
    with pytest.raises(ConfigError, match="more than 100,000 combinations"):
        grid(config_of(everything))
    with pytest.raises(ConfigError, match=r"space\.dropout: expected a step or choices"):
        grid(config_of({"dropout": {"low": 0, "high": 0.5}}))


def test_the_values_of_a_field_include_the_largest():
    """Texts are tokenised once for all trials."""
    assert max(field_values(config_of({"max_length": {"low": 32, "high": 256}}), "max_length")) == 256
    assert field_values(config_of({"max_length": [64, 128]}), "max_length") == [64, 128]
    assert field_values(config_of({}), "max_length") == [128]


@given(low=st.integers(1, 50), steps=st.integers(1, 20), step=st.integers(1, 7))
def test_the_values_of_a_range_start_low_and_end_high(low, steps, step):
    """Both ends are included, in whole steps."""
    values = Range(low=low, high=low + steps * step, step=step).values()
    assert values == list(range(low, low + steps * step + 1, step))


def test_decimal_steps_do_not_drift():
    """0.1 three times is 0.3, not 0.30000000000000004."""
    assert Range(low=0.0, high=0.5, step=0.1).values() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_space_made_in_python_is_checked_like_one_from_a_file():
    """The model itself refuses it."""
    with pytest.raises(ValidationError, match="expected at most"):
        config_of({"learning_rate": {"low": 1, "high": 20}})


def test_a_trial_s_position_in_the_space():
    """Ranges from 0 to 0.9 on their own scale, choices by index; what was not sampled lies apart from the ends."""
    space = config_of(
        {
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "dropout": {"low": 0.0, "high": 0.6},
            "loss": ["cross_entropy", "focal"],
            "focal_gamma": {"low": 0.5, "high": 4.0},
        }
    ).space
    at = position(space, {"learning_rate": 1e-4, "dropout": 0.6, "loss": "cross_entropy"})
    assert dict(zip(space, at, strict=True)) == {
        "learning_rate": pytest.approx(0.45),
        "dropout": pytest.approx(0.9),
        "loss": 0.0,
        "focal_gamma": 0.45,
    }
    assert position(space, {"loss": "focal", "focal_gamma": 0.5})[-2:] != at[-2:]


def test_the_usual_values_of_every_parameter_are_a_trial_that_optuna_takes():
    """All that is proposed at once: each value is sampled as it is, and only what has any effect."""
    space: dict[str, Any] = {}
    for name, parameter in PARAMETERS.items():
        offered = {other: space[other].values() if other in space else [] for other in parameter.when}
        met = all(set(offered[other]) & set(values) for other, values in parameter.when.items())
        if met and parameter.suggested and name != "ema_decay":  # which does not go with a proposed optimiser
            space[name] = parameter.suggested
    config = config_of(space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    expected = usual(config)
    study.enqueue_trial(expected)
    assert suggest(study.ask(), config) == expected
    assert expected["learning_rate"] == 5e-5
    assert resolve(config, expected).training.loss == "cross_entropy"
    assert "focal_gamma" not in expected


@pytest.mark.parametrize(
    ("domain", "value", "nearest"),
    [
        ({"low": 0.2, "high": 0.5}, 0.1, 0.2),
        ({"low": 0.2, "high": 0.5}, 0.9, 0.5),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, 0.4, 0.5),
        ({"low": 3, "high": 10}, 4, 4),
        ({"low": 16, "high": 64, "step": 16}, 20, 16),
        ({"low": 1e-5, "high": 1e-3, "log": True}, None, 1e-4),
        ({"low": 1, "high": 5}, None, 3),
        (["a", "b"], "b", "b"),
        (["a", "b"], "c", "a"),
        ([None, 1], None, None),
    ],
)
def test_the_nearest_value_of_a_domain(domain: Any, value: Any, nearest: Any):
    """It is one that can be sampled, of the same type."""
    found = (Choices if isinstance(domain, list) else Range).model_validate(domain).nearest(value)
    assert found == (pytest.approx(nearest) if isinstance(nearest, float) else nearest)
    assert type(found) is type(nearest)


@pytest.mark.parametrize(
    ("model", "training", "rate"),
    [
        ({}, {}, 5e-5),
        ({"trainable_layers": 2}, {}, 5e-5),
        ({"trainable_layers": 0}, {}, 1e-2),
        ({"lora_rank": 8}, {}, 3e-4),
        ({}, {"optimiser": "sgd"}, 5e-3),
    ],
)
def test_the_usual_learning_rate_is_that_of_what_is_trained(model: Any, training: Any, rate: float):
    """Unless the range ends before it."""
    sections = {"model": {"encoder": "e", **model}, "training": training}
    wide, narrow = ({"learning_rate": {"low": low, "high": 1.0, "log": True}} for low in (1e-6, 1e-2))
    assert usual(config_of(wide, **sections)) == {"learning_rate": pytest.approx(rate)}
    assert usual(config_of(narrow, **sections)) == {"learning_rate": 1e-2}
