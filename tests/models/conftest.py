"""A tiny pretrained model shared by the tests of this room."""

from pathlib import Path

import pytest

from tests.tiny_encoder import build_tiny_encoder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("encoder"))
