"""A small real text set and a tiny encoder, shared by the tests of this room."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.text import TextInputs, prepare_text
from tests.tiny_encoder import build_tiny_encoder

# The machine may be busy, and the same tests should run every time.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

NOUNS = {
    "animal": "fox dog cat horse",
    "weapon": "worm exploit overflow injection",
    "prize": "cash ticket phone holiday",
}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """54 rows that their words give away: 27 animals, 18 weapons, 9 prizes; lengths from 3 to 12 words."""
    lines = ["text,label"]
    for label, share in (("animal", 27), ("weapon", 18), ("prize", 9)):
        nouns = NOUNS[label].split()
        for row in range(share):
            words = [nouns[row % 4], nouns[(row // 4) % 4], *["the"] * (row % 10), f"number {row}"]
            lines.append(f"{' '.join(words)},{label}")
    path = tmp_path_factory.mktemp("data") / "nouns.csv"
    path.write_text("\n".join(lines))
    return read_dataset(DataSpec(path=path, label="label", text=("text",)))


@pytest.fixture(scope="session")
def inputs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    """The rows tokenised for a tiny encoder, at most 24 tokens each."""
    encoder = build_tiny_encoder(tmp_path_factory.mktemp("encoder"), dataset.texts)
    return prepare_text(dataset, encoder=str(encoder), max_length=24, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def make_job(dataset: Dataset, inputs: TextInputs) -> Callable[..., FoldJob]:
    """Build a job of the first of three folds; `model` holds model settings, the rest are training settings."""
    folds = assign_folds(dataset.labels, dataset.groups, num_folds=3, seed=0, stratified=True)

    def make_job(
        *,
        metric: str = "macro_f1",
        epoch_metric: str | None = None,
        seed: int = 5,
        model: dict | None = None,
        **training,
    ) -> FoldJob:
        training = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 8} | training
        model_params = ModelParams(encoder=inputs.encoder, max_length=24, **(model or {}))
        return FoldJob(
            params=Params(model=model_params, training=TrainingParams(**training)),
            goal=Goal(metric=metric, epoch_metric=epoch_metric or metric),
            labels=dataset.labels,
            label_names=tuple(dataset.label_names),
            training_rows=np.flatnonzero(folds != 0),
            validation_rows=np.flatnonzero(folds == 0),
            seed=seed,
        )

    return make_job
