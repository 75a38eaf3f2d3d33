"""Names of classes: those that look alike are found, and whoever reads them can tell them apart."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fold_search.objectives.data.names import alike_names, class_name, quoted
from fold_search.objectives.data.same_text import canonical

WRITING = "the writing of a number or truth value"


@pytest.mark.parametrize(
    ("names", "ways"),
    [
        (("spam", "spam ", "\tspam"), ("white space",)),
        (("a b", "a  b", "a\u00a0b"), ("white space",)),
        (("spam", "spam\u200b"), ("invisible characters",)),
        (("spam", "Spam", "SPAM"), ("case",)),
        (("Stra\u00dfe", "STRASSE"), ("case",)),
        (("M\u00fcll", "Mu\u0308ll"), ("Unicode form",)),
        (("\ud55c", "\u1112\u1161\u11ab"), ("Unicode form",)),
        (("A", "\uff21"), ("Unicode form",)),
        (("1", "1.0", "01", "+1", "1e0"), (WRITING,)),
        (("true", "1"), (WRITING,)),
        (("false", "0.0"), (WRITING,)),
        (("True", "true"), ("case",)),
        (("1", "1.0", "True", "true"), ("case", WRITING)),
        (("Spam", "spam "), ("white space", "case")),
        (("\ufb01n", "fin"), ("Unicode form", "case")),
        (("", " "), ("white space",)),
    ],
)
def test_names_that_look_alike_are_found_with_what_they_differ_in(names, ways):
    """Whatever other classes stand between them."""
    [alike] = alike_names(["other", names[0], "else", *names[1:], "2"])
    assert (alike.names, alike.ways) == (names, ways)
    described = alike.describe(Counter([*names, names[0]]))
    assert described.endswith(f" differ in {' or '.join(ways)} only")
    assert described.startswith(f"{quoted(names[0])} (2 rows), {quoted(names[1])} (1 row)")


@pytest.mark.parametrize(
    "names",
    [
        ("yes", "true"),
        ("1", "10"),
        ("9007199254740993", "9007199254740992"),
        ("1_0", "10"),
        ("nan", "inf"),
        ("v1", "v1.0"),
    ],
)
def test_other_names_are_not(names):
    """Large numbers are compared to the last digit; what Python alone takes for numbers are none."""
    assert alike_names(names) == []


@given(st.lists(st.text(st.sampled_from("aA1.0\u00df\u00fcu\u0308\u200b \u00a0eE+-\ufe0f"), max_size=6), unique=True))
def test_names_with_one_canonical_form_are_always_alike(names):
    """What folds take for one text is told of classes, in quotes that differ, with at least one reason."""
    groups = alike_names(names)
    found = {name: number for number, group in enumerate(groups) for name in group.names}
    for one in names:
        same = [other for other in names if canonical(other) == canonical(one)]
        assert len(same) == 1 or len({found[name] for name in same}) == 1
    assert all(group.ways for group in groups)
    assert len({quoted(name) for name in names}) == len(names)
    assert all(quoted(name).isprintable() for name in names)


def test_a_name_is_quoted_where_it_would_not_be_seen_as_it_is():
    """Plain ones stay plain; long ones keep both ends."""
    plain = ["spam", "no relation", "M\u00fcll", "\ud55c\uae00", "it's"]
    assert [class_name(name) for name in plain] == plain
    assert [class_name(name) for name in ("spam ", "", "Mu\u0308ll", "a\nb")] == [
        "'spam '",
        "''",
        r"'Mu\u0308ll'",
        r"'a\nb'",
    ]
    assert quoted("x" * 99 + " ") == f"'{'x' * 29}...{'x' * 25} '"
