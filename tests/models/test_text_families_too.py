"""The other half of test_text_families, in a file of its own, so that two workers can share them."""

import pytest

from tests.models.family_table import stale_lines

PARTS = range(8, 16)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two dozen families, on a machine that may be busy
@pytest.mark.parametrize("part", PARTS)
def test_the_page_says_what_is_measured(part, tmp_path):
    """A family that is new, or does something else by now, has no such line: `python -m tests.models.family_table`."""
    from tests.models import text_families  # it imports the code of all families

    assert stale_lines(text_families, text_families.FAMILIES[part::16], tmp_path) == []
