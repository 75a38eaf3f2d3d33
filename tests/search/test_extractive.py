"""Documents with reference summaries become sentences labelled by the greedy ROUGE oracle, and stay together."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.folds import assign_folds, small_classes
from fold_search.objectives.data.spec import DataSpec
from fold_search.search.cli import app
from fold_search.search.drafting.extractive import choose_sentences, split_sentences

STORMS = {
    "text": "The storm came at night. It took the roof of the school! Nobody was hurt. Pupils stay at home.",
    "summary": "A storm took the roof of the school. Pupils stay at home.",
}
LISTED = {"text": ["First of all.", "Then  this. And that"], "summary": ["Nothing in common"]}


@pytest.fixture
def run(tmp_path: Path):
    """Write the lines and make the set; the result, and the rows of the file if there is one."""

    def run(*records: object, **options: str) -> tuple[Result, list[dict[str, str]]]:
        source, out = tmp_path / "documents.jsonl", tmp_path / "sets" / "sentences.csv"
        source.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
        given = {"document": "text", "summary": "summary", "out": str(out), **options}
        arguments = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
        result = CliRunner().invoke(app, ["data", "extractive", str(source), *arguments])
        rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines())) if out.exists() else []
        return result, rows

    return run


def test_each_sentence_is_a_row_with_its_neighbours(run):
    """The sentences of a list stay as they are; a document is known by its data row."""
    result, rows = run(STORMS, LISTED)
    assert result.exit_code == 0, result.output
    assert [row["sentence"] for row in rows] == [
        *split_sentences(STORMS["text"]),
        "First of all.",
        "Then this. And that",
    ]
    assert rows[1] == {
        "document": "1",
        "position": "2",
        "previous": "The storm came at night.",
        "sentence": "It took the roof of the school!",
        "next": "Nobody was hurt.",
        "label": "1",
    }
    assert [row["label"] for row in rows] == ["0", "1", "0", "1", "0", "0"]
    assert "6 sentences of 2 documents, 2 in their summaries (33.3%)" in result.output


def test_at_most_so_many_sentences_are_marked(run):
    """The one that alone says most is."""
    _, rows = run(STORMS, max_sentences="1")
    assert [row["label"] for row in rows] == ["0", "1", "0", "0"]


def test_the_oracle_takes_what_raises_the_score_most_until_none_does():
    """What was said already raises recall no more, and costs precision; of equals the first is taken."""
    reference = ["the cat sat on the mat", "a dog barked"]
    sentences = [
        "A dog barked loudly",
        "the cat sat on the mat",
        "The cat sat on the mat.",
        "the dog",
        "unrelated words",
    ]
    assert choose_sentences(sentences, reference) == {0, 1}
    assert choose_sentences(sentences, reference, most=1) == {1}
    assert choose_sentences(["nothing alike"], reference) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('He said "no." Then 3.5 left! Why?', ['He said "no."', "Then 3.5 left!", "Why?"]),
        ("한국어 문장이다. 둘째 문장.", ["한국어 문장이다.", "둘째 문장."]),
        ("「はい。」次の文。", ["「はい。」", "次の文。"]),
        ("A heading\n\nwithout an\nend", ["A heading", "without an end"]),
        (" \n ", []),
    ],
)
def test_sentences_end_at_their_marks_and_at_empty_lines(text, expected):
    """In several scripts; a number's point ends none."""
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"txt": "One.", "summary": "One."}, "there is no column 'text'; did you mean txt?"),
        ({"text": "One.", "summary": " "}, "column 'summary' in data row 2 is empty"),
        (
            {"text": {"a": "b"}, "summary": "One."},
            'data row 2: found {"a": "b"}, expected text or a list of sentences',
        ),
        ('{"text": ', "line 2 is not JSON"),
    ],
)
def test_bad_documents_are_refused(run, record, expected):
    """In one line with the row, and nothing is written."""
    result, rows = run(*([STORMS] if "txt" not in record else []), record)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert expected in result.output
    assert rows == []


def test_a_document_stays_in_one_fold(run, tmp_path):
    """And no class counts as small because no document has most rows of it."""
    run(*[STORMS] * 9)
    spec = DataSpec(path=tmp_path / "sets" / "sentences.csv", label="label", text="sentence", group="document")
    dataset = read_dataset(spec)
    folds = assign_folds(dataset.strata, dataset.groups, num_folds=3, seed=0, stratified=True)
    assert len(set(zip(dataset.groups.tolist(), folds.tolist(), strict=True))) == 9
    assert sorted(folds.tolist()) == sorted([0, 1, 2] * 12)
    assert small_classes(dataset.strata, dataset.groups, 3) == []
