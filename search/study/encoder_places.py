"""Where encoders' folders are: their names in the study file and in the study, and their paths on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fold_search.search.study.config import StudyConfig

_NO_FOLDERS = ("package:", "timm:", "config:timm:")
_CONFIG = "config:"


def anchored(name: str, folder: Path) -> str:
    """Make a folder that a study file in `folder` names relative to the working directory; other names stay."""
    if not name or name.startswith(_NO_FOLDERS):
        return name
    prefix, given = _prefix(name), os.path.expanduser(name.removeprefix(_CONFIG))
    path = os.path.abspath(folder / given)
    # What has at most one slash, as klue/roberta-base, may be a name on the model hub.
    is_path = prefix or given.startswith(".") or given.count("/") > 1 or os.path.isdir(path)
    if os.path.isabs(given) or not is_path:
        return prefix + given
    return prefix + _relative(path, os.getcwd())


def located(name: str, config: "StudyConfig") -> str:
    """What to load for an encoder of the study: the folder where `search run` found it, if it exists here."""
    path = None if config.storage.encoders is None else _place(name, config.storage.encoders)
    return name if path is None else _prefix(name) + _relative(path, os.getcwd())


def starting_here(config: "StudyConfig") -> "StudyConfig":
    """Record that relative names start at the working directory, so that they are found from other directories."""
    here = os.getcwd()
    is_relative = any(_place(name, here) and not os.path.isabs(name) for name in _names(config))
    return _noting(config, here) if is_relative else config


def as_begun(begun: "StudyConfig", now: "StudyConfig") -> "StudyConfig":
    """Use the study's names for the encoders if they are the same folders; else return `now` unchanged.

    Their names are in the params of trials, in checkpoints and in Optuna's study, and so may not change.
    """
    expected = _names(begun)
    if _names(now) == expected:
        return now
    again = (_renamed(now, start) for start in _starts(begun, now))
    return next((config for config in again if _names(config) == expected), now)


def _starts(begun: "StudyConfig", now: "StudyConfig") -> Iterator[str | None]:
    """Yield the folders that the study's names may start at; None for names that are absolute."""
    start = begun.storage.encoders or os.getcwd()
    yield from (start, None)
    for known_as, name in zip(_names(begun), _names(now), strict=False):
        # An earlier version recorded no start, or the study began on another machine: compare the ends of the paths.
        path, tail = _place(name, os.getcwd()), os.sep + known_as.removeprefix(_CONFIG)
        if path is not None and path.endswith(tail) and _place(known_as, start) is None:
            yield path.removesuffix(tail) or os.sep


def _names(config: "StudyConfig") -> list[str]:
    """The names of all encoders that the study may train, the fixed one first."""
    return [config.model.encoder, *(map(str, config.space["encoder"].ends()) if "encoder" in config.space else ())]


def _renamed(config: "StudyConfig", start: str | None) -> "StudyConfig":
    """The config of this working directory with the names that folders have where relative ones start at `start`."""
    fixed, *choices = (_called(name, start) for name in _names(config))
    space = dict(config.space)
    if choices:
        space["encoder"] = space["encoder"].model_copy(update={"choices": tuple(choices)})
    model = config.model.model_copy(update={"encoder": fixed})
    return _noting(config.model_copy(update={"model": model, "space": space}), start)


def _noting(config: "StudyConfig", start: str | None) -> "StudyConfig":
    return config.model_copy(update={"storage": config.storage.model_copy(update={"encoders": start})})


def _called(name: str, start: str | None) -> str:
    path = _place(name, os.getcwd())
    if path is None:
        return name
    return _prefix(name) + (path if start is None else _relative(path, start))


def _place(name: str, start: str) -> str | None:
    """The absolute path of what a name that may start at `start` leads to; None where nothing is."""
    if not name or name.startswith(_NO_FOLDERS):
        return None
    path = os.path.abspath(os.path.join(start, name.removeprefix(_CONFIG)))
    return path if os.path.exists(path) else None


def _prefix(name: str) -> str:
    return _CONFIG if name.startswith(_CONFIG) else ""


def _relative(path: str, start: str) -> str:
    """Below `start` from there, so that it fits other machines too; absolute where it lies elsewhere."""
    relative = os.path.relpath(path, start)
    return path if relative.startswith("..") else relative
