"""Shell completion, by the protocol that shells speak with the program, and in a real bash."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate

SEARCH = Path(sys.executable).with_name("search")
DEFAULT = "sqlite:///studies/search.db"
SPLITS = "=:"  # where bash splits words


def with_studies(url: str, *names: str) -> None:
    engine = connect(url)
    migrate(engine)
    for name in names:
        create_study(
            engine,
            name=name,
            config={},
            metric="macro_f1",
            direction="maximize",
            fingerprints={},
            provenance={},
            assignments=np.zeros(4, np.int16),
        )
    engine.dispose()


def as_bash(words: Sequence[str]) -> list[str]:
    """The words as bash hands them over: split at = and :."""
    split: list[str] = []
    for word in words:
        for letter in SPLITS:
            word = word.replace(letter, f"\n{letter}\n")
        split += [part for part in word.split("\n") if part] or [""]
    return split


def ask(*words: str, shell: str = "bash", program: Sequence[str] = (str(SEARCH),)) -> list[str]:
    """What is proposed for the last word; nothing may be said on stderr."""
    given = ["search", *(as_bash(words) if shell == "bash" else words)]
    environment = {**os.environ, "_SEARCH_COMPLETE": f"{shell}_complete", "COMP_WORDS": "\n".join(given)}
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(given) - 1)
    done = subprocess.run(list(program), env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line]
    return lines[1::3] if shell == "zsh" else [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_studies_of_the_usual_database(shell: str, folder: Path):
    """By what is typed so far; reading leaves nothing beside the database."""
    with_studies(DEFAULT, "patents", "mails", "patents-2")
    before = sorted(folder.rglob("*"))
    assert ask("status", "--study", "pat", shell=shell) == ["patents", "patents-2"]
    assert ask("export", "--trial", "3", "--study", "", shell=shell) == ["mails", "patents", "patents-2"]
    assert sorted(folder.rglob("*")) == before


def test_studies_of_the_database_on_the_line(folder: Path):
    """--storage, or what the study file of --config says; bash hands its URL over in parts."""
    for name in ("other", "third"):
        with_studies(f"sqlite:///{folder / name}.db", f"of {name}")
    (folder / "study.yaml").write_text(f"storage: {{url: 'sqlite:///{folder / 'third'}.db'}}\n")
    (folder / "plain.yaml").write_text("data: {path: a.csv}\n")
    with_studies(DEFAULT, "usual")
    assert ask("status", "--storage", f"sqlite:///{folder / 'other'}.db", "--study", "") == ["of other"]
    assert ask("run", "--config", "study.yaml", "--study", "") == ["of third"]
    assert ask("run", "--config", "plain.yaml", "--study", "") == ["usual"]


def test_studies_while_one_is_written(folder: Path):
    """The newest are in the file beside the database."""
    with_studies(DEFAULT, "first")
    engine = connect(DEFAULT)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        with_studies(DEFAULT, "second")
        assert ask("status", "--study", "") == ["first", "second"]
    engine.dispose()


def test_studies_of_a_server(postgres_url: str):
    """PostgreSQL."""
    with_studies(postgres_url, "on a server")
    assert ask("status", "--storage", postgres_url, "--study", "on") == ["on a server"]


@pytest.mark.parametrize(
    "storage",
    ["sqlite:///none.db", "sqlite:///no/folder/none.db", "sqlite:///broken.db", "postgresql://127.0.0.1:9/x", "?"],
)
def test_what_cannot_be_read_proposes_nothing(storage: str, folder: Path):
    """And makes no database, and says nothing."""
    (folder / "broken.db").write_bytes(b"no database")
    assert ask("status", "--storage", storage, "--study", "") == []
    assert ask("run", "--config", "none.yaml", "--study", "") == []
    assert [path.name for path in folder.iterdir()] == ["broken.db"]


def test_keys_of_the_study_file():
    """With = at their end; those of `space` are the parameters."""
    assert ask("run", "--set", "budget.m") == ["budget.money=", "budget.max_failures="]
    assert ask("run", "--set", "trackers.ml") == ["trackers.mlflow.enabled=", "trackers.mlflow.uri="]
    assert "space.learning_rate=" in ask("run", "--set", "space.l")
    assert {"data.path=", "model.encoder=", "training.loss="} <= set(ask("run", "--set", ""))
    assert ask("run", "--set", "nothing.") == []


def test_keys_for_another_machine():
    """What may change there."""
    keys = ask("worker", "--set", "")
    assert {"data.path=", "storage.artifacts="} <= set(keys)
    assert not any(key.startswith(("training.", "model.", "space.")) for key in keys)


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("budget.until=", ["used", "no-expected-gain"]),
        ("budget.until=no", ["no-expected-gain"]),
        ("study.metric=macro_f", ["macro_f1"]),
        ("trackers.mlflow.enabled=", ["true", "false"]),
        ("budget.time=", ["null"]),
        ("budget.trials=", []),
        ("no.such=", []),
    ],
)
def test_values_of_a_key_that_has_only_some(typed: str, values: list[str]):
    """Bash completes what comes after the =, the others the whole word."""
    key = typed.partition("=")[0]
    assert ask("run", "--set", typed) == values
    assert ask("run", "--set", typed, shell="zsh") == [f"{key}={value}" for value in values]
    assert ask("run", "--set", typed, shell="fish") == [f"{key}={value}" for value in values]


def test_files_for_the_study_file():
    """The shell lists them itself."""
    assert ask("run", "--config", "st") == ["st"]


def test_nothing_heavy_is_loaded_while_the_user_waits(folder: Path):
    """For studies hardly anything, for keys what reads a study file."""
    with_studies(DEFAULT, "patents")
    program = (
        "import atexit, sys; from fold_search.search.cli import main;"
        "atexit.register(lambda: print('plain,loaded', *sorted({'torch', 'optuna', 'sqlalchemy', 'sklearn', 'pandas',"
        " 'pydantic', 'numpy', 'rich'} & set(sys.modules)))); main()"
    )
    command = [sys.executable, "-c", program]
    assert ask("status", "--study", "", program=command) == ["patents", "loaded"]
    [*_, loaded] = ask("run", "--set", "budget.until=", program=command)
    assert set(loaded.split()[1:]) <= {"numpy", "pydantic", "rich"}


class Typing:
    """A real bash, in which the completion is switched on as the docs say."""

    def __init__(self) -> None:
        self.terminal, inner = pty.openpty()
        environment = {**os.environ, "PATH": f"{SEARCH.parent}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb"}
        command = ["bash", "--norc", "--noprofile", "-i"]
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)
        self.type('eval "$(_SEARCH_COMPLETE=bash_source search)"; echo rea""dy\n', until="ready")

    def type(self, keys: str, *, until: str) -> str:
        """Press the keys, and return what is shown once it contains `until`."""
        os.write(self.terminal, keys.encode())
        shown, end = "", time.monotonic() + 60
        while until not in shown and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.2)[0]:
                shown += os.read(self.terminal, 4096).decode()
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def bash() -> "Callable[[], Typing]":
    return Typing


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("search stat\t", "search status "),
        ("search status --study pat\t", "search status --study patents "),
        ("search run --set budget.unt\t", "search run --set budget.until="),
        ("search run --set budget.until=no\t", "search run --set budget.until=no-expected-gain "),
        ("search run --set=budget.unt\t", "search run --set=budget.until="),
        ("search run --config stu\t", "search run --config studies/"),
    ],
)
def test_a_real_bash(bash: "Callable[[], Typing]", typed: str, written: str):
    """TAB writes the rest of the word, and a space unless a value comes."""
    with_studies(DEFAULT, "patents", "mails")
    shell = bash()
    shown = shell.type(f"{typed}END", until=f"{written}END")
    shell.close()
    assert f"{written}END" in shown.replace("\r", "")
