"""From documents with reference summaries to a set of sentences to classify: in an extractive summary, or not.

The label is the greedy oracle of SummaRuNNer (Nallapati et al. 2017): sentences are taken one after the other, each
time the one that raises the ROUGE of what is taken most, until none does. ROUGE is the sum of the F1 of ROUGE-1 and
ROUGE-2 (Lin 2004), of lower-cased words, neither stemmed nor with stop words left out, which suits any language.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from fold_search.objectives.data.sources import Source
from fold_search.objectives.data.tables import read_chunks
from fold_search.objectives.errors import DataError
from fold_search.search.errors import ConfigError
from fold_search.search.study.wording import shown, suggestion
from fold_search.storage.files import whole_file

COLUMNS = ("document", "position", "previous", "sentence", "next", "label")

DOCUMENTS_AT_ONCE = 100

Ngrams = Counter[tuple[str, ...]]

# A sentence ends at its mark and what closes quotes and brackets, before white space; in Chinese and Japanese at once.
_END = re.compile(r"(?<=[.!?\u2026])[^\w\s]*(?=\s)|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\u201d\u2019\uff09]*|\n\s*\n")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractiveSummary:
    """What was written."""

    path: Path
    num_documents: int
    num_sentences: int
    num_chosen: int  # sentences of label 1

    def __str__(self) -> str:
        share = self.num_chosen / self.num_sentences
        return (
            f"{self.path}: {self.num_sentences:,} sentences of {self.num_documents:,} documents, "
            f"{self.num_chosen:,} in their summaries ({share:.1%})"
        )


def build_extractive(
    source: Source, out: Path, *, document: str, summary: str, max_sentences: int | None = None
) -> ExtractiveSummary:
    """Write the sentences of the documents in `source`, as CSV with the header of COLUMNS.

    Column `document` holds a text, which is split where sentences seem to end, or a list of sentences; `summary` the
    reference summary, likewise. A document is known by the number of its data row, and at most `max_sentences` of its
    sentences get the label 1. Raises DataError with the row, or ConfigError where `out` cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: found a folder, expected the CSV file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(out) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="", errors="replace") as file,
        ):
            counts = _write(file, _documents(source, document, summary), most=max_sentences)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    return ExtractiveSummary(path=out, num_documents=counts[0], num_sentences=counts[1], num_chosen=counts[2])


def choose_sentences(sentences: Sequence[str], reference: Sequence[str], *, most: int | None = None) -> set[int]:
    """Return the positions that the greedy oracle takes, at most `most`; of equal sentences it takes the first."""
    wanted = [_count(reference, size) for size in (1, 2)]
    counts = [[_count([sentence], size) for size in (1, 2)] for sentence in sentences]
    taken: list[Ngrams] = [Counter(), Counter()]
    chosen: set[int] = set()
    best = 0.0
    while most is None or len(chosen) < most:
        scores = {
            position: sum(
                _f1(mine + new, other) for mine, new, other in zip(taken, counts[position], wanted, strict=True)
            )
            for position in range(len(sentences))
            if position not in chosen
        }
        position = max(scores, key=scores.__getitem__, default=None)
        if position is None or scores[position] <= best:
            break
        best = scores[position]
        chosen.add(position)
        taken = [mine + new for mine, new in zip(taken, counts[position], strict=True)]
    return chosen


def split_sentences(text: str) -> list[str]:
    """Split a text after . ! ? and their like before white space, and at empty lines; abbreviations end one too."""
    starts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    parts = (" ".join(text[start:end].split()) for start, end in pairwise(starts))
    return [part for part in parts if part]


def _count(sentences: Iterable[str], size: int) -> Ngrams:
    """Count the n-grams of words; none reaches over the end of a sentence."""
    words = (_WORD.findall(sentence.lower()) for sentence in sentences)
    return Counter(gram for each in words for gram in zip(*(each[start:] for start in range(size)), strict=False))


def _f1(taken: Ngrams, wanted: Ngrams) -> float:
    total = taken.total() + wanted.total()
    return 2 * (taken & wanted).total() / total if total else 0.0


def _rows(document: int, sentences: Sequence[str], chosen: set[int]) -> Iterator[tuple[object, ...]]:
    around = ["", *sentences, ""]
    for position, sentence in enumerate(sentences):
        yield document, position + 1, around[position], sentence, around[position + 2], int(position in chosen)


def _write(
    file: TextIO, documents: Iterable[tuple[int, list[str], list[str]]], *, most: int | None
) -> tuple[int, int, int]:
    """Write the rows of all documents; return how many documents, sentences and chosen sentences there are."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    num_documents = num_sentences = num_chosen = 0
    for number, sentences, reference in documents:
        chosen = choose_sentences(sentences, reference, most=most)
        writer.writerows(_rows(number, sentences, chosen))
        num_documents, num_sentences = num_documents + 1, num_sentences + len(sentences)
        num_chosen += len(chosen)
    return num_documents, num_sentences, num_chosen


def _documents(source: Source, document: str, summary: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield each data row's number, the document's sentences and the summary's."""
    for chunk in read_chunks(source, rows=DOCUMENTS_AT_ONCE):
        names = list(map(str, chunk.table.columns))
        for name in (document, summary):
            if name not in names:
                raise DataError(f"{source.path}: there is no column {name!r}; {suggestion(name, names)}")
            if names.count(name) > 1:
                raise DataError(f"{source.path}: the header names column {name!r} more than once")
        pairs = zip(chunk.table[document], chunk.table[summary], strict=True)
        for row, cells in enumerate(pairs, start=chunk.first):
            texts = [
                _sentences(cell, where=f"{source.path}: column {name!r} in data row {row}")
                for cell, name in zip(cells, (document, summary), strict=True)
            ]
            yield row, texts[0], texts[1]


def _sentences(cell: Any, *, where: str) -> list[str]:
    """Return the sentences of a text, or those of a list as they are."""
    if isinstance(cell, str):
        sentences = split_sentences(cell)
    elif isinstance(cell, list) and all(isinstance(part, str) for part in cell):
        sentences = [" ".join(part.split()) for part in cell if part.strip()]
    else:
        raise DataError(f"{where}: found {shown(cell)}, expected text or a list of sentences")
    if not sentences:
        raise DataError(f"{where} is empty")
    return sentences
