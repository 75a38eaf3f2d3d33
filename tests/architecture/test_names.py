"""Public names: none says nothing, none is private and used elsewhere, and the documentation names what is there."""

import ast
import re

from tests.architecture.rooms import REPOSITORY, ROOMS, modules, syntax

SAYS_NOTHING = re.compile(r"manager|helper|(^|_)base|utils?(_|$)|common(_|$)|misc|wrapper|handler", re.IGNORECASE)
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_no_name_says_nothing():
    """No module, class or function is a manager, a helper, a base or a drawer of utils."""
    names = [module.stem for module in modules()]
    for module in modules():
        names += [node.name for node in ast.walk(syntax(module)) if isinstance(node, DEFINITIONS)]
    assert [name for name in names if SAYS_NOTHING.search(name)] == []


def test_private_names_stay_in_their_module():
    """What another module imports has no underscore."""
    found = [
        f"{module}: {alias.name}"
        for module in modules()
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ROOMS
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []


def test_every_module_has_its_line_in_the_architecture():
    """docs/architecture.md names each module under its room, and none that is not there."""
    document = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)$(.*?)(?=^#)", document, re.MULTILINE | re.DOTALL))
    named = {f"{room}/{name}" for room in ROOMS for name in re.findall(r"`([\w/]+\.py)`", sections[room])}
    there = {str(module) for module in modules() if module.stem != "__init__" and "migrations" not in module.parts}
    assert named == there
