"""The parameters that a study may fix or search: their declarations, and the ranges and choices in the study file."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from itertools import combinations_with_replacement, product
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from fold_search.models.params import ModelParams, Scalar
from fold_search.objectives.params import Params, TrainingParams
from fold_search.search.study.wording import expected, refused, suggestion, unmet

_MOST_VALUES = 1000


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise unmet("a number")
    return value


def _scalar(value: object) -> Scalar:
    if value is not None and not isinstance(value, int | float | str | bool):
        raise unmet("a single value")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[int | float, PlainValidator(_number)]
Values = Annotated[tuple[Annotated[Scalar, PlainValidator(_scalar)], ...], BeforeValidator(_as_tuple)]


class Range(BaseModel):
    """Every number from `low` to `high`, both included; with `step` only every step-th; with `log` on a log scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.low >= self.high:
            raise unmet("low below high (to fix a single value, set it in `model` or `training`)")
        if self.log and self.low <= 0:
            raise unmet("low above 0 for a log scale")
        if self.log and self.step is not None:
            raise unmet("only one of log and step")
        if self.step is not None and not self._ends_on_a_step(Decimal(str(self.step))):
            raise unmet("a step above 0, and high a whole number of steps above low")
        return self

    def _ends_on_a_step(self, step: Decimal) -> bool:
        try:
            return step > 0 and (Decimal(str(self.high)) - Decimal(str(self.low))) % step == 0
        except InvalidOperation:  # more steps than there are digits for
            return False

    def ends(self) -> list[Scalar]:
        """The smallest and the largest value."""
        return [self.low, self.high]

    def nearest(self, value: Scalar) -> Scalar:
        """The value of the range that is nearest to this one; the middle where that is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        inside = min(max(value, self.low), self.high)
        if values := self.values():
            return min(values, key=lambda known: abs(known - inside))
        return round(inside) if isinstance(self.low, int) and isinstance(self.high, int) else float(inside)

    def values(self) -> list[int | float] | None:
        """All values where they can be listed: with a step, or whole numbers; else None."""
        whole = all(isinstance(end, int) for end in (self.low, self.high, self.step or 1))
        if self.step is None and (self.log or not whole):
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        if count > _MOST_VALUES:
            return None
        return [int(low + index * step) if whole else float(low + index * step) for index in range(count)]


class Choices(BaseModel):
    """One of the values listed, in no order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: Values = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _accept_a_list(cls, given: object) -> object:
        return {"choices": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _all_differ(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise unmet("choices without duplicates")
        return self

    def ends(self) -> list[Scalar]:
        """All choices: no choice lies between others."""
        return list(self.choices)

    def nearest(self, value: Scalar) -> Scalar:
        """The value itself if it is one of the choices, else the first."""
        return value if value in self.choices else self.choices[0]

    def values(self) -> list[Scalar]:
        """All choices."""
        return list(self.choices)


def _form(given: object) -> str | None:
    if isinstance(given, list | Choices) or (isinstance(given, dict) and "choices" in given):
        return "choices"
    return "range" if isinstance(given, dict | Range) else None


Domain = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(
        _form,
        custom_error_type="unmet",
        custom_error_message="expected {expected}",
        custom_error_context={"expected": "a range such as {low: 1, high: 5} or a list of choices"},
    ),
]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One field of `model` or `training`, with what is declared of it there."""

    name: str
    section: str
    field: FieldInfo

    @property
    def declared(self) -> dict[str, Any]:
        """What `searchable` says: `suggest`, `when`, `source`; empty for a field that is declared otherwise."""
        extra = self.field.json_schema_extra
        return dict(extra) if isinstance(extra, dict) else {}

    @property
    def when(self) -> dict[str, list[str]]:
        """The parameters and their values under which this one has any effect; empty: always."""
        return self.declared.get("when") or {}

    @property
    def suggested(self) -> Range | Choices | None:
        """The range or the choices that `search init` proposes."""
        suggest = self.declared.get("suggest")
        return None if suggest is None else self.check(TypeAdapter(Domain).validate_python(suggest))

    @property
    def is_number(self) -> bool:
        """Whether a range can be searched."""
        kinds = set(get_args(self.field.annotation)) or {self.field.annotation}
        return bool(kinds & {int, float})

    @cached_property
    def _values(self) -> TypeAdapter[Any]:
        bounded: Any = Annotated[self.field.annotation, self.field]
        return TypeAdapter(bounded)

    def check(self, domain: Range | Choices) -> Range | Choices:
        """Return `domain` with its values as the field's type; raises pydantic's error if the field refuses one."""
        if isinstance(domain, Choices):
            return Choices(choices=tuple(self._check_value(value, index) for index, value in enumerate(domain.choices)))
        if not self.is_number:
            raise unmet(
                "a list of choices, because this is not a number",
                path=self._path,
                found=domain.model_dump(exclude_defaults=True),
            )
        low, high = self._check_value(domain.low, "low"), self._check_value(domain.high, "high")
        if isinstance(low, int) and not isinstance(domain.step, int | None):
            raise unmet("a whole number", path=(*self._path, "step"), found=domain.step)
        return domain.model_copy(update={"low": low, "high": high})

    @property
    def _path(self) -> tuple[str, str]:
        return ("space", self.name)

    def _check_value(self, value: Scalar, place: int | str) -> Any:
        try:
            return self._values.validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise unmet(expected(problem), path=(*self._path, place), found=value) from None


def _declared_by(section: str, model: type[BaseModel]) -> dict[str, Parameter]:
    return {name: Parameter(name=name, section=section, field=field) for name, field in model.model_fields.items()}


PARAMETERS = {**_declared_by("model", ModelParams), **_declared_by("training", TrainingParams)}


def is_active(name: str, values: Mapping[str, Any]) -> bool:
    """Whether the parameter has any effect beside the given values of the others."""
    return all(
        values[other] in allowed and is_active(other, values) for other, allowed in PARAMETERS[name].when.items()
    )


def check_domains(space: Mapping[str, Range | Choices]) -> dict[str, Range | Choices]:
    """Return the space in the order of declaration, each value of its field's type; raises pydantic's error."""
    for name in space:
        if name not in PARAMETERS:
            hint = suggestion(name, list(PARAMETERS))
            raise unmet(f"a field of model or training; {hint}", path=("space", name), found=name)
    return {name: parameter.check(space[name]) for name, parameter in PARAMETERS.items() if name in space}


def check_conditions(space: Mapping[str, Range | Choices], fixed: Mapping[str, Any]) -> None:
    """Raise pydantic's error if something is searched that can never have an effect."""
    for name in space:
        for obstacle in _obstacles(name, space, fixed):
            raise refused(f"has no effect, because {obstacle}", path=("space", name))


def hindrances(space: Mapping[str, Range | Choices], params: Params) -> dict[str, str]:
    """Return what is searched and can have no effect beside the fixed values of `params`, and why.

    Either a condition is never met, or the models refuse every value but the one in `params`.
    """
    fixed = {**params.model.model_dump(), **params.training.model_dump()}
    found = {name: _hindrance(name, space, fixed) for name in space}
    return {name: why for name, why in found.items() if why is not None}


def build_params(fixed: Mapping[str, Any], sampled: Mapping[str, Any]) -> Params:
    """Return all parameters, the sampled over the fixed; raises pydantic's error if the models refuse them."""
    sections: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    for name, value in {**fixed, **sampled}.items():
        sections[PARAMETERS[name].section if name in PARAMETERS else "training"][name] = value
    return Params.model_validate(sections)


def check_combinations(space: Mapping[str, Range | Choices], fixed: Mapping[str, Any]) -> None:
    """Raise pydantic's error if two values, both of the space or one of them fixed, cannot go together."""
    for names in combinations_with_replacement(space, 2):
        for values in product(*(space[name].ends() for name in names)):
            sampled = dict(zip(names, values, strict=True))
            if not all(is_active(name, {**fixed, **sampled}) for name in sampled):
                continue
            if message := _refusal(fixed, sampled):
                raise refused(message, path=("space", names[1]))


def _hindrance(name: str, space: Mapping[str, Range | Choices], fixed: Mapping[str, Any]) -> str | None:
    for obstacle in _obstacles(name, space, fixed):
        return obstacle
    refusals = [_refusal(fixed, {name: value}) for value in space[name].ends() if value != fixed[name]]
    return refusals[0] if refusals and all(refusals) else None


def _refusal(fixed: Mapping[str, Any], sampled: Mapping[str, Any]) -> str | None:
    """Why the models refuse the sampled values beside the fixed ones; None if they do not."""
    try:
        build_params(fixed, sampled)
    except ValidationError as error:
        return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
    return None


def _obstacles(name: str, space: Mapping[str, Range | Choices], fixed: Mapping[str, Any]) -> Iterator[str]:
    for other, allowed in PARAMETERS[name].when.items():
        domain = space.get(other)
        possible = [fixed[other]] if domain is None else domain.values() or []
        if not any(value in allowed for value in possible):
            section = PARAMETERS[other].section if domain is None else "space"
            values, needed = " or ".join(map(str, possible)), " or ".join(allowed)
            yield f"{section}.{other} is {values}, expected {needed}"
        yield from _obstacles(other, space, fixed)
