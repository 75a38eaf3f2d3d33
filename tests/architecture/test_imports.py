"""Who may import whom: the rules of pyproject.toml hold, and they bite."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.rooms import REPOSITORY, ROOMS, modules, syntax

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_rooms_keep_to_their_arrows():
    """search composes; objectives, storage and models know nothing that is above them."""
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "rule"),
    [
        ("storage/errors.py", "torch", "storage knows no torch"),
        ("objectives/errors.py", "optuna", "training is pure"),
        ("search/running/run.py", "fold_search.search.reporting.tables", "what runs a study draws no tables"),
        (
            "storage/trackers/contract.py",
            "fold_search.storage.publishing",
            "inside storage each floor uses the floors below it",
        ),
        ("models/errors.py", "fold_search.objectives.errors", "search composes the other rooms; nobody imports search"),
    ],
)
def test_a_forbidden_import_is_noticed(tmp_path: Path, module: str, forbidden: str, rule: str):
    """One import against the arrows breaks the rule that forbids it."""
    for folder in (*ROOMS, "fold_search"):
        without_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=without_caches, symlinks=True)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\nimport {forbidden}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{rule} BROKEN" in result.stdout


def test_a_studys_rows_are_prepared_where_its_cache_is_held():
    """Nobody else in `search` computes into the cache: `search clean` could take it away meanwhile."""
    preparing = {
        module
        for module in modules()
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.ImportFrom) and node.module == "fold_search.objectives.tasks.preparation"
        if any(name.name == "prepare" for name in node.names)
    }
    assert preparing == {
        Path("objectives/predicting/exported.py"),
        Path("search/drafting/probe.py"),
        Path("search/running/objective.py"),
    }  # the first two have a folder of their own
