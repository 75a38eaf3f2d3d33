"""Public names: none says nothing, none is private and used elsewhere, and the documentation names what is there."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.architecture.rooms import REPOSITORY, ROOMS, modules, syntax

SAYS_NOTHING = re.compile(
    r"manager|helper|(^|_)base(?!line)|utils?(_|$)|common(_|$)|misc|wrapper|handler", re.IGNORECASE
)
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BY_TEXT = {"setattr", "getattr", "delattr", "hasattr", "patch", "object"}  # calls that are given a name as text


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


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


@cache
def private_names() -> set[str]:
    """What our modules define for themselves: functions, methods, classes, and what is assigned to."""
    found = set()
    for module in modules():
        for node in ast.walk(syntax(module)):
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
    return {name for name in found if is_private(name)}


def named_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node takes from elsewhere: by an import, of an object, or as text."""
    match node:
        case ast.Import(names=names):
            yield from (part for alias in names for part in alias.name.split("."))
        case ast.ImportFrom(names=names):
            yield from (alias.name for alias in names)
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return
        case ast.Attribute(attr=name):
            yield name
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments) if name in BY_TEXT:
            texts = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
            yield from (text.rpartition(".")[2] for text in texts if isinstance(text, str))


def test_no_test_takes_a_private_name():
    """Tests and benchmarks import, read and set public names of ours: what is private may change at any time."""
    files = [path for folder in ("tests", "benchmarks") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    found = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno}: {name}"
        for file in files
        for node in ast.walk(syntax(file))
        for name in named_by(node)
        if name in private_names()
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
