"""Lays `--set` over a study file: what it fixes is not searched any more, nor what can then have no effect."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from fold_search.objectives.params import Params
from fold_search.search.study.parameters import Domain, check_domains, hindrances
from fold_search.search.study.study_file import Override, apply_override

_SPACE = TypeAdapter(dict[str, Domain])


def lay_over(sections: dict[str, Any], settings: Sequence[Override]) -> list[str]:
    """Apply the overrides to the sections, in place; return a note for each parameter that they take out of the search.

    Parameters that an override fixes need no note. Parameters that have no effect even without the overrides stay in
    the search, and so do those that an override asks to search: the check of the study file refuses them. Raises
    ConfigError.
    """
    kept = {setting.path[1] for setting in settings if setting.path[0] == "space" and len(setting.path) > 1}
    kept |= set(_hindered(sections))
    for setting in settings:
        apply_override(sections, setting)
        _fix(sections, setting)
    notes = []
    while found := {name: why for name, why in _hindered(sections).items() if name not in kept}:
        for name, why in found.items():
            del sections["space"][name]
            notes.append(f"space.{name} is not searched: {why}")
    return notes


def _fix(sections: Mapping[str, Any], setting: Override) -> None:
    """Take a parameter that the override fixes out of the space."""
    space = sections.get("space")
    if len(setting.path) > 1 and setting.path[0] in ("model", "training") and isinstance(space, dict):
        space.pop(setting.path[1], None)


def _hindered(sections: Mapping[str, Any]) -> dict[str, str]:
    """Each searched parameter that can have no effect, and why; none where the sections are wrong in another way."""
    try:
        given = {name: sections[name] for name in ("model", "training") if sections.get(name) is not None}
        params = Params.model_validate_json(json.dumps({"training": {}, **given}, allow_nan=False), strict=True)
        space = {name: form for name, form in sections.get("space", {}).items() if form is not None}
        return hindrances(check_domains(_SPACE.validate_python(space)), params)
    except (AttributeError, TypeError, ValueError):
        return {}
