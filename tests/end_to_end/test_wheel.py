"""The wheel in an environment of its own: it has all that `search` needs, and one import name.

A project that has packages called as our rooms are keeps its own.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.end_to_end.conftest import SEARCH, UserFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).parents[2]
ROOMS = ("search", "objectives", "models", "storage")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel is built from, and nothing that an earlier build left."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("fold_search", *ROOMS):
        without_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, folder / name, ignore=without_caches, symlinks=True)
    for name in BESIDE:
        shutil.copy(CHECKOUT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`search` in an environment whose other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    program = folder / "bin" / "search"
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    # The .pth files of a folder that a .pth file adds are not read: this checkout's own is left out.
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return program


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def test_the_wheel_holds_every_file_of_the_rooms(wheel: Path, sources: Path):
    """Also what is no module, should there ever be such a file."""
    paths = (path for room in ROOMS for path in (sources / room).rglob("*") if path.is_file())
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"fold_search/{path.relative_to(sources)}" for path in paths}
    assert packed == expected | {f"fold_search/{path.name}" for path in (sources / "fold_search").glob("*.py")}


def origin_of(name: str, program: Path, *, folder: Path) -> Path:
    """Where a Python that is started in the folder would import this from."""
    find = f"from importlib.util import find_spec; print(find_spec({name!r}).origin)"
    python = [program.with_name("python"), "-c", find]
    return Path(subprocess.run(python, cwd=folder, check=True, capture_output=True, text=True).stdout.strip())


def test_predictions_from_the_wheel_are_those_from_the_checkout(user: UserFolder, installed: Path):
    """A study begun, trained and exported by the installed program, in a project with packages of the same names.

    The same bytes come out of both. In the project `import fold_search` is ours, and `import models` is theirs.
    """
    for room in ROOMS:
        (user.folder / room).mkdir()
        (user.folder / room / "__init__.py").write_text("raise ImportError('not for fold_search')\n")
    assert origin_of("fold_search", installed, folder=user.folder).is_relative_to(installed.parents[1])
    for room in ROOMS:
        assert origin_of(room, installed, folder=user.folder).is_relative_to(user.folder)
    user.program = installed
    user.write_study_file(training={"epochs": 1}, folds={"k": 2}, budget={"trials": 1})
    user.run()
    user.search("export", "--study", "tiny", "--storage", user.storage, "--out", "model")
    data = user.sections["data"]["path"]
    user.search("predict", "--model", "model", data, "--out", "wheel.csv")
    user.program = SEARCH
    user.search("predict", "--model", "model", data, "--out", "checkout.csv")
    assert (user.folder / "wheel.csv").read_bytes() == (user.folder / "checkout.csv").read_bytes()
