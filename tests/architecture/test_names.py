"""Public names: none says nothing, none is private and used elsewhere, and the documentation names what is there."""

import ast
import re

from tests.architecture.rooms import REPOSITORY, ROOMS, modules, syntax

SAYS_NOTHING = re.compile(
    r"manager|helper|(^|_)base(?!line)|utils?(_|$)|common(_|$)|misc|wrapper|handler", re.IGNORECASE
)
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
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fold_search.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []


def test_every_room_has_its_line_in_the_architecture():
    """docs/architecture.md names each folder and each module beside folders, and none that is not there."""
    document = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^\| `(\w+)/` \|[^\n]*\n\|[-|]+\n(.*?)(?=\n\n)", document, re.MULTILINE | re.DOTALL))
    assert set(tables) == set(ROOMS) - {"models"}
    for room, table in tables.items():
        first_column = " ".join(row.split("|")[1] for row in table.splitlines())
        folders = {f"{entry.parent.name}/" for entry in (REPOSITORY / room).glob("*/__init__.py")}
        files = {entry.stem for entry in (REPOSITORY / room).glob("*.py")} - {"__init__"}
        assert set(re.findall(r"`([\w/]+)`", first_column)) == folders | files
    paths = re.findall(r"`((?:search|objectives|models|storage)/[\w/.]*)`", document)
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
