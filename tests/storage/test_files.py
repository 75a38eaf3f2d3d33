"""A file is there whole or not at all."""

import os
from pathlib import Path

import pytest

from fold_search.storage.files import whole_file


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path):
    """Until then a reader sees what was there."""
    file = tmp_path / "file"
    file.write_text("old")
    with whole_file(file) as unfinished:
        unfinished.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def write_half(file: Path, error: BaseException) -> None:
    with whole_file(file) as unfinished:
        unfinished.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_file_that_is_not_finished(tmp_path: Path, error: BaseException):
    """Neither beside the old one nor in its place, whatever ended the writing."""
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(type(error)):
        write_half(file, error)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
