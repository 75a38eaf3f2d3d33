"""Every family of text encoders does what docs/encoders.md says of it; the other half is in its own file."""

import re

import pytest

from tests.models.family_table import PATH, stale_lines

PARTS = range(8)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two dozen families, on a machine that may be busy
@pytest.mark.parametrize("part", PARTS)
def test_the_page_says_what_is_measured(part, tmp_path):
    """A family that is new, or does something else by now, has no such line: `python -m tests.models.family_table`."""
    from tests.models import text_families  # it imports the code of all families

    assert stale_lines(text_families, text_families.FAMILIES[part::16], tmp_path) == []


@pytest.mark.slow
def test_the_page_names_no_other_family():
    """One that transformers has dropped leaves no line behind."""
    from tests.models.text_families import FAMILIES

    text = PATH.read_text(encoding="utf-8").split("\n## Images")[0]
    assert sorted(re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)) == sorted(FAMILIES)
