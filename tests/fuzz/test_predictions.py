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
from tests.fuzz.strategies import changed, damaged
from tests.fuzz.test_data_files import CSV, JSONL, ROWS, check
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


def predict_file(model: ExportedModel, path: Path, content: bytes) -> None:
    """What is predicted can be evaluated, unless a label is none that the model knows."""
    path.write_bytes(content)
    out = path.with_name("out.csv")
    out.unlink(missing_ok=True)
    layout = usual_layout(model.description, keep=["more"])
    try:
        num_rows = predict(model, path, out, layout=layout, steps=NO_STEPS)
        assert out.read_bytes().count(b"\n") > num_rows > 0
        assert evaluate(model, path, steps=NO_STEPS).rows == num_rows
    except (ConfigError, DataError) as error:
        check(error)


@pytest.mark.parametrize(("name", "valid"), [("p.csv", CSV), ("p.jsonl", JSONL)])
@FUZZ
@given(data=st.data())
def test_files_to_predict(model: ExportedModel, folder: Path, name: str, valid: bytes, data: st.DataObject):
    """The texts may be anything that a tokenizer has never seen."""
    predict_file(model, folder / name, data.draw(damaged(valid)))


@FUZZ
@given(rows=changed(ROWS))
def test_rows_to_predict(model: ExportedModel, folder: Path, rows: list):
    """Any value in any place."""
    predict_file(model, folder / "p.jsonl", "\n".join(map(json.dumps, rows)).encode())


@FUZZ
@given(content=changed(TEMPLATE).map(json.dumps).map(str.encode) | damaged(json.dumps(TEMPLATE).encode()))
def test_templates(model: ExportedModel, folder: Path, content: bytes):
    """JSON is YAML as well."""
    (folder / "template.yaml").write_bytes(content)
    (folder / "d.csv").write_bytes(CSV)
    try:
        layout = read_template(folder / "template.yaml", model.description)
        num_rows = predict(model, folder / "d.csv", folder / "out.csv", layout=layout, steps=NO_STEPS)
        with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == list(layout.columns)
        assert len(rows) == num_rows == len(ROWS)
    except (ConfigError, DataError) as error:
        check(error)
