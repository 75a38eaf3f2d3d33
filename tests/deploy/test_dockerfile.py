"""The Dockerfile: what it copies is there, reaches the builder, and is enough to install the project."""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.deploy.stack import REPOSITORY

INSTRUCTIONS = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
COPIED = " ".join(re.findall(r"^COPY (.+) \S+$", INSTRUCTIONS, re.MULTILINE)).split()


def test_the_builder_is_sent_what_is_copied():
    """.dockerignore lets exactly the copied files through."""
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(COPIED) == sorted(line[1:] for line in ignored if line.startswith("!"))


def test_services_do_not_run_as_root():
    """The last user named is an ordinary one."""
    assert re.findall(r"^USER (\S+)$", INSTRUCTIONS, re.MULTILINE) == ["search"]


@pytest.mark.slow
def test_what_is_copied_can_be_installed(tmp_path: Path):
    """Built from the copied files alone, the wheel has all rooms and the database's migrations."""
    for name in COPIED:
        subprocess.run(["cp", "--recursive", REPOSITORY / name, tmp_path], check=True)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path / "wheels"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, tmp_path], check=True)
    [wheel] = (tmp_path / "wheels").iterdir()
    rooms = [REPOSITORY / room for room in ("search", "objectives", "models", "storage")]
    modules = {f"fold_search/{file.relative_to(REPOSITORY)}" for room in rooms for file in room.rglob("*.py")}
    assert modules <= set(ZipFile(wheel).namelist())
