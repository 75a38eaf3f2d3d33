"""Relations: spans are checked against their sentence, and entities are shown in one of four forms."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.relations import Entity, Relation, entity_types, mark, new_tokens, read_relations
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError

HEADER = "sentence,subject,subject_start,subject_end,subject_type,object,object_start,object_end,object_type,label"
BILL = "Bill was born in Seattle.,Bill,0,3,PER,Seattle,17,23,LOC,born"
RELATION = Relation("Bill was born in Seattle.", Entity(0, 4, "PER"), Entity(17, 24, "LOC"))

Read = Callable[..., list[Relation]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read relations from a CSV file of the row about Bill and others; `extra` are rows of a second file."""

    def read(
        *rows: str,
        form: str = "typed_markers",
        extra: tuple[str, ...] = (),
        known_types: tuple[str, ...] = (),
        **spec: bool,
    ) -> list[Relation]:
        other = BILL.removesuffix("born") + "other"
        for name, lines in (("rows.csv", (BILL, other, *rows)), ("extra.csv", extra)):
            (tmp_path / name).write_text("\n".join([HEADER, *lines, ""]))
        path = tmp_path / "extra.csv" if extra else None
        data = DataSpec(path=tmp_path / "rows.csv", extra=path, label="label", relation=RelationSpec(**spec))
        return read_relations(read_dataset(data), form=form, known_types=known_types)

    return read


def test_spans_are_read_with_their_types(read):
    """An end is the last character's, unless the study file says that it is the one after."""
    assert read()[0] == RELATION
    assert read("Ann runs IBM,Ann,0,2,PER,IBM,9,11,ORG,born")[-1].object == Entity(9, 12, "ORG")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("separated", "Bill <sep> Seattle <sep> Bill was born in Seattle."),
        ("markers", "[S] Bill [/S] was born in [O] Seattle [/O]."),
        ("typed_markers", "[S:PER] Bill [/S:PER] was born in [O:LOC] Seattle [/O:LOC]."),
        ("typed_punctuation", "@ * PER * Bill @ was born in # ^ LOC ^ Seattle #."),
    ],
)
def test_each_form_shows_the_entities(form, expected):
    """The text of Zhou and Chen 2022, and where in it the entities begin and lie."""
    marked = mark(RELATION, form=form, separator="<sep>")
    assert marked.text == expected
    shown = [marked.text[start:end] for start, end in marked.spans]
    assert all("Bill" in text or "Seattle" in text for text in shown)
    assert shown[0] == marked.text[marked.subject :][: len(shown[0])]
    assert shown[1] == marked.text[marked.object :][: len(shown[1])]
    assert "was" not in "".join(shown)


@pytest.mark.parametrize(
    ("subject", "obj", "expected"),
    [
        ((0, 5), (0, 2), "[S] [O] ab [/O]cde [/S]f"),
        ((3, 5), (0, 5), "[O] abc[S] de [/S] [/O]f"),
        ((0, 3), (2, 5), "[S] ab[O] c [/S]de [/O]f"),
        ((0, 3), (3, 6), "[S] abc [/S][O] def [/O]"),
        ((1, 3), (1, 3), "a[S] [O] bc [/O] [/S]def"),
    ],
)
def test_entities_may_overlap_touch_or_be_nested(subject, obj, expected):
    """The wider one's markers are outside, and no marker stands within another."""
    relation = Relation("abcdef", Entity(*subject, "X"), Entity(*obj, "Y"))
    marked = mark(relation, form="markers", separator="")
    assert marked.text == expected
    assert marked.text[marked.subject :].startswith("[S]")
    assert marked.text[marked.object :].startswith("[O]")
    for start, end in marked.spans:
        assert marked.text[start] == "["
        assert marked.text[end - 1] == "]"


def test_new_tokens_say_in_words_what_they_mean():
    """Only marker forms add tokens: one pair for each role, or for each role of every type."""
    types = entity_types([RELATION])
    assert new_tokens(types, form="markers") == {
        "[S]": "subject",
        "[/S]": "end subject",
        "[O]": "object",
        "[/O]": "end object",
    }
    typed = new_tokens(types, form="typed_markers")
    assert typed["[/S:PER]"] == "end subject PER"
    assert typed["[O:PER]"] == "object PER"
    assert len(typed) == 8
    assert new_tokens(types, form="typed_punctuation") == new_tokens(types, form="separated") == {}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (BILL.replace(",0,3,", ",x,3,"), "data row 3: column 'subject_start' holds 'x', expected a whole number"),
        (BILL.replace(",0,3,", ",0.0,3,"), "column 'subject_start' holds '0.0', expected a whole number"),
        (BILL.replace(",0,3,", ",-4,3,"), "column 'subject_start' holds '-4', expected a whole number"),
        (BILL.replace(",17,23,", ",17,,"), "column 'object_end' holds '', expected a whole number"),
        (BILL.replace(",17,23,", ",17,25,"), "the object's span 17 to 25 is empty or out of range; .* 25 characters"),
        (BILL.replace(",17,23,", ",17,16,"), "the object's span 17 to 16 is empty or out of range"),
        (BILL.replace(",17,23,", ",16,22,"), "the object's span 16 to 22 holds ' Seattl', expected 'Seattle' as in"),
        (BILL.replace(",17,23,", ",17,24,"), "holds 'Seattle.', expected 'Seattle' .*end_inclusive false would fit"),
        (BILL.replace(",PER,", ", ,"), "data row 3: column 'subject_type' is empty; .*typed_markers needs a type"),
        (BILL.replace("Seattle.", "Seattle [/O:LOC]"), r"data row 3: the sentence has '\[/O:LOC\]' in it"),
    ],
)
def test_a_row_that_cannot_be_shown_is_refused(read, row, expected):
    """The line names file and row, what was found and what was expected."""
    with pytest.raises(DataError, match=f"rows.csv: .*{expected}"):
        read(row)


def test_only_what_a_form_shows_is_refused(read):
    """Types and markers of another form do no harm."""
    assert len(read(BILL.replace(",PER,", ",,"), BILL.replace("Seattle.", "Seattle [O:LOC]"), form="markers")) == 4


def test_a_row_of_the_extra_file_is_named_with_that_file(read):
    """Its rows are numbered on their own."""
    with pytest.raises(DataError, match=r"extra.csv: data row 2: the subject's span"):
        read(extra=(BILL, BILL.replace(",0,3,", ",1,3,")))


def test_an_end_may_be_the_character_after(read):
    """Then rows whose ends are the last characters are refused, with the setting that would fit."""
    with pytest.raises(DataError, match=r"data row 1: .*holds 'Bil'.*end_inclusive true would fit"):
        read(end_inclusive=False)


def test_a_type_that_a_model_never_saw_is_refused(read):
    """In another role it was seen."""
    assert len(read(known_types=("LOC", "PER"))) == 2
    with pytest.raises(
        DataError, match=r"row 1: the object is of type 'LOC', .* never saw; expected one of 'ORG', 'PER'"
    ):
        read(known_types=("ORG", "PER"))


def test_a_marker_that_a_model_knows_is_refused_whatever_types_the_rows_have(read):
    """So what is refused does not depend on the rows that are predicted together."""
    row = BILL.replace("Seattle.", "Seattle [O:ORG]")
    assert len(read(row)) == 3
    with pytest.raises(DataError, match=r"row 3: the sentence has '\[O:ORG\]' in it"):
        read(row, known_types=("LOC", "ORG", "PER"))
