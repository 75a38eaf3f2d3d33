"""`search export-curves` on a study that was really trained, and the loader of what it writes."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fold_search.objectives.data.dataset import content_of, read_table
from fold_search.objectives.predicting.exported import ExportedModel
from fold_search.objectives.scoring.metrics import METRICS
from fold_search.objectives.tasks import cache as tasks_cache
from fold_search.search.cli import app
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.curves import Curves, load_curves, write_curves
from fold_search.search.running.caches import unused
from fold_search.search.study.stored import weights_name
from tests.search.test_export import LABELS, Trained


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def test_file(study: Trained) -> Path:
    rows = [
        ("text", "label"),
        *((f"a {noun} of row {row}", LABELS[row % 3]) for row, noun in enumerate(["fox", "cash", "worm"] * 4)),
    ]
    path = study.data.parent / "unseen.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def export(study: Trained, out: Path, *options: object) -> Result:
    given = ["--study", "nouns", "--storage", study.url, "--out", out, *options]
    return CliRunner().invoke(app, ["export-curves", *map(str, given)])


@pytest.fixture(scope="module")
def curves(study: Trained, test_file: Path) -> Curves:
    result = export(study, study.data.parent / "curves.npz", "--test", test_file)
    assert result.exit_code == 0, result.output
    assert "1 of 3 trials are left out" in result.output
    return load_curves(study.data.parent / "curves.npz")


def test_the_file_holds_what_the_ledger_says(study: Trained, curves: Curves):
    """Every epoch's standing, and each trial's own score, come back from the file."""
    assert curves.numbers.tolist() == [0, 1]
    for trial, fold, epoch, standing in study.ledger.standings():
        assert curves.standing[trial, fold, epoch - 1] == pytest.approx(standing)
    scores = [trial.score for trial in study.ledger.trials() if trial.number in (0, 1)]
    assert curves.final.tolist() == pytest.approx(scores)
    assert [params["learning_rate"] for params in curves.params] == [1e-4, 1e-2]
    assert (curves.lengths == 4).all()
    assert (curves.seconds > 0).all()
    assert curves.about["metric"] == "macro_f1"


def test_test_scores_are_those_of_the_exported_folds(study: Trained, curves: Curves, test_file: Path):
    """Each fold's weights and their ensemble score on the test file what the exported model scores."""
    assert study.export(study.data.parent / "model").exit_code == 0
    model = ExportedModel(study.data.parent / "model", device="cpu")
    spec = study.config.data.model_copy(update={"path": test_file})
    table = read_table(spec)
    truth = np.array([LABELS.index(label) for label in table["label"]])
    goal = study.rows.goal
    expected = METRICS["macro_f1"](truth, model.predict(content_of(table, spec)), goal)
    assert curves.test_ensemble[model.description.trial] == pytest.approx(expected)
    assert np.isfinite(curves.test_folds).all()
    assert len(set(curves.test_folds.flatten().tolist())) > 1


def test_a_test_file_with_texts_of_the_study_is_told(study: Trained, test_file: Path, tmp_path: Path):
    """However they are written; nothing is said of one without any."""
    [text, *_] = study.rows.dataset.texts
    seen = tmp_path / "seen.csv"
    seen.write_text(f"{test_file.read_text()}{text.upper()}\u200b,{LABELS[0]}\n", encoding="utf-8")
    told = "1 of 13 rows of {} have the same text as a row of the study, so the test scores are too good"
    assert told.format(seen) in export(study, tmp_path / "seen.npz", "--test", seen).output.replace("\n", "")
    assert "have the same text" not in export(study, tmp_path / "unseen.npz", "--test", test_file).output


@pytest.mark.parametrize("command", ["export-curves", "export"])
def test_whoever_fills_the_cache_holds_it(
    study: Trained, test_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    """Otherwise `search clean` could take away what a long command computes and reads."""
    filled: list[Path] = []

    def publish_held(folder: Path, fill: Callable[[Path], None]) -> None:
        publish(folder, fill)
        with unused(folder.parent) as free:
            assert not free, folder
        filled.append(folder.parent)

    publish = tasks_cache.publish
    monkeypatch.setattr(tasks_cache, "publish", publish_held)
    options = {"export-curves": ("--out", tmp_path / "c.npz", "--test", test_file), "export": ("--out", tmp_path / "m")}
    given = ["--study", "nouns", "--storage", study.url, "--set", f"storage.cache={tmp_path}/cache", *options[command]]
    result = CliRunner().invoke(app, [command, *map(str, given)])
    assert result.exit_code == 0, result.output
    assert set(filled) == {tmp_path / "cache"}


def test_a_trial_without_weights_has_no_test_score(study: Trained, test_file: Path, tmp_path: Path):
    """Weights that are not there are counted on one line."""
    name = weights_name(study.runs(0)[1].predictions)
    kept = study.artifacts.get(name)
    study.artifacts.delete(name)
    result = export(study, tmp_path / "some.npz", "--test", test_file)
    study.artifacts.put(name, kept)
    assert "1 of 2 trials have no test score, such as trial 0: " in result.output
    assert "there is no such artifact" in result.output
    some = load_curves(tmp_path / "some.npz")
    assert np.isnan(some.test_ensemble).tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lengths": np.full((2, 2), 4, np.int16)}, "lengths has shape (2, 2), expected (2, 3)"),
        ({"lengths": np.full((2, 3), 3, np.int16)}, "must be finite exactly for the epochs"),
        ({"params": ({},)}, "params are of 1 trials, expected 2"),
        ({"about": {}}, "direction is None"),
    ],
)
def test_a_file_that_does_not_fit_itself_is_refused(
    curves: Curves, tmp_path: Path, change: dict[str, Any], expected: str
):
    """One line names the file and what does not fit."""
    write_curves(replace(curves, **change), tmp_path / "odd.npz")
    with pytest.raises(ConfigError) as raised:
        load_curves(tmp_path / "odd.npz")
    assert "odd.npz: is damaged" in str(raised.value)
    assert expected in str(raised.value)


def test_other_files_are_refused(curves: Curves, study: Trained, tmp_path: Path):
    """Text, another archive, a pickle, another version and no file at all: one line each."""
    whole = (study.data.parent / "curves.npz").read_bytes()
    with np.load(study.data.parent / "curves.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "version.npz", **arrays | {"format": np.array(99)})
    np.savez(tmp_path / "archive.npz", numbers=np.arange(3))
    np.savez(tmp_path / "pickle.npz", **arrays | {"numbers": np.array([{}, {}], dtype=object)})
    (tmp_path / "text.npz").write_text("trial,fold\n")
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "array", np.arange(3))
    expected = {
        "version.npz": "found format 99, expected 1",
        "archive.npz": "is not a curves file",
        "pickle.npz": "is not a curves file",
        "text.npz": "is not a curves file",
        "half.npz": "is not a curves file",
        "array.npy": "is not a curves file",
        "none.npz": "No such file",
    }
    for name, words in expected.items():
        with pytest.raises(ConfigError, match=words) as raised:
            load_curves(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_what_cannot_be_written_or_read_is_one_line(study: Trained, tmp_path: Path):
    """A wrong suffix, a folder that is a file, an unknown test file: exit code 2, and nothing is written."""
    (tmp_path / "file").touch()
    for out, options, words in [
        (tmp_path / "c.csv", (), "ends in .npz"),
        (tmp_path / "file" / "c.npz", ("--test", tmp_path / "no.csv"), "its folder cannot be made: File exists"),
        (tmp_path / "c.npz", ("--test", tmp_path / "no.csv"), "no.csv"),
    ]:
        result = export(study, out, *options)
        assert result.exit_code == 2
        assert words in result.output.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_not_there_is_made(curves: Curves, study: Trained, tmp_path: Path):
    """With all above it."""
    out = tmp_path / "new" / "folder" / "c.npz"
    assert export(study, out).exit_code == 0
    assert load_curves(out).params == curves.params
