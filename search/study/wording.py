"""Messages about a study file: the key, what was found and what was expected, on one line."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from fold_search.words import nearest

_LONGEST_FOUND = 60

# What other tools and earlier versions call what a study file can say.
_OTHER_NAMES = {
    "alpha": "class_weights",
    "focal_alpha": "class_weights",
    "enn_neighbors": "sampler_neighbors",
    "gamma": "focal_gamma",
    "lr": "learning_rate",
    "min_lr": "min_learning_rate",
    "num_epochs": "epochs",
    "sgdr": "schedule",
    "scheduler": "schedule",
}

# Values that were renamed. Study files and recorded studies may keep the old name, so that a study goes on as begun.
_RENAMED = {"forgiving": "early_stopping_cv"}

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a section of `key: value` lines",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a section of `key: value` lines",
    "path_type": "a path",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "too_short": "a list that is not empty",
    "tuple_type": "a list",
    "unmet": "{expected}",
}


_TEXT_EXPECTED = ("string_type", "path_type", "tuple_type")


def unmet(expected: str, *, path: Sequence[int | str] = (), **found: object) -> PydanticCustomError:
    """Make the error of a validator: what was expected, and `path` and `found` where they are not what is validated."""
    place = {"path": tuple(path)} if path else {}
    return PydanticCustomError("unmet", "expected {expected}", {"expected": expected, **place, **found})


def renamed(value: object) -> object:
    """The new name of a value that was renamed; any other value as it is."""
    return _RENAMED.get(value, value) if isinstance(value, str) else value


def refused(message: str, *, path: Sequence[int | str]) -> PydanticCustomError:
    """Make the error of something that is right by itself but not together with what else is given."""
    return PydanticCustomError("refused", "{message}", {"message": message, "path": tuple(path)})


def location(error: ErrorDetails) -> tuple[int | str, ...]:
    """The path to the key that `error` is about."""
    path = tuple(error.get("ctx", {}).get("path") or error["loc"])
    # The third part below `space` may be pydantic's tag of the form that was tried, which is no key of the file.
    tagged = path[:1] == ("space",) and path[2:3] in {("range",), ("choices",)}
    return (*path[:2], *path[3:]) if tagged else path


def describe(
    error: ErrorDetails, model: type[BaseModel], *, unquoted: str | None = None, in_shell: bool = False
) -> str:
    """Say on one line, passwords removed, what is wrong with which key of `model`, or with several together.

    `unquoted` is what was written where `is_unquoted`, if that is known, in the file or in the shell.
    """
    path = location(error)
    where = f"{dotted(path)}: " if path else ""
    problem = _problem(error, path, model) if unquoted is None else _unquoted(error, unquoted, in_shell=in_shell)
    return without_password(f"{where}{problem}")


def is_unquoted(error: ErrorDetails) -> bool:
    """Whether text was expected where YAML takes a word without quotes, such as yes or 01, for something else."""
    return error["type"] in _TEXT_EXPECTED and isinstance(error["input"], bool | int | float)


def _unquoted(error: ErrorDetails, text: str, *, in_shell: bool) -> str:
    kind = "true or false" if isinstance(error["input"], bool) else "a number"
    # A shell takes one pair of quotes for itself.
    quoted = shlex.quote(json.dumps(text)) if in_shell else json.dumps(text)
    return f"found {printable(text)}, which YAML reads as {kind}, expected text; put it in quotes: {quoted}"


def _problem(error: ErrorDetails, path: tuple[int | str, ...], model: type[BaseModel]) -> str:
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "extra_forbidden":
        return f"unknown key; {_instead(path, model)}"
    if error["type"] not in _EXPECTED:
        return error["msg"].removeprefix("Value error, ")
    return f"found {shown(error.get('ctx', {}).get('found', error['input']))}, expected {expected(error)}"


def expected(error: ErrorDetails) -> str:
    """What would have been right in place of what `error` found."""
    template = _EXPECTED.get(error["type"])
    return template.format_map(error.get("ctx", {})) if template else error["msg"]


def suggestion(word: str, known: Sequence[str]) -> str:
    """Name the nearest known word, or all of them."""
    other = _OTHER_NAMES.get(word.casefold())
    close = other if other in known else nearest(word, known)
    return f"did you mean {close}?" if close else f"expected one of {', '.join(known)}"


def _instead(path: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """Name the keys that may be meant by an unknown one: in its own section or, by the same or a like name, in any."""
    *inside, word = map(str, path)
    own, everywhere = known_keys(model, inside), list(_all_keys(model))
    same, close = _OTHER_NAMES.get(word.casefold(), word), nearest(word, own)
    meant = [close] if close else []
    if same not in own:
        meant += [key for key, name in everywhere if name == same]
    if not meant:
        like = nearest(word, (name for _, name in everywhere))
        meant = [key for key, name in everywhere if name == like]
    return suggestion(word, own) if same in own or not meant else f"did you mean {' or '.join(meant)}?"


def _all_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Each key of the model's sections with its path, dotted, and its name."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _all_keys(inner, f"{path}{name}.")
        elif path:
            yield f"{path}{name}", name


def known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the section of `model` that `path` leads to."""
    for part in path:
        inner = section_of(model.model_fields[str(part)].annotation) if part in model.model_fields else None
        if inner is None:
            return ["low", "high", "step", "log", "choices"]
        model = inner
    return list(model.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or may hold; None if it holds none."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def shown(value: object) -> str:
    """Write a value as the study file would, shortened, passwords removed."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = without_password(text if text.isprintable() else json.dumps(value, default=str))
    return text if len(text) <= _LONGEST_FOUND else f"{text[: _LONGEST_FOUND - 3]}..."


def without_password(text: str) -> str:
    """Remove the passwords of all URLs in `text`, the user names stay."""
    text = re.sub(r"(//[^:/@\s]*):\S*@", r"\1@", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret)=)[^&\s\"]*", r"\1", text)


def dotted(path: Sequence[int | str]) -> str:
    """Write a path as in `data.text[0]`; a key that would not print, as JSON."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in path).removeprefix(".")


def printable(name: str) -> str:
    """A name from a file, on one line whatever it holds."""
    return name if name.isprintable() else json.dumps(name)
