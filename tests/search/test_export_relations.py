"""Relation models as folders: each form and state predicts what was trained, and bad rows of a file are refused."""

import csv
import json
from itertools import product
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from fold_search.objectives.data.dataset import content_of, read_table
from fold_search.objectives.errors import DataError
from fold_search.objectives.predicting.exported import ExportedModel, read_description
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder

FORMS = ("separated", "markers", "typed_markers", "typed_punctuation")
STATES = ("pooled", "entities")
TRIALS = [{"entity_form": form, "entity_states": state} for form, state in product(FORMS, STATES)]
ADAPTED = [{"trainable_layers": 0}, {"trainable_layers": 1}, {"lora_rank": 2}]
COLUMNS = ("sentence", *(f"{role}{part}" for role in ("subject", "object") for part in ("", "_start", "_end", "_type")))
NAMES = ("fox", "dog", "cat", "cow")


def row(number: int) -> list[str]:
    """`the fox bites the dog`, the verb decides the label; the subject alone is WILD now and then, one row is long."""
    verb, subject, obj = ("bites", "greets")[number % 2], NAMES[number % 4], NAMES[number // 4 % 4]
    head = "slow " * (30 if number == 39 else number % 5) + "the "
    second = len(f"{head}{subject} {verb} the ")
    spans = [subject, len(head), len(head) + 2, "PET" if number % 3 else "WILD", obj, second, second + 2, "PET"]
    return [str(cell) for cell in (f"{head}{subject} {verb} the {obj} number {number}", *spans, verb)]


ROWS = [row(number) for number in range(40)]


def write(path: Path, rows: list[list[str]] = ROWS, *, without: str = "", **changes: str) -> Path:
    """Write the rows, the third one changed, and no column `without`."""
    table = [dict(zip((*COLUMNS, "label"), cells, strict=True)) for cells in rows]
    table[2] |= changes
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in table[0] if name != without], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TrainedStudy:
    """A complete trial of every form with both states, and of every adaptation."""
    folder = tmp_path_factory.mktemp("study")
    data = write(folder / "relations.csv")
    texts = [*(cells[0] for cells in ROWS), "subject object end WILD PET @ # * ^ [SEP]"]
    sections = {
        "data": {"path": data, "label": "label", "relation": {}},
        "model": {"encoder": str(build_tiny_encoder(folder / "encoder", texts)), "max_length": 40},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
    }
    return TrainedStudy(folder, name="verbs", sections=sections, trials=TRIALS + ADAPTED)


@pytest.fixture(scope="module")
def model(study: TrainedStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fold ensemble of typed markers with entity states."""
    folder = tmp_path_factory.mktemp("models") / "verbs"
    trial = TRIALS.index({"entity_form": "typed_markers", "entity_states": "entities"})
    result = study.export(folder, "--trial", str(trial))
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("trial", range(len(TRIALS + ADAPTED)), ids=[str(list(t.values())) for t in TRIALS + ADAPTED])
def test_each_fold_predicts_its_held_out_rows_as_the_study_recorded(study: TrainedStudy, tmp_path: Path, trial: int):
    """Whatever the form, the states and what was trained, to 1e-5, from a folder that knows no study."""
    result = study.export(tmp_path / "model", "--trial", str(trial))
    assert result.exit_code == 0, result.output
    description = read_description(tmp_path / "model")
    content = content_of(read_table(study.config.data), study.config.data)
    for run, member in zip(study.runs(trial), description.members, strict=True):
        alone = ExportedModel(tmp_path / "model", device="cpu")
        alone.description = description.model_copy(update={"members": (member,), "temperature": 1.0})
        held_out = study.rows.held_out([run])
        np.testing.assert_allclose(alone.predict(content)[held_out.rows], held_out.predictions, atol=1e-5)


def test_rows_are_predicted_the_same_whatever_they_are_predicted_with(
    study: TrainedStudy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Chunks of three rows, some without one of the types, give what a single one gives."""
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    assert search("predict", "--model", model, study.config.data.path, "--out", whole).exit_code == 0
    monkeypatch.setattr("fold_search.search.exporting.predict.ROWS_PER_CHUNK", 3)
    assert search("predict", "--model", model, study.config.data.path, "--out", parts).exit_code == 0
    numbers = [pd.read_csv(path)[["p_bites", "p_greets"]] for path in (whole, parts)]
    np.testing.assert_allclose(*numbers, atol=1e-5)


def test_an_mlflow_model_predicts_what_search_predict_does(study: TrainedStudy, tmp_path: Path):
    """The table's spans are whole numbers; a sentence with a marker in it is refused with its row."""
    folder, out = tmp_path / "model", tmp_path / "predictions.csv"
    trial = TRIALS.index({"entity_form": "typed_markers", "entity_states": "pooled"})
    assert study.export(folder, "--trial", str(trial), "--mlflow").exit_code == 0
    assert search("predict", "--model", folder, study.config.data.path, "--out", out).exit_code == 0
    model, table = mlflow.pyfunc.load_model(str(folder)), pd.read_csv(study.config.data.path)
    found, written = model.predict(table), pd.read_csv(out)
    assert list(found["label"]) == list(written["label"])
    np.testing.assert_allclose(found[["p_bites", "p_greets"]], written[["p_bites", "p_greets"]], atol=1e-6)
    table.loc[3, "sentence"] += " [O:PET]"
    with pytest.raises(DataError, match=r"data row 4: the sentence has '\[O:PET\]' in it.* sentence without it$"):
        model.predict(table)


def test_a_type_may_have_a_role_that_it_never_had(model: Path, tmp_path: Path):
    """An object that is WILD, as only subjects were, is predicted; its marker is a token of the model."""
    data = write(tmp_path / "new.csv", object_type="WILD")
    result = search("evaluate", "--model", model, data, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == 40
    assert "[O:WILD]" in (model / "fold-0" / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subject_end": "999"}, ["data row 3", "the subject's span", "out of range"]),
        ({"subject": "horse"}, ["data row 3", "the subject's span", "expected 'horse' as in column 'subject'"]),
        ({"object_start": "x"}, ["data row 3", "'object_start' holds 'x', expected a whole number"]),
        ({"object_type": ""}, ["data row 3", "column 'object_type' is empty"]),
        ({"object_type": "pet"}, ["data row 3", "the object is of type 'pet'", "expected one of 'PET', 'WILD'"]),
        ({"sentence": f"{ROWS[2][0]} [O:WILD]"}, ["data row 3", "the sentence has '[O:WILD]' in it"]),
        ({"without": "object_type"}, ["there is no column 'object_type'; did you mean 'subject_type'?"]),
        ({"without": "sentence"}, ["there is no column 'sentence'"]),
        ({"without": "subject_start"}, ["there is no column 'subject_start'"]),
    ],
    ids=["range", "text", "number", "no type", "type", "marker", "type column", "sentence column", "span column"],
)
def test_a_bad_file_is_refused(model: Path, tmp_path: Path, changes: dict[str, str], expected: list[str]):
    """One line that names the file and the row; nothing is written."""
    data = write(tmp_path / "bad.csv", **changes)
    out = tmp_path / "predictions.csv"
    refused(search("predict", "--model", model, data, "--out", out), str(data), *expected)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]
