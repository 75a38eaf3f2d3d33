"""Studies of several text columns: what is refused, and both architectures in one study."""

from pathlib import Path

import pytest
import yaml

from fold_search.models.classifiers import TextClassifier
from fold_search.models.columns import ColumnClassifier
from fold_search.models.errors import EncoderError
from fold_search.search.errors import ConfigError
from fold_search.search.running.objective import Objective
from fold_search.search.study.beginning import begin
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.environment import Secrets
from fold_search.search.study.rows import StudyRows
from tests.claims import claim_first
from tests.tiny_encoder import TEXTS, build_tiny_encoder


@pytest.fixture
def load(tmp_path):
    """Write a study file of two text columns with these sections changed, and read it."""

    def load(**sections: dict) -> StudyConfig:
        study = {
            "data": {"path": "rows.csv", "label": "label", "text": ["title", "goal"]},
            "model": {"encoder": "encoder", "architecture": "columns", "max_length": 8},
            "folds": {"k": 2},
            "training": {"epochs": 1, "learning_rate": 1e-3},
            "storage": {"url": f"sqlite:///{tmp_path}/study.db", "cache": str(tmp_path / "cache")},
        }
        merged = {name: {**study.get(name, {}), **sections.get(name, {})} for name in {*study, *sections}}
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(merged))
        return load_config(file)

    return load


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"data": {"text": ["title"]}}, 'data.text: found ["title"], expected two columns or more'),
        (
            {"data": {"text": ["goal"]}, "model": {"architecture": "joined"}, "space": {"architecture": ["columns"]}},
            'data.text: found ["goal"], expected two columns or more',
        ),
        ({"model": {"column_max_length": {"titel": 9}}}, 'model.column_max_length: found "titel"'),
        ({"model": {"column_dropout": {"titel": 0.2}}}, "a column of data.text; did you mean title?"),
        ({"model": {"column_max_length": {"title": 2}}}, "model.column_max_length.title: found 2, expected at least 4"),
        ({"model": {"column_dropout": {"goal": 1.0}}}, "model.column_dropout.goal: found 1.0, expected less than 1"),
    ],
)
def test_columns_that_cannot_be_are_refused(load, sections, expected):
    """With the file, the key, what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load(**sections)
    assert "study.yaml: " in str(caught.value)
    assert expected in str(caught.value)


def _write_rows(path: Path) -> None:
    path.write_text("title,goal,label\n" + "".join(f'"{TEXTS[row % 2]}",number {row},{row % 2}\n' for row in range(12)))


@pytest.mark.slow
def test_a_columns_length_beyond_the_encoders_is_refused_before_the_study_begins(load, tmp_path):
    """As max_length is."""
    _write_rows(tmp_path / "rows.csv")
    encoder = str(build_tiny_encoder(tmp_path / "encoder"))
    config = load(model={"encoder": encoder, "column_max_length": {"goal": 65}})
    with pytest.raises(EncoderError, match="max_length is 65, the encoder takes 64"):
        begin(config, "long", secrets=Secrets.read())
    assert not (tmp_path / "study.db").exists()


@pytest.mark.slow
def test_the_architecture_can_be_searched(load, tmp_path):
    """In one study a trial reads the columns joined, and another each by itself, on the same folds."""
    _write_rows(tmp_path / "rows.csv")
    encoder = str(build_tiny_encoder(tmp_path / "encoder"))
    config = load(model={"encoder": encoder}, space={"architecture": ["joined", "columns"]})
    study = begin(config, "both", secrets=Secrets.read())
    objective = Objective(StudyRows(ledger=study.ledger, config=config), device="cpu")
    for number, architecture in enumerate(("joined", "columns")):
        study.ledger.add_trial(number, {"architecture": architecture})
    for expected in (TextClassifier, ColumnClassifier):
        for _ in range(2):
            claim = claim_first(study.ledger, "worker", lease_seconds=60)
            training = objective(claim)
            assert isinstance(training.network.module, expected)
            assert len(list(training.epochs())) == 1
