"""The disk that a study needs: what is said before it begins, and a study that cannot fit."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.spec import DataSpec
from fold_search.search.cli import app
from fold_search.search.errors import ConfigError
from fold_search.search.running.engines.local import LocalEngine
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.disk import EncoderSize, check_disk, weigh
from tests.tiny_encoder import build_tiny_encoder

ENCODER = EncoderSize(weights=25_000_000, layer=2_000_000, rank=100_000, width=384)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A thousand rows of 400 characters in two classes."""
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"{number:0400d},{'ab'[number % 2]}\n" for number in range(1000)))
    return read_dataset(DataSpec(path=path, label="label", text=("text",)))


def config(folder: Path, **sections: object) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "data": {"path": "data.csv", "label": "label", "text": "text"},
            "model": {"encoder": "large"},
            "storage": {"artifacts": str(folder / "artifacts"), "cache": str(folder / "cache")},
            **sections,
        }
    )


def free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(size)))


def check(folder: Path, dataset: Dataset, **sections: object) -> str:
    [line] = check_disk(config(folder, **sections), dataset, encoders={"large": ENCODER}, num_workers=2)
    return line


def test_what_a_study_needs_is_said_kind_by_kind(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    """Checkpoints of two workers and of paused fold runs, with AdamW's states; weights; predictions; tokens."""
    free(monkeypatch, 1e12)
    assert check(tmp_path, dataset) == (
        "disk: the study needs at most about 22.5 GB (checkpoints 18.0 GB, weights 4.5 GB, predictions 240.0 kB, "
        "cache 408.0 kB); 1.0 TB are free"
    )
    assert "checkpoints 2.4 GB" in check(tmp_path, dataset, race={"rule": "none"})
    assert "weights" not in check(tmp_path, dataset, artifacts={"keep": "none"})
    assert "checkpoints 360.0 MB" in check(tmp_path, dataset, model={"encoder": "large", "lora_rank": 5})


def test_a_study_that_is_close_to_filling_the_disk_is_begun_with_a_warning(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """The line says what would need less."""
    free(monkeypatch, 24e9)
    assert "That is close: to need less, lower artifacts.paused_checkpoints" in check(tmp_path, dataset)


def test_a_study_that_cannot_fit_is_refused(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    """Not even two checkpoints and one trial's weights would."""
    free(monkeypatch, 1e9)
    expected = rf"^{tmp_path}: the study needs at least 1\.3 GB of disk space, found 1\.0 GB free; storage\.artifacts"
    with pytest.raises(ConfigError, match=expected):
        check(tmp_path, dataset)


def test_an_encoder_is_weighed_by_the_shapes_in_its_files(tmp_path: Path):
    """Its layers are those that are really loaded; a file may hold some weights besides, of a pooler."""
    from fold_search.models.encoders import load_encoder

    folder = build_tiny_encoder(tmp_path / "encoder")
    model = load_encoder(str(folder))
    found = weigh(str(folder))
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in model.encoder.layer]
    assert found.weights == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.1)
    assert (found.layer, found.width) == (max(layers), model.config.hidden_size)
    assert weigh(str(tmp_path / "nowhere")) == EncoderSize(weights=0, layer=0, rank=0, width=0)


def test_as_many_workers_are_counted_as_will_be_started(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """Without --workers one a GPU, as `search run` starts them; the note is the same as for that number."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr("fold_search.search.study.beginning.check_encoders", lambda config: {"large": ENCODER})
    free(monkeypatch, 1e12)
    started: list[int] = []

    def run_study(*_: object, engine: LocalEngine, **__: object) -> None:
        started.append(engine.num_workers)
        raise ConfigError("enough")

    monkeypatch.setattr("fold_search.search.running.run.run_study", run_study)
    (tmp_path / "study.yaml").write_text("data: {path: data.csv, label: label, text: text}\nmodel: {encoder: large}\n")
    notes = set()
    for name, options in {"one": (), "two": ("--workers", "3")}.items():
        command = [
            "run",
            "--study",
            name,
            "--config",
            f"{tmp_path}/study.yaml",
            "--set",
            f"storage.cache={tmp_path}/cache",
        ]
        command += [
            "--storage",
            f"sqlite:///{tmp_path}/{name}.db",
            *options,
            "--set",
            f"storage.artifacts={tmp_path}/a",
        ]
        output = CliRunner().invoke(app, command).output
        assert "error: enough" in output
        notes.add(next(line for line in output.splitlines() if line.startswith("note: disk")))
    assert started == [3, 3]
    assert len(notes) == 1
