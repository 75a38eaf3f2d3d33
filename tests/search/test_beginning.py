"""Beginning and continuing a study: what is recorded, and what is refused when it has changed."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AlbertConfig, AlbertModel

from models.errors import EncoderError
from search.beginning import _check_encoder, _other_process, _uses, begin
from search.config import StudyConfig, load_config
from search.environment import Secrets
from search.errors import ConfigError
from search.study import OpenStudy, find, on_this_machine, reopen_if_budget_grew
from storage.records import StudyState
from tests.tiny_encoder import build_tiny_encoder

ROWS = [f"text number {number},{'abb'[number % 3]}" for number in range(30)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study file on thirty rows, one of a class of its own, and its study `tiny`, just begun."""
    folder = tmp_path_factory.mktemp("begun")
    write_data(folder, [*ROWS, "the only one,rare"])
    study = {
        "data": {"path": "data.csv", "label": "label", "text": "text"},
        "model": {"encoder": str(build_tiny_encoder(folder / "encoder")), "max_length": 16},
        "folds": {"k": 3},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    begin(load(folder), "tiny", secrets=Secrets())
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    return shutil.copytree(begun, tmp_path / "copy")


def load(folder: Path, *overrides: str) -> StudyConfig:
    return load_config(folder / "study.yaml", [f"storage.url=sqlite:///{folder / 'study.db'}", *overrides])


def again(folder: Path, *overrides: str) -> OpenStudy:
    return begin(load(folder, *overrides), "tiny", secrets=Secrets())


def write_data(folder: Path, rows: list[str]) -> None:
    (folder / "data.csv").write_text("\n".join(["text,label", *rows, ""]))


def test_a_study_records_where_it_comes_from(folder: Path):
    """Fingerprints of data, folds and study file; versions; and a note that names the class with too few rows."""
    study = again(folder)
    assert set(study.record.fingerprints) == {"data", "folds", "config"}
    assert {"torch", "optuna"} <= set(study.record.provenance["packages"])
    assert "rare" in study.notes[0]
    assert len(study.ledger.assignments()) == 31
    assert study.record.config["folds"]["k"] == 3


def test_a_study_is_not_continued_on_changed_data(folder: Path):
    """The line says what changed and what to do."""
    write_data(folder, [*ROWS, "the only one,b"])
    with pytest.raises(ConfigError, match="the data file's rows changed since it began"):
        again(folder)


def test_a_study_is_not_continued_with_another_study_file(folder: Path):
    """Every difference is named; a new budget is none."""
    with pytest.raises(ConfigError, match=r"training\.epochs: 4 -> 9; undo") as refused:
        again(folder, "training.epochs=9", "budget.trials=7")
    assert "budget" not in str(refused.value)
    assert again(folder, "budget.trials=7").record.config["budget"]["trials"] == 7


def test_a_finished_study_is_opened_again_only_for_more_trials(folder: Path):
    """The same budget leaves it finished."""
    study = again(folder, "budget.trials=1")
    study.ledger.add_trial(0, {})
    study.ledger.finish_study("done")
    finished = again(folder, "budget.trials=1")
    assert not reopen_if_budget_grew(finished, load(folder, "budget.trials=1"))
    assert reopen_if_budget_grew(finished, load(folder, "budget.trials=2"))
    assert study.ledger.study().state is StudyState.RUNNING


def test_a_worker_may_change_paths_and_nothing_that_is_trained(folder: Path):
    """Its machine may have the data elsewhere."""
    record = again(folder).record
    assert str(on_this_machine(record, ["data.path=/elsewhere.csv"]).data.path) == "/elsewhere.csv"
    with pytest.raises(ConfigError, match=r"training\.epochs: 4 -> 9"):
        on_this_machine(record, ["training.epochs=9"])


def test_an_unknown_study_names_the_nearest(folder: Path):
    """A slip of the pen is recognised."""
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        find("tine", url=f"sqlite:///{folder / 'study.db'}")


def test_a_process_that_is_killed_while_it_looks_at_encoders_is_one_line():
    """As Linux does where memory runs out."""
    said = r"model\.encoder: the process that looks at it was killed"
    with pytest.raises(ConfigError, match=said), _other_process() as child:
        child.submit(os._exit, 137).result()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.trainable_layers=1"],
            "trainable_layers is 1, but a albert has no list of layers with weights of their",
        ),
        (["space={reinit_layers: {low: 0, high: 2}}"], "reinit_layers is 2, but a albert has no list of layers"),
        (["model.gradient_checkpointing=true"], "gradient_checkpointing is true, but a albert cannot"),
        (["space={gradient_checkpointing: [false, true]}"], "gradient_checkpointing is true, but a albert cannot"),
        (["space={max_length: [16, 65]}"], "max_length is 65, the encoder takes 64"),
    ],
)
def test_what_a_family_cannot_do_is_refused_before_the_study_begins(folder, overrides, message):
    """Whether it is fixed or only one of the values that are searched."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = AlbertConfig(vocab_size=200, embedding_size=16, max_position_embeddings=64, **sizes)
    AlbertModel(config).save_pretrained(folder / "encoder")
    study = load(folder, *overrides)
    with pytest.raises(EncoderError, match=re.escape(message)) as caught:
        _check_encoder(str(folder / "encoder"), _uses(study), frozenset())
    assert "\n" not in str(caught.value)


def test_what_a_family_can_do_is_not_refused(folder):
    """Low-rank updates, dropout and pooling by the first token go together with layers that share their weights."""
    config = AlbertConfig(vocab_size=200, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    AlbertModel(config).save_pretrained(folder / "encoder")
    space = "space={pooling: [mean, cls], lora_targets: [attention, all]}"
    asked = ["model.lora_rank=2", "model.encoder_dropout=0.2", space]
    _check_encoder(str(folder / "encoder"), _uses(load(folder, *asked)), frozenset())
