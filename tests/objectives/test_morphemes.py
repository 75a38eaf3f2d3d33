"""Korean words cut into morphemes: the characters stay, spans move with them, tokens and caches follow."""

import importlib.util

import numpy as np
import pytest

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import content_of, read_table
from fold_search.objectives.data.relations import Entity, Relation
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError
from fold_search.objectives.tasks.morphemes import cut_relations, cut_texts
from fold_search.objectives.tasks.preparation import prepare
from tests.tiny_encoder import build_tiny_encoder

SENTENCES = (
    "관동군 731부대에서는 한국인들을 대상으로 실험을 하였다.",
    "그는 데뷔해 2002년에 상을 받았다.",
    "a text in English, (with 😀 signs)",
    "",
    "   ",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(build_tiny_encoder(tmp_path_factory.mktemp("encoder"), SENTENCES))


def test_words_are_cut_at_their_particles(cache):
    """What shares a character with the next stays with it, and but for the spaces nothing changes."""
    cut = cut_texts(SENTENCES, cache=cache)
    assert cut[0].startswith("관동군 731 부대 에서 는 한국인 들 을 ")
    assert "데뷔 해 2002 년 에" in cut[1]
    assert [text.replace(" ", "") for text in cut] == [text.replace(" ", "") for text in SENTENCES]
    assert cut[3:] == list(SENTENCES[3:])


def test_entities_keep_their_characters(cache):
    """A span within a word, one that ends at a border, and one that spaces now run through."""
    sentence = SENTENCES[0]
    spans = [(4, 9), (4, 12), (9, 11), (0, 3), (13, 18), (0, len(sentence))]
    relations = [Relation(sentence, Entity(*spans[0], "A"), Entity(*span, "B")) for span in spans]
    for relation, (start, end) in zip(cut_relations(relations, cache=cache), spans, strict=True):
        found = relation.sentence[relation.object.start : relation.object.end]
        assert found == found.strip()
        assert found.replace(" ", "") == sentence[start:end].replace(" ", "")
        assert relation.object.type == "B"


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ({"text": ("sentence",)}, {}),
        ({"text": ("sentence", "subject")}, {"architecture": "columns"}),
        ({"relation": RelationSpec()}, {"entity_form": "markers"}),
    ],
    ids=["text", "columns", "relation"],
)
def test_every_kind_of_text_is_read_cut(tmp_path, encoder, spec, model):
    """More tokens at the place of a border, and a cache of its own beside that of the uncut rows."""
    path = tmp_path / "rows.csv"
    names = RelationSpec().columns
    path.write_text(f'{",".join(names)}\n"{SENTENCES[0]}",731부대,4,8,ORG,한국인,13,15,PER\n')
    content = content_of(read_table(rows := DataSpec(path=path, label="label", **spec)), rows)

    def tokens(morphemes: str) -> np.ndarray:
        params = ModelParams(encoder=encoder, morphemes=morphemes, **model)
        prepared = prepare(content, params=params, max_length=64, cache=tmp_path / "cache", device="cpu")
        return (prepared.columns["sentence"] if hasattr(prepared, "columns") else prepared).tokens.ids

    plain, cut = tokens("none"), tokens("kiwi")
    assert cut.tolist() != plain.tolist()
    assert tokens("none").tolist() == plain.tolist()


def test_a_missing_extra_is_named(cache, monkeypatch):
    """With what installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'fold-search\[korean\]'"):
        cut_texts(["가나"], cache=cache)
