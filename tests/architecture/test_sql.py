"""SQL comes from SQLAlchemy's expressions alone: none is put together from strings."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.rooms import REPOSITORY, ROOMS

SQL = re.compile(
    r"\s*(select\s.+\sfrom|insert\s+into|update\s.+\sset|delete\s+from|(create|alter|drop|truncate)\s+(table|index|database))\b",
    re.IGNORECASE | re.DOTALL,
)
RUN = {"text", "execute", "exec_driver_sql", "executemany", "executescript", "scalar", "scalars"}


def built_sql(source: str) -> Iterator[int]:
    """Yield the lines where a string that is not constant begins as SQL does, or is handed over to be run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr | ast.BinOp) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join")
        ):
            words = "".join(
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
                for part in ast.walk(node)
            )
            if SQL.match(words) and not constants_only(node):
                yield node.lineno
        given = node.args[:1] if isinstance(node, ast.Call) and name_of(node.func) in RUN else []
        if any(isinstance(sql, ast.JoinedStr | ast.BinOp) and not constants_only(sql) for sql in given):
            yield node.lineno


def constants_only(node: ast.AST) -> bool:
    """Whether all names that are put in are constants of a module, in capitals."""
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return bool(names) and all(name.isupper() for name in names)


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_no_sql_is_put_together_from_strings():
    """But for names that are constants of ours, and a released migration's own two words."""
    files = [file for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")]
    found = {file.name for file in files if list(built_sql(file.read_text()))}
    assert found == {"0002_toolbox.py"}


@pytest.mark.parametrize(
    "source",
    [
        'connection.execute(text(f"SELECT * FROM studies WHERE name = {name}"))',
        'connection.execute("DELETE FROM " + table)',
        'statement = "UPDATE studies SET name = %s" % name',
        'statement = "INSERT INTO studies VALUES ({})".format(name)',
        'connection.exec_driver_sql(f"PRAGMA {name}")',
    ],
)
def test_sql_put_together_from_strings_is_noticed(source: str):
    """However it is put together."""
    assert list(built_sql(source))
