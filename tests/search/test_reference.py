"""The generated reference of the study file."""

from fold_search.search.drafting.reference import PATH, reference
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import PARAMETERS


def test_the_reference_is_up_to_date():
    """`python -m fold_search.search.drafting.reference` writes it anew."""
    assert PATH.read_text(encoding="utf-8") == reference()


def test_every_section_and_every_parameter_has_its_place():
    """Nothing that can stand in a study file is missing."""
    page = reference()
    assert all(f"\n## `{name}`\n" in page for name in StudyConfig.model_fields)
    assert all(f"\n| `{name}` | " in page for name in PARAMETERS)
