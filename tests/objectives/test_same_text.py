"""Which texts are the same: every way in which texts differ and read alike, and none in which they differ in words."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fold_search.objectives.data.same_text import canonical, group_texts, without_invisible

INVISIBLE = [
    *(sign for sign in map(chr, range(sys.maxunicode)) if unicodedata.category(sign) in ("Cc", "Cf")),
    *"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u3164\ufe00\ufe0f\uffa0\ufff0\U000e0100\U000e01ef",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("M\u00fcll", "Mu\u0308ll"),
        ("\ud55c\uae00", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
        ("\u30ac", "\uff76\uff9e"),
        ("free prize", "fr\u200bee pri\u00adze"),
        ("free prize", "\ufefffree \ufeffprize"),
        ("free prize", "free\0 prize\x1b"),
        ("free prize", "FREE\u00a0\u3000\tprize\u2028"),
        ("ABC 123", "\uff21\uff22\uff23 \uff11\uff12\uff13"),
        ("office", "o\ufb03ce"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u03bf\u03b4\u03cc\u03c2", "\u039f\u0394\u038c\u03a3"),
        ("\u2764", "\u2764\ufe0f"),
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc\u0631\u0648\u0645"),
        ("", " \u200b\u3164\n"),
    ],
)
def test_texts_that_read_alike_are_the_same(one, other):
    """Composed or not, invisible characters, white space, full width, ligatures, case."""
    assert group_texts([one, "between", other]).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "texts",
    [
        ("free prize", "freeprize"),
        ("M\u00fcll", "Mull"),
        ("can't", "cant"),
        ("1", "1.0"),
        ("\U0001f600", "\U0001f601"),
        ("\ue000", "\ue001"),
        ("a b", "b a"),
    ],
)
def test_texts_that_differ_in_words_are_not(texts):
    """Nor in accents, punctuation, emoji or characters of private use."""
    assert group_texts(texts).tolist() == [0, 1]


def test_no_character_that_unicode_calls_invisible_counts():
    """Control and format characters of this Python's Unicode, and the ignorable ones; a line break is white space."""
    for sign in INVISIBLE:
        expected = "a b" if sign.isspace() else "ab"
        assert canonical(f"a{sign}b") == canonical(f"a{sign}b\u00fc").removesuffix("\u00fc") == expected, hex(ord(sign))


@given(TEXTS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.sampled_from(INVISIBLE), st.data())
def test_no_unicode_form_case_or_invisible_character_makes_another_text(text, form, sign, data):
    """And the canonical form is its own."""
    same = canonical(text)
    assert canonical(same) == same
    assert canonical(unicodedata.normalize(form, text)) == same
    if "\u0345" not in unicodedata.normalize("NFD", text):  # the one mark that case folding makes a letter
        assert canonical(text.casefold()) == same
    assert canonical(f" {text}\u3000") == same
    if not sign.isspace():
        place = data.draw(st.integers(0, len(text)))
        assert canonical(text[:place] + sign + text[place:]) == same


@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_ascii_is_read_as_the_rest_is(text):
    """The shorter way for it gives what the long one does."""
    assert canonical(text + "\u00fc") == canonical(text + "u").removesuffix("u") + "\u00fc"


def test_names_differ_in_case():
    """Identifiers may; in what nobody sees they may not."""
    assert without_invisible(" D\u200b1\n") == without_invisible("D1") != without_invisible("d1")
    assert without_invisible("Mu\u0308ll") == "M\u00fcll"
