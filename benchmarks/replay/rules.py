"""Rules by name: `NAME` or `NAME:KEY=VALUE,...`, a rule of the race with its settings, or a baseline."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from benchmarks.replay.baselines import BASELINES
from benchmarks.replay.policies import Policy, RacePolicy
from fold_search.search.study.sections import RaceConfig

RACES = get_args(RaceConfig.model_fields["rule"].annotation)


def rule_of(text: str) -> Callable[[], Policy]:
    """Return what makes the rule's policy, a new one for each study; ValueError if there is no such rule or setting."""
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for setting in filter(None, rest.split(",")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{text}: found {setting!r}, expected KEY=VALUE")
        settings[key] = yaml.safe_load(value)
    make: Callable[[], Policy]
    if name in BASELINES:
        make = partial(BASELINES[name], **settings)
    elif name in RACES:
        try:
            make = partial(RacePolicy, RaceConfig.model_validate({"rule": name, **settings}))
        except ValidationError as error:
            [problem, *_] = error.errors(include_url=False)
            raise ValueError(f"{text}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    else:
        raise ValueError(f"{text}: no such rule, expected one of {', '.join([*RACES, *BASELINES])}")
    try:
        make()
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from None
    return make
