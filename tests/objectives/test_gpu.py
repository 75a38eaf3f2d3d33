"""The same training on a GPU: its scores, its precision, its checkpoints, its memory. Skipped where there is none."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from fold_search.objectives.devices import uses_bf16
from fold_search.objectives.errors import OutOfMemory
from fold_search.objectives.training.fold import FoldTraining
from tests.objectives import limited_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = "cuda:0"
WITHOUT_DROPOUT = {"dropout": 0.0, "encoder_dropout": 0.0}


@pytest.fixture
def train(inputs, make_job) -> Callable[..., FoldTraining]:
    """Build a training, not begun, of the first of three folds."""

    def train(*, device: str = GPU, **settings) -> FoldTraining:
        return FoldTraining(make_job(**settings), inputs=inputs, device=device)

    return train


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Let this process allocate only so many bytes more on the GPU."""
    total = torch.cuda.get_device_properties(GPU).total_memory

    def leave(headroom: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + headroom) / total, GPU)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)


def test_a_gpu_scores_what_a_cpu_scores(train):
    """In float32, without dropout, whose random numbers are other ones there."""
    settings = {"model": WITHOUT_DROPOUT, "precision": "fp32"}
    on_cpu, on_gpu = (list(train(device=device, **settings).epochs()) for device in ("cpu", GPU))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found.metrics["val_loss"] == pytest.approx(expected.metrics["val_loss"], rel=1e-3)
        assert found.score == pytest.approx(expected.score, abs=0.06)  # one row of 18 on the edge


def test_bfloat16_is_chosen_and_learns(train):
    """Where the hardware has it; the weights stay in float32."""
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    assert uses_bf16("auto", torch.device(GPU))
    settings = {"model": WITHOUT_DROPOUT, "epochs": 5}
    training = train(**settings)
    scores = list(training.epochs())
    precise = list(train(precision="fp32", **settings).epochs())
    assert scores[-1].metrics["val_loss"] != precise[-1].metrics["val_loss"]
    assert scores[-1].metrics["val_loss"] == pytest.approx(precise[-1].metrics["val_loss"], rel=0.1)
    assert {weight.dtype for weight in training.network.state.values() if weight.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ("optimiser", "ema_decay"), [("adamw", None), ("adamw", 0.9), ("sgd", None), ("schedule_free_adamw", None)]
)
def test_a_training_is_continued_exactly(train, optimiser, ema_decay):
    """With dropout: from a checkpoint each epoch scores what it scored without a break, to the last bit."""
    settings = {"optimiser": optimiser, "ema_decay": ema_decay, "epochs": 3}
    whole, broken, resumed = train(**settings), train(**settings), train(**settings)
    expected = list(whole.epochs())
    next(broken.epochs())
    resumed.restore(broken.save())
    found = [*broken.scores, *resumed.epochs()]
    for one, other in zip(found, expected, strict=True):
        assert {**one.metrics, "rows_per_second": 0} == {**other.metrics, "rows_per_second": 0}


def test_little_memory_gives_the_scores_of_much(tmp_path, little_memory):
    """CUDA refuses memory: fewer rows pass at once; whoever knows how many fit meets no such limit again."""
    free = limited_memory.train(tmp_path, device=GPU)
    little_memory(60_000_000)
    limited = limited_memory.train(tmp_path, device=GPU)
    again = limited_memory.train(tmp_path, device=GPU, rows_that_fit=dict(limited.tried))
    limited_memory.check_same(free, limited, again, rel=1e-3)


def test_a_gpu_without_room_ends_the_trial_and_not_the_process(tmp_path):
    """The configuration has failed; the next one that fits is trained. In a process that has no memory to use again."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        failed, num_epochs = processes.submit(without_room, tmp_path).result()
    assert failed.startswith("out of memory on cuda:0: CUDA out of memory")
    assert num_epochs == 2


def without_room(folder: Path) -> tuple[str, int]:
    """Train where not a byte may be allocated, then where it may; return what was raised and how many epochs ran."""
    torch.cuda.set_per_process_memory_fraction(0.0, GPU)
    try:
        limited_memory.train(folder, device=GPU)
    except OutOfMemory as error:
        failed = str(error)
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    return failed, len(limited_memory.train(folder, device=GPU).metrics)
