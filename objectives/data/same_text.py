"""Which texts are the same: the one place that decides it, for folds, extra rows, duplicates and the leak proof."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Characters that nobody sees: control and format characters (such as zero-width spaces and joiners, soft hyphens, byte
# order marks), variation selectors and fillers; not white space. They are written down here since Python does not know
# which characters Unicode calls ignorable, and so that folds do not depend on Python's version.
INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_INVISIBLE_ASCII = dict.fromkeys((*range(0x09), *range(0x0E, 0x1C), 0x7F))


def canonical(text: str) -> str:
    """Return a form that is the same for texts that read alike.

    They differ only in case, white space, invisible characters or Unicode form (composed or not, full width,
    ligatures). The form is Unicode's NFKC_Casefold, with single spaces.
    """
    if text.isascii():
        lower = text.lower()
        return " ".join((lower if lower.isprintable() else lower.translate(_INVISIBLE_ASCII)).split())
    # Both steps twice, since each can make work for the other: see "Caseless Matching" in the Unicode standard.
    folded = unicodedata.normalize("NFD", INVISIBLE.sub("", text)).casefold()
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold()).split())


def without_invisible(name: str) -> str:
    """Return a form that is the same for names that nobody could tell apart. Unlike in texts, case counts."""
    if name.isascii() and name.isprintable():
        return " ".join(name.split())
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", name)).split())


def group_texts(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for each text, (texts,), rising from 0; texts with the same canonical form share one."""
    # Hashes, not the forms themselves, which would take as much memory as the texts.
    digests = bytearray()
    for text in texts:
        same = canonical(text).encode("utf-8", "surrogatepass")
        digests += hashlib.blake2b(same, digest_size=16).digest()
    _, first, group = np.unique(np.frombuffer(digests, "S16"), return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[group]
