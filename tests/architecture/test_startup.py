"""`search --help` answers at once: nothing heavy is loaded before a command needs it."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter

SEARCH = Path(sys.executable).with_name("search")
HEAVY = {"torch", "transformers", "mlflow", "neptune", "optuna", "pandas", "sklearn", "sqlalchemy", "pydantic", "numpy"}
HELP_SECONDS = 0.5
NUM_RUNS = 10


def seconds_of_help() -> float:
    start = perf_counter()
    subprocess.run([SEARCH, "--help"], check=True, capture_output=True)
    return perf_counter() - start


def test_help_answers_at_once():
    """The fastest of several runs counts: the others may have waited for a busy machine."""
    assert min(seconds_of_help() for _ in range(NUM_RUNS)) < HELP_SECONDS


def test_help_loads_nothing_heavy():
    """Neither the program's help nor that of `search run` imports a learning, tracking or database library."""
    program = (
        "import sys; from fold_search.search.cli import app;"
        "[app(words, standalone_mode=False) for words in (['--help'], ['run', '--help'], ['worker', '--help'])];"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert HEAVY & set(result.stderr.splitlines()) == set()
