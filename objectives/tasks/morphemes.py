"""Korean words cut into morphemes: a tokenizer reads the text with a space at each border inside a word."""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.relations import Entity, Relation
from fold_search.objectives.errors import DataError
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.cache import Arrays, cached, digest

PACKAGES = ("kiwipiepy", "kiwipiepy_model")


def require_kiwi() -> None:
    """Raise DataError if the analyser is not installed."""
    if importlib.util.find_spec("kiwipiepy") is None:
        raise DataError("model.morphemes kiwi needs kiwipiepy; expected pip install 'fold-search[korean]'")


def cut_texts(texts: Sequence[str], *, cache: Path) -> list[str]:
    """Return the texts with a space at each border of morphemes. The borders are found once per study. DataError."""
    return [_spaced(text, places) for text, places in zip(texts, _find_borders(texts, cache=cache), strict=True)]


def cut_relations(relations: Sequence[Relation], *, cache: Path) -> list[Relation]:
    """Return the relations with their sentences cut as texts are. The entities keep their characters. DataError."""
    borders = _find_borders([relation.sentence for relation in relations], cache=cache)
    return [
        replace(
            relation,
            sentence=_spaced(relation.sentence, places),
            subject=_moved(relation.subject, places),
            object=_moved(relation.object, places),
        )
        for relation, places in zip(relations, borders, strict=True)
    ]


def _find_borders(texts: Sequence[str], *, cache: Path) -> list[NDArray[np.int64]]:
    """Return for each text the characters, rising, at which a morpheme begins inside a word."""
    require_kiwi()
    key = digest([*map(importlib.metadata.version, PACKAGES), *texts])

    def compute() -> Arrays:
        rows = []
        with stage("cutting rows into morphemes", total=len(texts)) as advance:
            for text, morphemes in zip(texts, _kiwi().tokenize(texts), strict=True):
                rows.append(_borders(text, morphemes))
                advance(1)
        places = np.array([place for row in rows for place in row], np.int64)
        return {"places": places, "offsets": np.cumsum([0, *map(len, rows)], dtype=np.int64)}

    arrays = cached(cache / f"morphemes-{key}", compute)
    return np.split(arrays["places"], arrays["offsets"][1:-1])


@functools.cache
def _kiwi() -> Any:
    """Its model takes seconds to load."""
    from kiwipiepy import Kiwi

    return Kiwi()


def _borders(text: str, morphemes: Sequence[Any]) -> list[int]:
    """Morphemes that share a character, as in a contraction, stay together."""
    borders, end = [], 0
    for morpheme in morphemes:
        start = morpheme.start
        if 0 < end <= start and morpheme.len and not text[start - 1].isspace():
            borders.append(start)
        end = max(end, start + morpheme.len)
    return borders


def _spaced(text: str, places: NDArray[np.int64]) -> str:
    ends = [0, *places.tolist(), len(text)]
    return " ".join(text[start:end] for start, end in pairwise(ends))


def _moved(entity: Entity, places: NDArray[np.int64]) -> Entity:
    """The same characters and the spaces between them, none before or after."""
    start = entity.start + int(np.searchsorted(places, entity.start, side="right"))
    end = entity.end + int(np.searchsorted(places, entity.end, side="left"))
    return replace(entity, start=start, end=end)
