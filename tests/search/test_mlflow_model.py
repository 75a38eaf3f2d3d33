"""An exported folder as an MLflow model: loaded from the folder and from the registry of a real MLflow database."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.search.exporting.mlflow_model import example, requirements
from fold_search.storage.publishing import publish_pending
from fold_search.storage.trackers.mlflow import MlflowTracker
from tests.search.test_export import LABELS, Trained, read
from tests.search.trained import refused, search

PROBABILITIES = [f"p_{label}" for label in LABELS]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def uri(study: Trained) -> str:
    return f"sqlite:///{study.data.parent / 'mlflow.db'}"


@pytest.fixture(scope="module")
def model(study: Trained, uri: str) -> Path:
    """The fold ensemble, registered in the MLflow that the study was published to."""
    while publish_pending(study.ledger, MlflowTracker(uri)):
        pass
    folder = study.data.parent / "model"
    result = study.export(folder, "--register", "nouns", "--set", f"trackers.mlflow.uri={uri}")
    assert result.exit_code == 0, result.output
    assert "registered nouns, version 1" in result.output
    return folder


@pytest.fixture(scope="module")
def predicted(study: Trained, model: Path) -> list[dict[str, str]]:
    """What `search predict` writes for the study's rows."""
    out = study.data.parent / "predictions.csv"
    assert search("predict", "--model", model, study.data, "--out", out).exit_code == 0
    return read(out)


def test_it_predicts_what_search_predict_does(study: Trained, model: Path, predicted: list[dict[str, str]]):
    """Labels and probabilities to 1e-6 with the table's own index, from the folder that `search predict` reads."""
    table = pd.read_csv(study.data).set_index("id")
    found = mlflow.pyfunc.load_model(str(model)).predict(table)
    assert list(found.columns) == ["label", "probability", *PROBABILITIES]
    assert list(found.index) == list(table.index)
    assert list(found["label"]) == [line["label"] for line in predicted]
    expected = np.array([[float(line[name]) for name in PROBABILITIES] for line in predicted])
    np.testing.assert_allclose(found[PROBABILITIES], expected, atol=1e-6)
    np.testing.assert_allclose(found["probability"], expected.max(axis=1), atol=1e-6)


def test_the_registered_model_predicts_the_same(study: Trained, uri: str, model: Path, predicted: list[dict[str, str]]):
    """Downloaded from the store that `search ui` shows, where it belongs to its trial's run."""
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    try:
        found = mlflow.pyfunc.load_model("models:/nouns/1").predict(pd.read_csv(study.data))
    finally:
        mlflow.set_tracking_uri(None)
    expected = [float(line["p_prize"]) for line in predicted]
    np.testing.assert_allclose(found["p_prize"], expected, atol=1e-6)
    version = client.get_model_version("nouns", "1")
    run = client.get_run(version.run_id)
    assert run.data.tags["search.trial"] == "1"
    [output] = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).artifact_location == version.source
    assert version.description.startswith("ensemble of trial 1: macro_f1 0.")


def test_the_folder_has_no_pickle_no_code_and_nobodys_rows(study: Trained, model: Path):
    """What MLflow adds says which columns there are and which packages; the example is made up."""
    names = {path.name for path in model.iterdir()}
    assert {"MLmodel", "requirements.txt", "input_example.json", "model.json"} <= names
    suffixes = {path.suffix for path in model.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".safetensors", ".yaml", ".md", ".txt"}
    assert "the text" in (model / "input_example.json").read_text()
    described = yaml.safe_load((model / "MLmodel").read_text())
    assert described["model_size_bytes"] > (model / "fold-0" / "model.safetensors").stat().st_size
    assert str(study.data.parent) not in (model / "MLmodel").read_text()
    assert "+" not in (model / "requirements.txt").read_text()


def test_missing_cells_are_empty_and_missing_columns_refused(model: Path):
    """As in a file; no rows are no predictions."""
    loaded = mlflow.pyfunc.load_model(str(model))
    found = loaded.predict(pd.DataFrame({"text": ["", None]}))
    assert found.iloc[0].tolist() == found.iloc[1].tolist()
    assert len(loaded.predict(pd.DataFrame({"text": []}, dtype=str))) == 0
    with pytest.raises(MlflowException, match="text"):
        loaded.predict(pd.DataFrame({"txt": ["a"]}))


def test_a_single_models_encoder_is_a_transformers_flavour(study: Trained, tmp_path: Path):
    """It loads as a pipeline, without a second copy of the weights, and pyfunc stays the classifier."""
    folder = tmp_path / "fold"
    assert study.export(folder, "--form", "fold", "--mlflow").exit_code == 0
    states = mlflow.transformers.load_model(str(folder))("the fox number 3")
    assert np.array(states).shape == (1, 6, 32)
    assert len(list(folder.rglob("model.safetensors"))) == 1
    assert list(mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"text": ["the fox"]}))["label"]) == [
        "animal"
    ]


def test_a_registry_that_cannot_be_had_leaves_the_exported_folder(study: Trained, tmp_path: Path):
    """One line says so."""
    folder = tmp_path / "fold"
    uri = "http://127.0.0.1:9"
    result = study.export(folder, "--form", "fold", "--register", "nouns", "--set", f"trackers.mlflow.uri={uri}")
    refused(result, "--register: ", "is exported, but not registered: http://127.0.0.1:9")
    assert (folder / "MLmodel").is_file()


def test_requirements_name_the_extras(model: Path):
    """Where the model needs them."""
    from fold_search.objectives.predicting.exported import read_description

    description = read_description(model)
    cut = description.params.model.model_copy(update={"morphemes": "kiwi"})
    params = description.params.model_copy(update={"model": cut})
    assert requirements(description.model_copy(update={"params": params}))[0].startswith("fold-search[korean]==")
    assert requirements(description)[0].startswith("fold-search==")


@pytest.mark.parametrize("inclusive", [True, False])
def test_the_example_of_a_relation_has_spans_that_fit(inclusive: bool):
    """It is a row that the model would read."""
    [row] = example(DataSpec(path=Path("x"), label="y", relation=RelationSpec(end_inclusive=inclusive))).to_dict(
        "records"
    )
    for entity in ("subject", "object"):
        span = row["sentence"][row[f"{entity}_start"] : row[f"{entity}_end"] + inclusive]
        assert span == row[entity]
