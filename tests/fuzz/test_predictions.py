"""`search predict` and `search evaluate` on files with damaged bytes, and templates: an answer, or one line."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fold_search.objectives.errors import DataError
from fold_search.objectives.predicting.exported import ExportedModel
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.layout import read_template, usual_layout
from fold_search.search.exporting.predict import evaluate, load_model, predict
from fold_search.search.reporting.steps import Steps
from tests.fuzz.refusals import check_refusal
from tests.fuzz.strategies import changed, damaged
from tests.fuzz.test_data_files import CSV, JSONL, ROWS
from tests.search.trained import TrainedStudy
from tests.tiny_encoder import build_tiny_encoder

FUZZ = settings.get_profile("fuzz")
TEMPLATE = {"columns": {"Id": "row", "Text": "text", "Class": "label", "Sure": "p:a"}, "labels": {"a": "1", "b": "2"}}
NO_STEPS = Steps(Console(quiet=True))


def trained(folder: Path) -> ExportedModel:
    """A model of one fold and one epoch."""
    (folder / "d.csv").write_bytes(CSV)
    encoder = build_tiny_encoder(folder / "encoder", [str(row["text"]) for row in ROWS])
    sections = {
        "data": {"path": folder / "d.csv", "label": "label", "text": "text"},
        "model": {"encoder": str(encoder), "max_length": 16},
        "training": {"epochs": 1, "batch_size": 8},
    }
    study = TrainedStudy(folder, name="fuzz", sections=sections, trials=[{}])
    assert study.export(folder / "model", "--form", "fold").exit_code == 0
    return load_model(folder / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def model(folder: Path) -> ExportedModel:
    return trained(folder)


def check_predicted(model: ExportedModel, path: Path, content: bytes) -> int:
    """Predict a file and evaluate it; return how many rows are predicted, 0 if it is refused, and nothing written."""
    path.write_bytes(content)
    out = path.with_name("out.csv")
    out.unlink(missing_ok=True)
    layout = usual_layout(model.description, keep=["more"])
    try:
        num_rows = predict(model, path, out, layout=layout, steps=NO_STEPS)
    except DataError as error:
        check_refusal(error, path)
        assert not out.exists()
        return 0
    with out.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "more", "label", "probability", "p_a", "p_b"]
    assert [int(row[0]) for row in rows] == list(range(1, num_rows + 1))
    assert {row[2] for row in rows} <= {"a", "b"}
    try:
        assert evaluate(model, path, steps=NO_STEPS).rows == num_rows
    except DataError as error:  # a label that the model does not know
        check_refusal(error, path)
    return num_rows


@pytest.mark.parametrize(("name", "valid"), [("p.csv", CSV), ("p.jsonl", JSONL)])
@FUZZ
@given(data=st.data())
def test_files_to_predict(model: ExportedModel, folder: Path, name: str, valid: bytes, data: st.DataObject):
    """The texts may be anything that a tokenizer has never seen."""
    check_predicted(model, folder / name, data.draw(damaged(valid)))


@pytest.mark.parametrize(("name", "valid"), [("p.csv", CSV), ("p.jsonl", JSONL)])
def test_undamaged_files_are_predicted(model: ExportedModel, folder: Path, name: str, valid: bytes):
    """Every row."""
    assert check_predicted(model, folder / name, valid) == len(ROWS)


@FUZZ
@given(rows=changed(ROWS))
def test_rows_to_predict(model: ExportedModel, folder: Path, rows: list):
    """Any value in any place."""
    check_predicted(model, folder / "p.jsonl", "\n".join(map(json.dumps, rows)).encode())


@FUZZ
@given(content=changed(TEMPLATE).map(json.dumps).map(str.encode) | damaged(json.dumps(TEMPLATE).encode()))
def test_templates(model: ExportedModel, folder: Path, content: bytes):
    """JSON is YAML as well."""
    check_laid_out(model, folder, content)


def test_the_undamaged_template_is_followed(model: ExportedModel, folder: Path):
    """With its columns and its codes for the labels."""
    header, *rows = check_laid_out(model, folder, json.dumps(TEMPLATE).encode())
    assert header == ["Id", "Text", "Class", "Sure"]
    assert {row[2] for row in rows} <= {"1", "2"}


def check_laid_out(model: ExportedModel, folder: Path, content: bytes) -> list[list[str]]:
    """The header and the rows that are predicted with a template; nothing if it is refused."""
    (folder / "template.yaml").write_bytes(content)
    (folder / "d.csv").write_bytes(CSV)
    try:
        layout = read_template(folder / "template.yaml", model.description)
        num_rows = predict(model, folder / "d.csv", folder / "out.csv", layout=layout, steps=NO_STEPS)
    except (ConfigError, DataError) as error:  # DataError: a column that the data file does not have
        check_refusal(error, folder / ("template.yaml" if isinstance(error, ConfigError) else "d.csv"))
        return []
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(layout.columns)
    assert len(rows) == num_rows == len(ROWS)
    return [header, *rows]
