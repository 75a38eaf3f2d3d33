"""Reads the study file, a safe part of YAML, and applies `--set a.b=c` of the command line to it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fold_search.search.errors import ConfigError
from fold_search.search.study.wording import printable, shown

_MOST_BYTES = 100_000
_MOST_LEVELS = 50
_MOST_DIGITS = 100  # more take ever longer to read
_TOO_LARGE = 2**63  # for the columns of a database
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$")
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")  # in no path and no database


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags, aliases, dates or repeated keys, and limits on size and depth; 1e-5 is a number."""

    _level = 0

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to declare them
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias (*name) is not supported", problem_mark=mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.tag is not None:
            raise yaml.MarkedYAMLError(problem="a tag (!name) is not supported", problem_mark=event.start_mark)
        if self._level == _MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        is_long = node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS
        value = math.inf if is_long else super().construct_object(node, deep)
        if isinstance(value, int | float) and not abs(value) < _TOO_LARGE:
            problem = f"found the number {shown(node.value)}, expected one below 2**63, or a name in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(value, str) and _UNWRITABLE.search(value):
            problem = f"found {shown(value)}, expected text without NUL characters or unpaired surrogates"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag != _MERGE:
                key.tag = _TEXT  # keys are names: a class or a column may be called yes or 01
            if key.value in names:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {printable(key.value)} is given twice", problem_mark=key.start_mark
                )
            names.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _AsWritten(_Loader):
    """The same, every value as the text that was written; null alone is none."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to declare them
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `--set a.b=c` of the command line."""

    path: tuple[str, ...]
    value: Any

    def concerns(self, path: Sequence[int | str]) -> bool:
        """Whether `path` is the key that is set, or lies inside or above it."""
        shared = min(len(path), len(self.path))
        return tuple(path[:shared]) == self.path[:shared]


def parse_override(text: str, *, as_written: bool = False) -> Override:
    """Read `a.b=c`, the value as YAML, or as its text where that is asked for; raises ConfigError."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"--set {printable(path)}: expected section.field=value")
    parsed = _parse(value, f"--set {printable(path)}", as_written=as_written)
    return Override(path=tuple(path.strip().split(".")), value=parsed)


def read_yaml(path: Path, *, as_written: bool = False) -> Any:
    """Return the plain data of a small YAML file, all values as their text where asked for; raises ConfigError."""
    return _parse(_read_text(path), str(path), as_written=as_written)


def read_study_file(path: Path, *, as_written: bool = False) -> dict[str, Any]:
    """Return the sections of the file, those without content left out; raises ConfigError."""
    sections = read_yaml(path, as_written=as_written)
    if sections is None:
        raise ConfigError(f"{path}: the file is empty, expected at least the sections data and model")
    if not isinstance(sections, dict):
        raise ConfigError(f"{path}: found {_kind(sections)}, expected sections with `key: value` lines")
    return {str(key): section for key, section in sections.items() if section is not None}


def apply_override(sections: dict[str, Any], override: Override) -> None:
    """Set one value in place, with its parent sections; raises ConfigError if a parent is a value, not a section."""
    *parents, name = override.path
    section: Any = sections
    for depth, parent in enumerate(parents, start=1):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            key, whole = printable(".".join(parents[:depth])), printable(".".join(override.path))
            raise ConfigError(f"--set {whole}: {key} is {_kind(section)}, expected an override of all of it")
    section[name] = override.value


def text_at(file: Path, overrides: Sequence[str], path: Sequence[int | str]) -> str | None:
    """Return the value of the key `path` as it was written; None if it is not a single value."""
    sections: Any = read_study_file(file, as_written=True)
    for override in overrides:
        apply_override(sections, parse_override(override, as_written=True))
    for part in path:
        inner = dict(enumerate(sections)) if isinstance(sections, list) else sections
        sections = inner.get(part) if isinstance(inner, dict) else None
    return sections if isinstance(sections, str) else None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than {_MOST_BYTES:,} bytes, expected a study file or a template")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: found the byte 0x{content[error.start]:02x} in line {line}, expected UTF-8 text"
        ) from None


def _parse(text: str, source: str, *, as_written: bool) -> Any:
    try:
        return yaml.load(text, Loader=_AsWritten if as_written else _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}: not valid YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else "a single value"
