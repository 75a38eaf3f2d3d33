"""Opens a text file in any encoding. If its bytes do not fit, says which encoding would read them."""

import codecs
import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from charset_normalizer import from_bytes

from fold_search.objectives.data.files import FREE_BYTES, OpenFile, open_file
from fold_search.objectives.errors import DataError, Misread

UTF_8 = "utf-8"

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Each also reads its narrower relatives: EUC-KR, Shift-JIS, GBK, Latin-1. With more candidates short texts mislead.
_CANDIDATES = ("cp949", "cp932", "gb18030", "big5", "cp1252", "cp1251")
# Typographic quotes, dashes, currencies and the like, as cp1252 has them.
_WESTERN_SIGNS = frozenset(bytes.fromhex("80828485919293949596979199a0a1a3a7a9abaeb0b7bbbf").decode("cp1252"))
_MOST_WESTERN = 0.15  # of a line's bytes that are not ASCII; elsewhere nearly all are
_LEAST_KANA = 0.2  # of Japanese, where half is usual; other encodings hardly use these bytes
_LEAST_HANGUL = 0.8  # of Korean; Chinese would have two thirds
_SAMPLE_BYTES = 2**16
_BLOCK_BYTES = 2**20
_NUM_SHOWN = 40


@dataclass(frozen=True, slots=True)
class OpenText:
    """A file of text that is being read."""

    lines: io.TextIOWrapper
    _file: OpenFile

    @property
    def share_read(self) -> float:
        """How much of the file is read."""
        return self._file.share_read


@contextlib.contextmanager
def open_text(path: Path, *, encoding: str | None, newline: str) -> Iterator[OpenText]:
    """Open a text file; `newline` is Python's: with "" every line end ends a line, and is kept.

    A byte order mark decides the encoding, whatever `encoding` says; without either it is UTF-8. Raises DataError as
    `open_file` does. Raises Misread where it reaches bytes that do not fit, with the encoding that would read them.
    """
    marked, given = None, encoding or UTF_8
    try:
        with open_file(path) as file:
            start = file.content.peek(4)[:4]
            marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
            if marked is None and given == UTF_8 and _is_wide(start):
                raise UnicodeError
            yield OpenText(io.TextIOWrapper(file.content, marked or given, newline=newline), file)
    except UnicodeError as error:
        if marked is not None:
            raise DataError(f"{path}: damaged: not all of it is {_named(marked)}, as its first bytes say") from error
        raise _undecodable(path, given) from error


def _named(encoding: str) -> str:
    """The usual name of a Unicode encoding; any other name as it was given."""
    name = codecs.lookup(encoding).name.removesuffix("-sig")
    return name.upper() if name.startswith("utf") else encoding


def _is_wide(start: bytes) -> bool:
    """Whether it is UTF-16: no other text has a zero among its first two bytes."""
    return start[:2].count(0) == 1


@dataclass(frozen=True, slots=True)
class _Problem:
    """The first line that an encoding cannot read, and what else helps to find the right one."""

    place: str
    line: bytes
    sample: bytes  # this line and the next ones that are not plain ASCII
    is_damage: bool  # nearly all of the file fits the encoding, so this place is damaged


def _undecodable(path: Path, encoding: str) -> DataError:
    """Return the error for a file that is not in that encoding. It names the encoding that reads all of it, if any."""
    with open_file(path) as file:
        start = file.content.read(_SAMPLE_BYTES)
    said = f"{path}: not {_named(encoding)}"
    if _wide(start):
        return _proposal(path, f"{said}: it has zero bytes", candidates=_wide(start), line=start)
    problem = _find(path, encoding)
    said = f"{said}: {problem.place}"
    if problem.is_damage:
        return DataError(f"{said}; most of the file is, expected a file that is not damaged")
    return _proposal(path, said, candidates=_likely(problem.sample), line=problem.line)


def _proposal(path: Path, said: str, *, candidates: Iterable[str], line: bytes) -> DataError:
    for encoding in candidates:
        if _reads(path, encoding):
            text = line.decode(encoding, "replace").strip()[:_NUM_SHOWN]
            return Misread(f"{said}; data.encoding {encoding} reads {text!r}", setting="encoding", value=encoding)
    return DataError(f"{said}; expected the file's encoding as data.encoding")


def _find(path: Path, encoding: str) -> _Problem:
    """Return the first line that cannot be decoded."""
    place, wrong = "", b""
    position, num_read, num_wrong, sample = 0, 0, 0, bytearray()
    with open_file(path) as file:
        for number, line in enumerate(iter(lambda: file.content.readline(FREE_BYTES), b""), start=1):
            byte = _undecoded(line, encoding)
            if byte is not None and not wrong:
                place = f"byte 0x{line[byte]:02x} at position {position + byte}, line {number}"
                wrong = line
            position += len(line)
            if line.isascii():
                continue
            num_wrong += byte is not None
            num_read += byte is None
            if wrong:
                sample += line
            if len(sample) > _SAMPLE_BYTES:
                break
    # Text in another encoding seldom looks like UTF-8, but it often looks like text in a third one.
    is_damage = _named(encoding) == "UTF-8" and (num_read > num_wrong or _is_mostly_utf_8(bytes(sample)))
    return _Problem(place or "not all of it can be decoded", wrong, bytes(sample), is_damage=is_damage)


def _is_mostly_utf_8(sample: bytes) -> bool:
    signs = [sign for sign in sample.decode(errors="replace") if not sign.isascii()]
    return signs.count("\ufffd") * 2 < len(signs)


def _undecoded(line: bytes, encoding: str) -> int | None:
    """Return where the line cannot be decoded."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start
    except UnicodeError:
        return 0
    return None


def _likely(sample: bytes) -> Iterator[str]:
    """Yield encodings that read these lines as text, the likeliest first."""
    yield UTF_8
    if _is_western(sample):
        yield "cp1252"
    if _share(sample, "cp932", "\u3041", "\u30fe") > _LEAST_KANA:
        yield "cp932"
    yield from (match.encoding for match in from_bytes(sample, cp_isolation=list(_CANDIDATES)))
    if _share(sample, "cp949", "\uac00", "\ud7a3") > _LEAST_HANGUL:
        yield "cp949"


def _is_western(sample: bytes) -> bool:
    """Whether it is probably a Western language, with only some letters and signs that are not ASCII."""
    if sum(byte >= 0x80 for byte in sample) > 1 + _MOST_WESTERN * len(sample):
        return False
    signs = sample.decode("cp1252", "replace")
    return all(sign.isascii() or sign.isalpha() or sign in _WESTERN_SIGNS for sign in signs)


def _share(sample: bytes, encoding: str, first: str, last: str) -> float:
    """Return the share of the characters that are not ASCII which lie between these two."""
    signs = [sign for sign in sample.decode(encoding, "replace") if not sign.isascii()]
    return sum(first <= sign <= last for sign in signs) / max(1, len(signs))


def _wide(start: bytes) -> list[str]:
    """Return the UTF-16 variant whose zeros (the upper bytes of ASCII) are where `start` has them."""
    low, high = (start[first::2].count(0) for first in (0, 1))
    return ["utf-16-le"] if high > 2 * low else ["utf-16-be"] if low > 2 * high else []


def _reads(path: Path, encoding: str) -> bool:
    """Whether the whole file can be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_file(path) as file:
            while block := file.content.read(_BLOCK_BYTES):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True
