"""Every family of image encoders that transformers knows trains, or is refused before a study begins, in one line."""

from pathlib import Path

import pytest
from transformers import AutoModel

from tests.models.family_table import PATH, line
from tests.models.image_families import COLUMNS, FAMILIES, NO, YES, tiny_config, try_family

# What people use most. They may be refused for nothing but a size or dropout that they do not have.
KNOWN = ("beit", "clip", "convnext", "deit", "dinov2", "efficientnet", "mobilenet_v2", "resnet", "swin", "vit")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_works_or_is_refused_in_one_line(name: str, tmp_path: Path):
    """As docs/encoders.md says, which `python -m tests.models.family_table` writes anew."""
    found = try_family(name, tmp_path)
    assert tuple(found) == tuple(COLUMNS)
    assert line(name, found) in PATH.read_text(encoding="utf-8").splitlines()
    for column, answer in found.items():
        assert answer == YES or answer.startswith(NO), f"{column}: {answer}"
    if name in KNOWN:
        assert {found[column] for column in ("whole", "top layer", "head alone", "export")} == {YES}


def test_what_is_tried_is_small():
    """Whatever is written and trained here."""
    assert {"vit", "resnet", "clip", "pp_lcnet"} <= set(FAMILIES)
    for name in KNOWN:
        config = tiny_config(name)
        assert sum(weight.numel() for weight in AutoModel.from_config(config).parameters()) < 5e6
