"""`search export`, `predict` and `evaluate` on a study that was really trained, with a tiny encoder."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fold_search.objectives.data.dataset import content_of, read_dataset, read_table
from fold_search.objectives.predicting.exported import ExportedModel, read_description
from fold_search.objectives.scoring.calibration import apply_temperature, fit_temperature
from fold_search.objectives.scoring.metrics import METRICS, Goal
from fold_search.objectives.training.checkpoints import unpack
from fold_search.objectives.training.fold import FoldTraining
from fold_search.search.exporting import predict as prediction
from fold_search.search.exporting.layout import read_template
from fold_search.search.study.stored import weights_name
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder

LABELS = ("animal", "prize", "weapon")
WORDS = {"animal": "fox dog horse", "prize": "cash ticket phone", "weapon": "worm exploit virus"}
NUM_ROWS = 45


def texts() -> Iterable[tuple[str, str]]:
    for row in range(NUM_ROWS):
        label = LABELS[row % 3 if row % 5 else 0]
        noun = WORDS[label].split()[row % 3] if row % 7 else "thing"
        yield f"the {noun} number {row}", label


class Trained(TrainedStudy):
    """Two complete trials, and one that runs."""

    def __init__(self, folder: Path, model: dict[str, Any] | None = None, *, text: str | list[str] = "text") -> None:
        self.data = folder / "data.csv"
        with self.data.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label", "id"), *((*row, f"r{n}") for n, row in enumerate(texts()))])
        encoder = build_tiny_encoder(folder / "encoder", [text for text, _ in texts()])
        sections = {
            "data": {"path": self.data, "label": "label", "text": text},
            "model": {"encoder": str(encoder), "max_length": 16, **(model or {})},
            "training": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2},
        }
        trials = [{"learning_rate": 1e-4}, {"learning_rate": 1e-2}]
        super().__init__(folder, name="nouns", sections=sections, trials=trials)
        self.ledger.add_trial(2, {"learning_rate": 1e-3})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def model(study: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fold ensemble of the best trial."""
    folder = tmp_path_factory.mktemp("models") / "nouns"
    result = study.export(folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable_layers": 0},
        {"trainable_layers": 0, "pooling": "attention"},
        {"trainable_layers": 1, "reinit_layers": 1},
        {"lora_rank": 2},
        {"trainable_layers": 0, "architecture": "columns", "shared_encoder": False},
        {"trainable_layers": None},
    ],
    ids=["heads", "attention", "top layer", "lora", "columns", "all"],
)
def test_what_the_folds_have_in_common_is_stored_once(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The same predictions to the last bit as of a folder with every fold's model whole, as were written before."""
    columns = ["text", "id"] if "architecture" in settings else "text"
    study = Trained(tmp_path, settings, text=columns)
    assert study.export(tmp_path / "once").exit_code == 0
    monkeypatch.setattr("fold_search.search.exporting.export.has_frozen_weights", lambda params: False)
    assert study.export(tmp_path / "whole").exit_code == 0
    for name in ("once", "whole"):
        out = tmp_path / f"{name}.csv"
        assert search("predict", "--model", tmp_path / name, study.data, "--out", out).exit_code == 0
    assert (tmp_path / "once.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    frozen = settings != {"trainable_layers": None}
    bases = [member.base for member in read_description(tmp_path / "once").members]
    assert bases == ([None, "fold-0", "fold-0"] if frozen else [None, None, None])
    for fold in (1, 2):
        names = [path.name for path in (tmp_path / "once" / f"fold-{fold}").iterdir()]
        assert (names == ["head.safetensors"]) == frozen
        stored = load_file(tmp_path / "once" / f"fold-{fold}" / "head.safetensors")
        first = weights_of(tmp_path / "whole" / "fold-0")
        own = weights_of(tmp_path / "whole" / f"fold-{fold}")
        if frozen:
            assert stored.keys() == {name for name in own if not torch.equal(own[name], first[name])}
            assert sum(map(torch.numel, stored.values())) < 0.7 * sum(map(torch.numel, own.values()))


def test_a_fold_run_stores_only_what_was_trained(tmp_path: Path):
    """Of an ensemble of heads no encoder is among the artifacts."""
    study = Trained(tmp_path, {"trainable_layers": 0})
    stored = [sorted(unpack(study.artifacts.get(weights_name(run.predictions)))[0]) for run in study.runs(1)]
    assert stored == [["head.linear.bias", "head.linear.weight"]] * study.config.folds.k


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a whole model, by their names in the classifier."""
    encoder = load_file(folder / "model.safetensors")
    return {f"encoder.{name}": tensor for name, tensor in encoder.items()} | load_file(folder / "head.safetensors")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_fold_predicts_its_held_out_rows_as_the_study_recorded(study: Trained, model: Path):
    """The out-of-fold predictions that the best trial stored, to 1e-5, from a folder that knows no study."""
    description = read_description(model)
    assert (description.trial, len(description.members)) == (1, 3)
    content = content_of(read_table(study.config.data), study.config.data)
    for run, member in zip(study.runs(1), description.members, strict=True):
        alone = ExportedModel(model, device="cpu")
        alone.description = description.model_copy(update={"members": (member,), "temperature": 1.0})
        held_out = study.rows.held_out([run])
        np.testing.assert_allclose(alone.predict(content)[held_out.rows], held_out.predictions, atol=1e-5)


def test_the_folder_says_what_it_is(study: Trained, model: Path):
    """Scores per fold, the temperature of the out-of-fold predictions, class counts; no password and no pickle."""
    description = read_description(model)
    runs, held_out = study.runs(1), study.rows.held_out(study.runs(1))
    assert description.fold_scores == tuple(run.score for run in runs)
    assert [member.epochs for member in description.members] == [run.best_epoch for run in runs]
    assert description.temperature == fit_temperature(held_out.predictions, held_out.truth.astype(np.int64))
    assert description.pooled["accuracy"] == METRICS["accuracy"](held_out.truth, held_out.predictions, study.rows.goal)
    assert all(sum(member.class_counts) == NUM_ROWS - len(rows) for member, rows in _parts(study, description))
    assert {path.suffix for path in model.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".yaml", ".md"}
    assert "storage" not in (model / "study.yaml").read_text()
    assert "macro_f1" in (model / "README.md").read_text()


def _parts(study: Trained, description: Any) -> Iterable[tuple[Any, Any]]:
    return [(member, study.rows.split(member.fold)[1]) for member in description.members]


def test_weights_that_were_not_kept_are_trained_again_to_the_same(study: Trained, model: Path, tmp_path: Path):
    """Up to the best epoch of each fold, as one is told; a damaged file counts as none."""
    first, second, third = study.runs(1)
    kept = {run.fold: study.artifacts.get(weights_name(run.predictions)) for run in (first, second)}
    study.artifacts.delete(weights_name(first.predictions))
    study.artifacts.put(weights_name(second.predictions), kept[1][:-10])
    result = study.export(tmp_path / "again")
    for run in (first, second):
        study.artifacts.put(weights_name(run.predictions), kept[run.fold])
    assert "trial 1 fold 0: its weights were not kept, so it is trained again" in result.output
    assert f"trial 1 fold 0: epoch {first.best_epoch} of {first.best_epoch}" in result.output
    assert "trial 1 fold 1: the checkpoint is damaged" in result.output
    assert f"fold {third.fold}" not in result.stdout
    for member in ("fold-0", "fold-1", "fold-2"):
        for name in ("model.safetensors", "head.safetensors"):
            assert (tmp_path / "again" / member / name).read_bytes() == (model / member / name).read_bytes()


def test_a_refit_is_trained_on_all_rows_for_the_median_of_the_best_epochs(
    study: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One model, that was validated on nothing."""
    jobs = []
    begin = FoldTraining.refit
    monkeypatch.setattr(FoldTraining, "refit", lambda training: jobs.append(training.job) or begin(training))
    assert study.export(tmp_path / "refit", "--form", "refit").exit_code == 0
    [member] = read_description(tmp_path / "refit").members
    [job] = jobs
    assert (
        member.epochs == job.params.training.epochs == int(np.median([run.best_epoch for run in study.runs(1)]) + 0.5)
    )
    assert (len(job.training_rows), len(job.validation_rows), sum(member.class_counts)) == (NUM_ROWS, 0, NUM_ROWS)
    assert search("evaluate", "--model", tmp_path / "refit", study.data).exit_code == 0


def test_the_best_fold_alone_and_another_trial_can_be_exported(study: Trained, tmp_path: Path):
    """The fold of the best score; the trial that is asked for."""
    assert study.export(tmp_path / "fold", "--form", "fold", "--trial", "0").exit_code == 0
    description = read_description(tmp_path / "fold")
    [member] = description.members
    assert (description.trial, member.score) == (0, max(run.score or 0.0 for run in study.runs(0)))


def test_predictions_of_a_file(study: Trained, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One line a row whatever the chunks, with the kept column, the soft vote's label and all probabilities."""
    monkeypatch.setattr(prediction, "ROWS_PER_CHUNK", 7)
    out = tmp_path / "predictions.csv"
    result = search("predict", "--model", model, study.data, "--out", out, "--keep", "id", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    lines = read(out)
    assert list(lines[0]) == ["row", "id", "label", "probability", *(f"p_{label}" for label in LABELS)]
    assert [line["row"] for line in lines] == [str(row) for row in range(1, NUM_ROWS + 1)]
    assert [line["id"] for line in lines] == [f"r{row}" for row in range(NUM_ROWS)]
    predicted = np.array([[float(line[f"p_{label}"]) for label in LABELS] for line in lines])
    whole = ExportedModel(model, device="cpu")
    expected = whole.predict(content_of(read_table(study.config.data), study.config.data))
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    assert [line["label"] for line in lines] == [LABELS[label] for label in expected.argmax(axis=1)]
    assert list(tmp_path.iterdir()) == [out]


def test_evaluation_is_that_of_the_metrics(study: Trained, model: Path):
    """On the labelled rows, with an interval around macro-F1 and the study's own estimate beside it."""
    found = json.loads(search("evaluate", "--model", model, study.data, "--json").stdout)
    dataset = read_dataset(study.config.data)
    expected = ExportedModel(model, device="cpu").predict(dataset)
    for name in ("macro_f1", "accuracy", "log_loss"):
        assert found["scores"][name] == pytest.approx(METRICS[name](dataset.labels, expected, study.rows.goal))
    assert found["rows"] == NUM_ROWS
    assert found["interval"]["low"] <= found["scores"]["macro_f1"] <= found["interval"]["high"]
    assert found["study"]["pooled"] == read_description(model).pooled


def test_the_interval_is_as_wide_as_that_of_rows_drawn_one_by_one():
    """Drawing the cells of the confusion matrix is drawing rows."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 300)
    predictions = apply_temperature(random.dirichlet(np.ones(4), 300) + 2 * np.eye(4)[truth], 1.0)
    drawn = prediction.draw_macro_f1(truth, predictions.astype(np.float32), np.random.default_rng(1))
    goal = Goal(metric="macro_f1", epoch_metric="macro_f1")
    by_rows = [
        METRICS["macro_f1"](truth[rows], predictions[rows], goal) for rows in random.integers(0, 300, (1000, 300))
    ]
    np.testing.assert_allclose(
        np.quantile(drawn, [0.025, 0.5, 0.975]), np.quantile(by_rows, [0.025, 0.5, 0.975]), atol=0.01
    )


def test_an_existing_folder_is_refused_unless_it_may_be_replaced(study: Trained, tmp_path: Path):
    """--force replaces an exported model, and never anything else."""
    out = tmp_path / "model"
    out.mkdir()
    assert study.export(out, "--form", "fold").exit_code == 0
    (out / "left.txt").write_text("from before")
    refused(study.export(out), "already contains an exported model; --force replaces it")
    assert study.export(out, "--force", "--form", "fold").exit_code == 0
    assert not (out / "left.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("four years")
    refused(study.export(tmp_path / "mine", "--force"), "contains files that are not an exported model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_a_failed_export_leaves_nothing(study: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even half a folder."""
    monkeypatch.setattr("fold_search.search.exporting.export.model_card", lambda description: 1 / 0)
    assert isinstance(study.export(tmp_path / "model").exception, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ("--trial", "2"),
            [
                "--trial: found 2, expected a trial of study 'nouns' of which something is trained",
                "complete trials: 0, 1",
            ],
        ),
        (("--trial", "9"), ["--trial: found 9"]),
        (("--set", "training.epochs=9"), ["--set", "training.epochs"]),
        (("--set", "data.path=none.csv"), ["none.csv", "no such file"]),
    ],
)
def test_what_cannot_be_exported_is_refused(study: Trained, tmp_path: Path, options: tuple, expected: list[str]):
    """With one line, and nothing written."""
    refused(study.export(tmp_path / "model", *options), *expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("txt,label\na,animal\n", (), ["there is no column 'text'; did you mean 'txt'? use --columns text=txt"]),
        ("\x0btext,label\na,animal\n", (), ["did you mean '\\x0btext'? use --columns text=NAME"]),
        ("title\na\n", (), ["data.csv: there is no column 'text'; there are 'title'; use --columns text=NAME"]),
        ("a\nb\n", ("--columns", "text=b"), ["data.csv: there is no column 'b'", "--columns text=NAME"]),
        ("a\nb\n", ("--columns", "txt=a"), ["--columns: found 'txt', expected a column of the study: text"]),
        ("a\nb\n", ("--columns", "text"), ["--columns: found 'text', expected STUDY=FILE"]),
        ("text\na\n", ("--keep", "id"), ["there is no column 'id'"]),
        ("text\na\n", ("--keep", "label"), ["--keep: found 'label', which is also a column of the predictions"]),
        ("text\na\n", ("--top-k", "4"), ["--top-k: found 4, expected at most 3"]),
        ("text\n", (), ["there are no data rows"]),
        ("text\na\nb,c\n", (), ["data row 2 has 2 cells"]),
    ],
)
def test_a_file_that_cannot_be_predicted_is_refused(
    model: Path, tmp_path: Path, content: str, options: tuple, expected: list[str]
):
    """With one line, and no file of predictions."""
    data, out = tmp_path / "data.csv", tmp_path / "out.csv"
    data.write_text(content)
    refused(search("predict", "--model", model, data, "--out", out, *options), *expected)
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_a_memory_limit_below_what_the_process_holds_is_refused(
    study: Trained, model: Path, tmp_path: Path, command: str
):
    """As of a worker; nothing is written."""
    named = ("--study", study.name, "--storage", study.url) if command == "export" else ("--model", model, study.data)
    out = () if command == "evaluate" else ("--out", tmp_path / "out.csv")
    found = "error: --memory-limit: found a limit of 50000000 bytes, expected more than the"
    refused(search(command, *named, *out, "--memory-limit", "50MB"), found)
    assert list(tmp_path.iterdir()) == []


def test_a_files_own_columns_stand_for_those_of_the_study(study: Trained, model: Path, tmp_path: Path):
    """Also where the file has other columns of these names."""
    plain, renamed = tmp_path / "plain.csv", tmp_path / "renamed.csv"
    data = tmp_path / "data.csv"
    lines = [(text, label, "nothing", "none") for text, label in texts()]
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("Text=it", "Class", "text", "label"), *lines])
    assert search("predict", "--model", model, study.data, "--out", plain).exit_code == 0
    result = search("predict", "--model", model, data, "--out", renamed, "--columns", "text=Text=it", "--keep", "Class")
    assert result.exit_code == 0, result.output
    assert [line["probability"] for line in read(renamed)] == [line["probability"] for line in read(plain)]
    assert [line["Class"] for line in read(renamed)] == [label for _, label in texts()]
    scores = [
        json.loads(search("evaluate", "--model", model, path, "--json", *options).stdout)["scores"]
        for path, options in ((study.data, ()), (data, ("--columns", "text=Text=it,label=Class")))
    ]
    assert scores[0] == scores[1]


def test_the_data_file_is_never_overwritten(study: Trained, model: Path):
    """Nor is anything but CSV written."""
    refused(search("predict", "--model", model, study.data, "--out", study.data), "which is the data file")
    refused(search("predict", "--model", model, study.data, "--out", "out.parquet"), "ends in .csv")


def test_labels_that_the_model_does_not_know_are_refused(model: Path, tmp_path: Path):
    """With the row in the file."""
    path = tmp_path / "test.csv"
    path.write_text("text,label\na,animal\nb,animals\n")
    refused(search("evaluate", "--model", model, path), "data row 2 is of class 'animals'", "did you mean 'animal'?")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, study: Trained):
    """With one line."""
    refused(search("predict", "--model", tmp_path, study.data, "--out", "out.csv"), "is not an exported model")


def test_a_template_names_columns_and_codes(study: Trained, model: Path, tmp_path: Path):
    """As a competition wants them."""
    template, out = tmp_path / "template.yaml", tmp_path / "submission.csv"
    template.write_text(
        "columns: {Id: id, Class: label, Sure: probability, W: 'p:weapon'}\n"
        "labels: {animal: 00, prize: no, weapon: 2}\n"
    )
    result = search("predict", "--model", model, study.data, "--out", out, "--template", template)
    assert result.exit_code == 0, result.output
    lines = read(out)
    assert list(lines[0]) == ["Id", "Class", "Sure", "W"]
    assert {line["Class"] for line in lines} <= {"00", "no", "2"}
    assert all(line["Sure"] == line["W"] for line in lines if line["Class"] == "2")


def test_a_templates_labels_and_codes_are_what_is_written(model: Path, tmp_path: Path):
    """Words that YAML takes for numbers or truth values are names there like others."""
    description = read_description(model).model_copy(update={"label_names": ("01", "no", "yes")})
    template = tmp_path / "template.yaml"
    template.write_text("columns: {off: label, 02: probability}\nlabels: {yes: on, no: 1.0, 01: 007}")
    layout = read_template(template, description)
    assert list(layout.columns) == ["off", "02"]
    assert layout.codes == {"yes": "on", "no": "1.0", "01": "007"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("columns: {a: 'p:weapons'}", ["columns.a: found 'weapons'", "did you mean 'weapon'?"]),
        ("columns: {a: prediction}", ["columns.a: found prediction, but the model predicts classes"]),
        ("columns: {a: label}\nlabels: {animal: 1, prize: 2}", ["labels: there is no code for 'weapon'"]),
        ("columns: {a: label}\nlabels: {fish: 1}", ["labels: found 'fish'"]),
        ("columns: {}", ["columns"]),
        ("column: {a: label}", ["column: unknown key; did you mean columns?"]),
        ("columns: [", ["not valid YAML"]),
        ("columns: {a: nothing}", ["there is no column 'nothing'"]),
    ],
)
def test_a_wrong_template_is_refused(study: Trained, model: Path, tmp_path: Path, template: str, expected: list[str]):
    """With the key, what was found and what there is."""
    path = tmp_path / "template.yaml"
    path.write_text(template)
    out = tmp_path / "out.csv"
    refused(search("predict", "--model", model, study.data, "--out", out, "--template", path), *expected)
    assert list(tmp_path.iterdir()) == [path]
