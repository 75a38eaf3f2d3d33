"""Optuna's private names, which any version may change, are used in one module."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import optuna
import pytest

from tests.architecture.rooms import modules, syntax

HOME = Path("storage/studies.py")


@cache
def private_names() -> set[str]:
    """Of a study, its storage and sampler, a trial, and a trial as it is stored."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    things = (study, study._storage, study.sampler, study.ask(), study.get_trials()[0])
    return {name for thing in things for name in dir(thing) if name.startswith("_") and not name.startswith("__")}


def uses(tree: ast.Module) -> Iterator[str]:
    """Yield what reads or sets such a name, of anything but a class's own `self`, or imports a private module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in private_names():
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("optuna"):
            yield from (
                name for name in (str(node.module), *(alias.name for alias in node.names)) if "._" in f".{name}"
            )


def test_optunas_private_names_are_used_in_one_module():
    """Nowhere else, and there they are: the test would find them."""
    assert {module for module in modules() if list(uses(syntax(module)))} == {HOME}


@pytest.mark.parametrize(
    "source",
    [
        "study._storage.get_trial(1)",
        "trial._cached_frozen_trial.params = {}",
        "numbers = [trial._trial_id for trial in trials]",
        "class View(optuna.Study):\n    def trials(self):\n        return super()._get_trials()",
        "from optuna.samplers._tpe.sampler import TPESampler",
        "from optuna.study import _tell",
    ],
)
def test_a_private_name_is_noticed(source: str):
    """Wherever it stands."""
    assert list(uses(ast.parse(source)))
