"""Memory that runs out: passes of a small device, and a real training in a process whose memory the kernel limits."""

import functools
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.memory import RowsAtOnce, held_memory, limit_memory
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.text import prepare_text
from fold_search.objectives.training.fold import FoldTraining
from tests.tiny_encoder import build_tiny_encoder

NUM_ROWS = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of it: each epoch's scores, and the numbers of rows at once that were tried, with their shapes."""

    metrics: list[dict[str, float]]
    tried: list[tuple[str, int]]


def check_same(free: Trained, limited: Trained, again: Trained, *, rel: float) -> None:
    """Assert that little memory halved the rows of a step and changed no score, and that who knew met no limit."""
    shape, rows = limited.tried[-1]
    assert shape.startswith("training: ")
    assert 1 < rows < 512
    assert free.tried == again.tried == []
    for epoch, expected in enumerate(free.metrics):
        for name in ("train_loss_running", "train_loss", "val_loss", "val_macro_f1"):
            assert limited.metrics[epoch][name] == pytest.approx(expected[name], rel=rel)


def room_for(most: int, run: Callable[..., Any], *, training: bool | None = None) -> Callable[..., Any]:
    """As a module's pass `run`, which runs out of memory at its end where it sees more rows; in one mode alone."""

    @functools.wraps(run)  # it is looked at for what it takes
    def limited(module: torch.nn.Module, *arguments: Any, **batch: Any) -> Any:
        outputs = run(module, *arguments, **batch)
        rows = next(iter((*arguments, *batch.values())))
        if len(rows) > most and training in (None, module.training):
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return outputs

    return limited


def train_within(folder: Path, *, headroom: int) -> tuple[Trained, Trained]:
    """Train with no more than `headroom` bytes above what the process holds, then again by what was found."""
    torch.set_num_threads(1)
    limit_memory(held_memory() + headroom)
    first = train(folder)
    return first, train(folder, rows_that_fit=dict(first.tried))


def activate_with_memory_from_the_second_try() -> tuple[str, list[float]]:
    """Pass two rows without memory to allocate, then one with plenty; returns the first try's error, and the row.

    The activation is one that oneDNN compiles for these rows.
    """
    rows = torch.ones(2, 200)
    errors = []

    def activate(size: int) -> torch.Tensor:
        resource.setrlimit(resource.RLIMIT_DATA, (1 if size == 2 else 2**40, resource.RLIM_INFINITY))
        held: list[bytearray] = []
        with suppress(MemoryError):  # take what was freed earlier, in pieces as large as a kernel
            held.extend(bytearray(2**18) for _ in range(4096 if size == 2 else 0))
        try:
            return torch.nn.functional.gelu(rows[:size])
        except RuntimeError as error:
            errors.append(str(error))
            raise

    activated = RowsAtOnce(rows=2, device=torch.device("cpu")).attempt(activate)
    [error] = errors
    return error, activated[0].tolist()


def train(folder: Path, *, rows_that_fit: Mapping[str, int] = MappingProxyType({}), device: str = "cpu") -> Trained:
    """Train two epochs of batches of 512 long rows in float32, without dropout."""
    data = folder / "data.csv"
    rows = [f"{'fox' if row % 3 else 'cash'} {'the ' * 50}{row},{row % 3 == 0}" for row in range(NUM_ROWS)]
    data.write_text("\n".join(["text,label", *rows]))
    dataset = read_dataset(DataSpec(path=data, label="label", text=("text",)))
    encoder = build_tiny_encoder(folder, dataset.texts)
    inputs = prepare_text(dataset, encoder=str(encoder), max_length=64, cache=folder / "cache")
    model = ModelParams(encoder=inputs.encoder, max_length=64, dropout=0.0, encoder_dropout=0.0)
    settings = TrainingParams(epochs=2, batch_size=512, learning_rate=3e-3, precision="fp32")
    job = FoldJob(
        params=Params(model=model, training=settings),
        goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
        labels=dataset.labels,
        label_names=tuple(dataset.label_names),
        training_rows=np.arange(64, NUM_ROWS),
        validation_rows=np.arange(64),
        seed=0,
    )
    tried: list[tuple[str, int]] = []
    training = FoldTraining(
        job,
        inputs=inputs,
        device=device,
        rows_that_fit=rows_that_fit,
        remember=lambda shape, rows: tried.append((shape, rows)),
    )
    return Trained(metrics=[score.metrics for score in training.epochs()], tried=tried)
