"""The search space of a study: sampling a trial, all its parameters, and every combination of a grid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fold_search.models.params import Scalar
from fold_search.objectives.params import Params
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS, Choices, Domain, Range, build_params, is_active
from fold_search.search.study.wording import describe

if TYPE_CHECKING:
    import optuna

MOST_COMBINATIONS = 100_000
_SGD_FACTOR, _MOST_SGD = 100.0, 0.1


def suggest(trial: "optuna.Trial", config: StudyConfig) -> dict[str, Scalar]:
    """Sample the searched parameters in the order of their declaration; only those that have an effect."""
    sampled: dict[str, Scalar] = {}
    for name, domain in config.space.items():
        if is_active(name, config.fixed | sampled):
            sampled[name] = _suggest(trial, name, domain)
    return sampled


def usual(config: StudyConfig) -> dict[str, Scalar]:
    """Return what a trial of the usual values samples: those of the fields, or what the space has nearest to them.

    Of choices without the usual value it is the first. The usual learning rate depends on what is trained: a head alone
    takes a larger one than low-rank updates, these a larger one than the encoder's own weights; random weights
    take more than pretrained ones.
    """
    sampled: dict[str, Scalar] = {}
    for name, domain in config.space.items():
        if is_active(name, config.fixed | sampled):
            sampled[name] = domain.nearest(PARAMETERS[name].field.default)
    if "learning_rate" in sampled:
        sampled["learning_rate"] = config.space["learning_rate"].nearest(_usual_rate(config.fixed | sampled))
    return sampled


def _usual_rate(values: Mapping[str, Any]) -> float:
    rate = 1e-2 if values["trainable_layers"] == 0 else 3e-4 if values["lora_rank"] else 5e-5
    if str(values["encoder"]).startswith("config:"):  # its weights start random
        rate = 1e-3
    return min(rate * _SGD_FACTOR, _MOST_SGD) if values["optimiser"] == "sgd" else rate


def resolve(config: StudyConfig, sampled: dict[str, Scalar]) -> Params:
    """Return all parameters of a trial, the sampled over the fixed; raises ConfigError if the models refuse them."""
    try:
        return build_params(config.fixed, sampled)
    except ValidationError as error:
        problem = describe(error.errors(include_url=False)[0], Params)
        raise ConfigError(f"the parameters of a trial: {problem}") from None


def field_values(config: StudyConfig, name: str) -> list[Scalar]:
    """The values that parameter `name` may take: the choices, the two ends of a range, or the fixed one."""
    domain = config.space.get(name)
    return domain.ends() if domain else [config.fixed[name]]


def position(space: Mapping[str, Domain], sampled: Mapping[str, Any]) -> list[float]:
    """The trial's position in the space, one coordinate per parameter.

    A number goes from 0 to 0.9 along its range, by its logarithm where the range is on a log scale; one that is not
    sampled lies in the middle. A choice is its index, -1 where none is sampled.
    """
    return [_coordinate(domain, sampled.get(name)) for name, domain in space.items()]


def _coordinate(domain: Domain, value: Scalar) -> float:
    if isinstance(domain, Choices):
        return float(domain.choices.index(value)) if value in domain.choices else -1.0
    if not isinstance(value, int | float):
        return 0.45
    low, high, at = (math.log(end) if domain.log else float(end) for end in (domain.low, domain.high, value))
    return 0.9 * min(max((at - low) / (high - low), 0.0), 1.0)


def most_trials(config: StudyConfig) -> int:
    """How many trials the study will have: its budget's, or fewer where a grid has fewer combinations."""
    return min(config.budget.trials, len(grid(config))) if config.study.sampler == "grid" else config.budget.trials


def grid(config: StudyConfig) -> list[dict[str, Scalar]]:
    """Return every distinct combination that `suggest` could sample, the last parameter varying fastest.

    Raises ConfigError where a range has no step or there are over 100,000 combinations.
    """
    combinations: list[dict[str, Scalar]] = [{}]
    for name, domain in config.space.items():
        values = domain.values()
        if values is None:
            raise ConfigError(f"space.{name}: expected a step or choices, because a grid tries all values")
        grown = _extend(combinations, name=name, values=values, fixed=config.fixed)
        combinations = list(islice(grown, MOST_COMBINATIONS + 1))
        if len(combinations) > MOST_COMBINATIONS:
            raise ConfigError(f"space: the grid has more than {MOST_COMBINATIONS:,} combinations")
    return combinations


def _extend(
    combinations: list[dict[str, Scalar]], *, name: str, values: Sequence[Scalar], fixed: dict[str, Any]
) -> Iterator[dict[str, Scalar]]:
    for chosen in combinations:
        if is_active(name, fixed | chosen):
            yield from ({**chosen, name: value} for value in values)
        else:
            yield chosen


def _suggest(trial: "optuna.Trial", name: str, domain: Range | Choices) -> Scalar:
    if isinstance(domain, Choices):
        return trial.suggest_categorical(name, domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return trial.suggest_int(name, domain.low, domain.high, step=int(domain.step or 1), log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
