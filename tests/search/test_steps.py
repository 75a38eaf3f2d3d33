"""What `predict`, `evaluate`, `export` and `serve` say on stderr before their answer is there."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fold_search.search.reporting.steps import Steps, counted
from tests.search.test_export import Trained

# Runs the command in this process's place, and says last whether torch was loaded when the first step was named.
PROGRAM = """
import sys
from fold_search.search.cli import app
from fold_search.search.reporting.steps import Steps
first, real = [], Steps.step
def step(self, name):
    first.append("torch" in sys.modules or "mlflow" in sys.modules)
    real(self, name)
Steps.step = step
try:
    app(sys.argv[1:], prog_name="search")
except SystemExit as end:
    print("torch was there" if first[0] else "torch was not there", file=sys.stderr)
    raise
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("study"))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_steps_go_to_stderr_before_torch_is_there(study: Trained, tmp_path: Path):
    """In a pipe a line for each; stdout has the answer alone."""
    exported = run("export", "--study", "nouns", "--storage", study.url, "--out", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    assert exported.stderr.splitlines() == [
        "loading torch and transformers ...",
        "reading the study's rows ...",
        *(f"the model of fold {fold} ..." for fold in range(3)),
        "torch was not there",
    ]
    assert [line.partition(" ")[0] for line in exported.stdout.splitlines()] == ["wrote"]
    steps = [
        "loading torch and transformers ...",
        "checking the model's files ...",
        "reading rows ...",
        "tokenising rows ...",
        "loading the model ...",
        "predicting ...",
    ]
    model = ["--model", tmp_path / "model", study.data]
    predicted = run("predict", *model, "--out", tmp_path / "out.csv")
    assert predicted.stdout == f"wrote {tmp_path / 'out.csv'}: 45 rows\n"
    assert predicted.stderr.splitlines() == [*steps, "torch was not there"]
    evaluated = run("evaluate", *model, "--json")
    assert json.loads(evaluated.stdout)["rows"] == 45
    assert evaluated.stderr.splitlines() == [*steps, "scoring ...", "torch was not there"]


def test_what_is_wrong_is_said_after_the_steps(tmp_path: Path):
    """In one line."""
    result = run("predict", "--model", tmp_path / "none", tmp_path / "d.csv", "--out", tmp_path / "out.csv")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[2].startswith(f"error: {tmp_path / 'none'}: is not an exported model")


def test_serve_says_what_it_loads(study: Trained):
    """Here with a port that cannot be had, so that it ends; the address comes after what is loaded."""
    result = run("serve", "--storage", study.url, "--mlflow", "sqlite:////proc/none/mlflow.db")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[:2] == ["loading the Optuna dashboard ...", "loading MLflow ..."]
    assert lines[2].startswith("error: ")
    assert (lines[3], result.stdout) == ("torch was not there", "")


def test_a_terminal_shows_them_in_one_place(tmp_path: Path):
    """With a spinner; they are gone at the end, and nothing of them is on stdout."""
    primary, secondary = pty.openpty()
    command = [Path(sys.executable).with_name("search"), "predict", "--model", tmp_path, "d.csv", "--out", "out.csv"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=secondary, env=environment)
    os.close(secondary)
    shown = b""
    while True:
        try:
            read = os.read(primary, 4096)
        except OSError:
            break
        shown += read
        if not read:
            break
    os.close(primary)
    assert process.wait(timeout=60) == 2
    assert process.stdout is not None
    assert process.stdout.read() == b""
    process.stdout.close()
    assert shown.count(b"loading torch and transformers") > 2  # it is drawn again and again while torch is loaded
    assert shown.rstrip().endswith(b"it has no model.json")
    assert b"loading torch" not in shown.rpartition(b"\x1b[2K")[2]


def test_rows_are_counted_in_few_lines():
    """Every ten seconds where there is no terminal, and a step that comes again is named once."""
    times = iter(range(0, 100, 4))
    file = io.StringIO()
    with Steps(Console(file=file), clock=lambda: next(times)) as steps:
        for chunk in range(2):
            steps.step("tokenising rows")
            for part in range(5):
                steps.rows(1000 * chunk + 250 * part, total=3000, exact=False)
    assert file.getvalue().splitlines() == [
        "tokenising rows ...",
        "predicting: 750 of about 3,000 rows, 62.5 rows/s, 36s left",
        "predicting: 1,250 of about 3,000 rows, 52.1 rows/s, 34s left",
        "predicting: 2,000 of about 3,000 rows, 55.6 rows/s, 18s left",
    ]


def test_a_line_between_steps_is_printed_alone():
    """On a terminal the spinner stops for it."""
    file, said = io.StringIO(), []
    with Steps(Console(file=file, force_terminal=True)) as steps:
        steps.step("training fold 1 again")
        steps.aside(said.append)("epoch 1 of 3")
        steps.step("the model of fold 2")
    assert said == ["epoch 1 of 3"]
    assert "training fold 1 again" in file.getvalue()
    assert "the model of fold 2" in file.getvalue()


@pytest.mark.parametrize(
    ("done", "total", "seconds", "words"),
    [
        (0, 10, 0.0, "predicting: 0 of 10 rows"),
        (10, 10, 0.0, "predicting: 10 of 10 rows"),
        (50, 1050, 10.0, "predicting: 50 of 1,050 rows, 5.0 rows/s, 3m20s left"),
        (10, 10, 5.0, "predicting: 10 of 10 rows, 2.0 rows/s, 0s left"),
    ],
)
def test_rows_in_words(done: int, total: int, seconds: float, words: str):
    """The time left as soon as there is a rate."""
    assert counted(done, total=total, exact=True, seconds=seconds) == words
