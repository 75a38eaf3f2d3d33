"""Every test asserts something that can fail: by itself, or by a function of the tests that it calls."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import indent

import pytest

from tests.architecture.rooms import REPOSITORY, syntax

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# These may never be run: an assertion that stands in one of them alone can be silent.
MAY_NEVER_RUN = (*FUNCTIONS, ast.Lambda, ast.ExceptHandler)
Definition = tuple[Path, ast.AST]  # a function or a class, and the file that it stands in


@cache
def defined(file: Path) -> dict[str, Definition]:
    """The functions and classes of a file."""
    return {node.name: (file, node) for node in syntax(file).body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}


@cache
def known(file: Path) -> dict[str, Definition]:
    """What a file defines, and what it imports from other files of the tests, by the name that it has there."""
    found = dict(defined(file))
    for node in ast.walk(syntax(file)):
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith("tests."):
            continue
        place = REPOSITORY / str(node.module).replace(".", "/")
        for alias in node.names:
            name, module = alias.asname or alias.name, place / f"{alias.name}.py"
            if module.exists():
                found |= {f"{name}.{inner}": definition for inner, definition in defined(module).items()}
            elif alias.name in (others := defined(place.with_suffix(".py"))):
                found[name] = others[alias.name]
    return found


def called(call: ast.Call, file: Path) -> Iterator[Definition]:
    """Yield the functions of the tests that a call can mean; a method may be that of any class that the file knows."""
    if (name := ast.unparse(call.func)) in known(file):
        yield known(file)[name]
    elif isinstance(call.func, ast.Attribute):
        for home, definition in known(file).values():
            if isinstance(definition, ast.ClassDef):
                methods = [node for node in definition.body if isinstance(node, FUNCTIONS)]
                yield from ((home, method) for method in methods if method.name == call.func.attr)


def reached(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is inside of a node, without what may never run."""
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, MAY_NEVER_RUN):
            yield inner
            yield from reached(inner)


def can_fail(test: ast.expr) -> bool:
    """Whether a condition is not true by its form alone."""
    match test:
        case ast.Constant(value=value):
            return not value
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts) | ast.Dict(keys=parts):
            return not parts
        case ast.Lambda() | ast.GeneratorExp():
            return False
        case ast.BoolOp(op=ast.Or(), values=parts):
            return all(map(can_fail, parts))
        case ast.BoolOp(op=ast.And(), values=parts):
            return any(map(can_fail, parts))
        case ast.Compare(left=ast.Call(func=ast.Name(id="len")), ops=[ast.GtE()], comparators=[ast.Constant(value=0)]):
            return False
        case ast.Compare(left=ast.Name(id=left), ops=[ast.Eq() | ast.Is()], comparators=[ast.Name(id=right)]):
            return left != right
    return True


def asserts(function: ast.AST, file: Path, callers: tuple[ast.AST, ...] = ()) -> bool:
    """Whether a function has an assertion that can fail, or calls one that has."""
    for node in reached(function):
        match node:
            case ast.Assert(test=test) if can_fail(test):
                return True
            case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="raises" | "warns" | "fail")):
                return True
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                ours = list(called(node, file))
                if not ours and name.startswith("assert_"):  # of NumPy, pandas or torch
                    return True
                inside = (function, *callers)  # one that calls itself is looked at once
                if any(asserts(other, home, inside) for home, other in ours if other not in inside):
                    return True
    return False


def silent(file: Path) -> Iterator[str]:
    """Yield the tests of a file that assert nothing, with their lines."""
    for node in ast.walk(syntax(file)):
        if isinstance(node, FUNCTIONS) and node.name.startswith("test_"):
            is_fixture = any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
            if not is_fixture and not asserts(node, file):
                yield f"{node.lineno}: {node.name}"


def test_every_test_asserts_something():
    """An assertion in a function within a test, or where an error is caught, does not count: it may never run."""
    files = sorted((REPOSITORY / "tests").rglob("*.py"))
    assert [f"{file.relative_to(REPOSITORY)}:{found}" for file in files for found in silent(file)] == []


KNOWN = """
import numpy as np
from numpy.testing import assert_allclose
from tests.architecture import test_sql
from tests.architecture.test_assertions import test_every_test_asserts_something as imported
from tests.architecture.rooms import modules

class Study:
    def check(self):
        assert self.is_done
    def prepare(self):
        self.is_done = True

def expect(value): look(value)
def look(value): assert value
def write(value): write(value)
def assert_nothing(value): write(value)
"""


def found_in(folder: Path, body: str) -> list[str]:
    """The silent tests of a file with one test."""
    file = folder / "test_it.py"
    file.write_text(f"{KNOWN}def test_something(study, value, values):\n{indent(body, '  ')}\n")
    return list(silent(file))


@pytest.mark.parametrize(
    "body",
    [
        "assert 1 + 1 == 2",
        "for value in values:\n  assert value",
        "with pytest.raises(ValueError):\n  int('a')",
        "with pytest.warns(UserWarning):\n  int('1')",
        "if values:\n  pytest.fail('too many')",
        "np.testing.assert_allclose(values, 1.0)",
        "assert_allclose(values, 1.0)",
        "look(1)",
        "expect(1)",
        "imported()",
        "test_sql.test_no_sql_is_put_together_from_strings()",
        "study.check()",
    ],
)
def test_a_test_that_asserts_is_let_be(tmp_path: Path, body: str):
    """By itself, or through functions and methods of its own file and of others."""
    assert found_in(tmp_path, body) == []


@pytest.mark.parametrize(
    "body",
    [
        "int('1')",
        "assert True",
        "assert value == 1 or True",
        "assert (value, 1)",
        "assert value == value",
        "assert len(values) >= 0",
        "write(1)",
        "assert_nothing(1)",
        "study.prepare()",
        "list(modules())",
        "def later():\n  assert value",
        "later = lambda: pytest.fail('called')",
        "try:\n  int('1')\nexcept ValueError as error:\n  assert str(error)",
    ],
)
def test_a_test_that_asserts_nothing_is_noticed(tmp_path: Path, body: str):
    """With its line, whatever else it calls."""
    assert found_in(tmp_path, body) == [f"{KNOWN.count(chr(10)) + 1}: test_something"]
