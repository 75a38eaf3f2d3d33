"""What is computed once per study is continued after its process died, and two processes do not compute it twice."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import ViTConfig

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.tasks import cache as tasks_cache
from fold_search.objectives.tasks import continued as tasks_continued
from fold_search.objectives.tasks.cache import filled
from fold_search.objectives.tasks.continued import Continued, continued
from fold_search.objectives.tasks.image import prepare_images
from fold_search.objectives.tasks.relation import prepare_relations
from fold_search.objectives.tasks.text import Cut, prepare_text
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import VIT, build_tiny_image_encoder, write_photos

Array = NDArray[Any]
Prepare = Callable[[Path], list[Array]]  # what is computed once per study, with the folder of the cache

NAME = f"pooled-{'0a' * 16}"
ROWS = 10

KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from fold_search.objectives.tasks import continued as module
from fold_search.objectives.tasks.cache import filled
module.NOTE_SECONDS = 0.0
def fill(folder):
    with module.continued(folder / "pooled.npy", shape=(10, 3), dtype=np.float32) as array:
        for row in range(10):
            if row == 6:
                os.kill(os.getpid(), 9)
            array.write(row, np.full(3, row))
            array.note(row + 1)
filled(Path(sys.argv[1]), fill)
"""


@pytest.fixture(autouse=True)
def noted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_continued, "NOTE_SECONDS", 0.0)


def count_up(written: list[int], *, wait: float = 0.0) -> Callable[[Path], None]:
    """Fill each row with its number."""

    def fill(folder: Path) -> None:
        with continued(folder / "pooled.npy", shape=(ROWS, 3), dtype=np.float32) as array:
            for row in range(array.done, ROWS):
                time.sleep(wait)
                array.write(row, np.full(3, row))
                written.append(row)
                array.note(row + 1)

    return fill


def is_counted_up(arrays: dict[str, NDArray[Any]]) -> bool:
    return list(arrays) == ["pooled"] and np.array_equal(arrays["pooled"], np.repeat(np.arange(10.0), 3).reshape(-1, 3))


def test_what_a_killed_process_has_computed_is_kept(tmp_path: Path):
    folder, written = tmp_path / NAME, []
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -9
    [left] = tmp_path.iterdir()
    assert re.fullmatch(rf"unfinished-[0-9a-f]{{8}}-{NAME}", left.name)
    assert is_counted_up(filled(folder, count_up(written)))
    assert written == [6, 7, 8, 9]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert [path.name for path in folder.iterdir()] == ["pooled.npy"]


def test_a_note_without_its_array_says_nothing(tmp_path: Path):
    """As where somebody removed one file of the two."""
    folder, written = tmp_path / NAME, []
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    [left] = tmp_path.glob("unfinished-*/pooled.npy")
    left.unlink()
    assert is_counted_up(filled(folder, count_up(written)))
    assert len(written) == ROWS


def test_what_lies_there_for_long_is_waited_for_as_soon_as_another_process_goes_on(tmp_path: Path):
    """Its first write comes late, when the encoder is loaded."""
    folder, written = tmp_path / NAME, []
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    [left] = tmp_path.iterdir()
    for path in (*left.iterdir(), left):
        os.utime(path, (1, 1))
    loading = threading.Event()

    def fill(place: Path) -> None:
        loading.set()
        time.sleep(0.5)
        count_up(written)(place)

    other = threading.Thread(target=filled, args=(folder, fill))
    other.start()
    loading.wait(10)
    assert is_counted_up(filled(folder, count_up(written)))
    other.join()
    assert written == [6, 7, 8, 9]


def test_an_error_leaves_nothing(tmp_path: Path):
    """Such as of a full disk, which is not to stay full."""

    def fill(folder: Path) -> None:
        count_up([])(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        filled(tmp_path / NAME, fill)
    assert list(tmp_path.iterdir()) == []


def test_a_process_waits_for_the_one_that_computes_the_same(tmp_path: Path):
    first: list[int] = []
    second: list[int] = []
    ended = threading.Thread(target=filled, args=(tmp_path / NAME, count_up(first, wait=0.05)))
    ended.start()
    while not first:
        time.sleep(0.01)
    assert is_counted_up(filled(tmp_path / NAME, count_up(second)))
    ended.join()
    assert (len(first), second) == (ROWS, [])


@pytest.mark.parametrize("cause", ["hangs", "no locks"])
def test_a_process_that_cannot_wait_computes_it_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str):
    def unlockable(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if cause == "hangs":
        monkeypatch.setattr(tasks_cache, "HANGS_SECONDS", 0.5)
    else:
        monkeypatch.setattr(tasks_cache.fcntl, "flock", unlockable)
    hangs, written = threading.Event(), []

    def fill(folder: Path) -> None:
        hangs.wait(30)
        count_up([])(folder)

    other = threading.Thread(target=filled, args=(tmp_path / NAME, fill))
    other.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    assert is_counted_up(filled(tmp_path / NAME, count_up(written)))
    assert len(written) == ROWS
    hangs.set()
    other.join()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


class Interrupted(BaseException):
    """As Ctrl-C."""


def texts(folder: Path) -> Prepare:
    lines = [f"{'word ' * (row % 9)}number {row},{row % 2}" for row in range(40)]
    dataset = read(folder, "text,label", lines, text=("text",))
    encoder = str(build_tiny_encoder(folder / "encoder", dataset.texts))

    def prepare(cache: Path) -> list[Array]:
        inputs = prepare_text(dataset, encoder=encoder, max_length=6, cache=cache, whole=True)
        cut = Cut(max_length=6, long_text="windows", overlap=0.0)
        prefix = inputs.prefix(cut, num_layers=1)
        assert prefix is not None
        return [inputs.pooled(pooling="mean", **cut), prefix.states, prefix.starts, prefix.num_windows]

    return prepare


def relations(folder: Path) -> Prepare:
    header = "sentence,subject,subject_start,subject_end,subject_type,object,object_start,object_end,object_type,label"
    lines = [f"fox bites dog {'word ' * (row % 9)}{row},fox,0,2,PET,dog,10,12,PET,{row % 2}" for row in range(40)]
    dataset = read(folder, header, lines, relation=RelationSpec())
    encoder = str(build_tiny_encoder(folder / "encoder", dataset.columns["sentence"]))

    def prepare(cache: Path) -> list[Array]:
        inputs = prepare_relations(dataset, encoder=encoder, form="separated", max_length=24, cache=cache)
        return [inputs.states(ModelParams(encoder=encoder, max_length=24))]

    return prepare


def images(folder: Path) -> Prepare:
    dataset = read_dataset(DataSpec(path=write_photos(folder), image="file", label="folder"))
    encoder = str(build_tiny_image_encoder(folder / "encoder", ViTConfig(**VIT)))

    def prepare(cache: Path) -> list[Array]:
        inputs = prepare_images(dataset, encoder=encoder, image_size=16, cache=cache)
        return [inputs.pixels, inputs.pooled(pooling="mean")]

    return prepare


def read(folder: Path, header: str, lines: Sequence[str], **settings: Any) -> Dataset:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *lines, ""]))
    return read_dataset(DataSpec(path=path, label="label", **settings))


@pytest.mark.parametrize("kind", [texts, relations, images])
def test_every_preparation_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], Prepare]
):
    """It is interrupted after each part of the work, and computes none of them twice."""
    for module in ("text", "prefix", "relation", "image"):
        monkeypatch.setattr(f"fold_search.objectives.tasks.{module}.rows_per_forward", lambda device: 9)
    monkeypatch.setattr("fold_search.objectives.data.image_files.ROWS_PER_CHUNK", 9)
    prepare = kind(tmp_path)
    expected = prepare(tmp_path / "undisturbed")
    note, noted = Continued.note, []

    def interrupt(array: Continued, done: int) -> None:
        note(array, done)
        noted.append(done)
        raise Interrupted

    monkeypatch.setattr(Continued, "note", interrupt)
    for _ in range(100):
        try:
            found = prepare(tmp_path / "interrupted")
            break
        except Interrupted:
            continue
    assert len(noted) == (2 if kind is not relations else 1) * 5
    assert noted == sorted(noted[:5]) + sorted(noted[5:])
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not list((tmp_path / "interrupted").glob("unfinished-*"))
