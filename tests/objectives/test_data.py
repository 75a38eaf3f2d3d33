"""Reading rows: every format gives the same ones, and every damage is named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from objectives.data import DataSpec, group_texts, read_dataset, read_table
from objectives.errors import DataError

ROWS = [
    {"title": "Übung", "body": 'says "no",\nthen yes', "label": "01"},
    {"title": "NA", "body": "", "label": "NA"},
    {"title": "three", "body": "one\ttab", "label": "01"},
]


def write(path: Path) -> Path:
    """Write ROWS in the format that the name tells."""
    frame = pd.DataFrame(ROWS)
    suffixes = path.suffixes
    plain = path.with_suffix("") if suffixes[-1] == ".gz" else path
    if suffixes[0] == ".parquet":
        frame.to_parquet(plain)
    elif suffixes[0] == ".jsonl":
        frame.to_json(plain, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_csv(plain, index=False, sep="\t" if suffixes[0] == ".tsv" else ",")
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def spec_of(path: Path, **settings) -> DataSpec:
    return DataSpec(**{"path": path, "label": "label", "text": ["title", "body"], **settings})


def error_of(path: Path, **settings) -> str:
    """Return what is wrong with the file, after its name."""
    with pytest.raises(DataError) as caught:
        read_dataset(spec_of(path, **settings))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def csv(tmp_path: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


FORMATS = [f"rows.{kind}{gz}" for kind in ("csv", "tsv", "jsonl", "parquet") for gz in ("", ".gz")]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_dataset(tmp_path, name):
    """Texts, labels and the fingerprint depend on the contents only; "01" and "NA" stay text."""
    dataset = read_dataset(spec_of(write(tmp_path / name)))
    assert dataset.texts == ['Übung says "no",\nthen yes', "NA", "three one\ttab"]
    assert dataset.label_names == ("01", "NA")
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.rows.tolist() == [1, 2, 3]
    assert dataset.fingerprint == read_dataset(spec_of(write(tmp_path / "other.csv"))).fingerprint


def test_fingerprint_changes_with_a_text_or_a_label(tmp_path):
    """One letter anywhere makes other data; where text ends and label begins counts."""
    contents = ["text,label\nab,c\nx,y", "text,label\na,bc\nx,y", "text,label\nab,c\nx,z"]
    datasets = [read_dataset(spec_of(csv(tmp_path, content), text="text")) for content in contents]
    assert len({dataset.fingerprint for dataset in datasets}) == 3


def test_one_text_column_may_be_given_as_a_string():
    """`text: body` is `text: [body]`."""
    assert spec_of(Path("rows.csv"), text="body").text == ("body",)


def test_unknown_settings_and_no_text_are_refused():
    """The section has no other keys and needs a text column."""
    with pytest.raises(ValidationError, match="extra_forbidden"):
        spec_of(Path("rows.csv"), sep=";")
    with pytest.raises(ValidationError, match="too_short"):
        spec_of(Path("rows.csv"), text=[])


def test_columns_are_joined_by_the_separator_without_empty_cells(tmp_path):
    """An empty cell leaves no separator behind."""
    dataset = read_dataset(spec_of(write(tmp_path / "rows.csv"), separator=" | "))
    assert dataset.texts[1:] == ["NA", "three | one\ttab"]


def test_rows_without_text_stay_and_are_counted(tmp_path):
    """An empty text is a row like any other; all of them are duplicates."""
    dataset = read_dataset(spec_of(csv(tmp_path, "text,label\n,a\n  ,b\nx,a"), text="text"))
    assert dataset.num_empty_texts == 2
    assert dataset.groups.tolist() == [0, 0, 1]


def test_texts_that_differ_in_case_and_space_share_a_group():
    """Such rows must not be in two folds."""
    assert group_texts(["Free  Prize", "other", "free prize\n", "freeprize"]).tolist() == [0, 1, 0, 2]


def test_byte_order_mark_and_blank_lines_are_no_content(tmp_path):
    """What spreadsheets add is not read as a column or a row."""
    dataset = read_dataset(spec_of(csv(tmp_path, "\ufefftext,label\r\nx,a\r\n\r\ny,b\r\n"), text="text"))
    assert dataset.texts == ["x", "y"]


def test_format_may_be_given_where_the_name_tells_none(tmp_path):
    """`format` wins over the name."""
    path = csv(tmp_path, "text,label\nx,a\ny,b", name="rows.data")
    assert read_dataset(spec_of(path, text="text", format="csv")).texts == ["x", "y"]
    assert error_of(path, text="text").startswith("the name does not tell the format; expected .csv, .tsv")


def test_json_numbers_stay_as_they_are_written(tmp_path):
    """1.0 is not 1, and a missing key is an empty cell."""
    path = csv(tmp_path, '{"label": 1.0, "text": true}\n{"label": 1}\n\n{"label": 1.0, "text": null}', "rows.jsonl")
    dataset = read_dataset(spec_of(path, text="text"))
    assert dataset.label_names == ("1", "1.0")
    assert dataset.texts == ["true", "", ""]


def test_nested_cells_are_refused_only_in_columns_that_are_used(tmp_path):
    """A list is no text, and no matter where nobody reads it."""
    lines = [json.dumps({"text": name, "label": name, "tags": ["x"]}) for name in "ab"]
    path = csv(tmp_path, "\n".join(lines), "rows.jsonl")
    assert read_dataset(spec_of(path, text="text")).texts == ["a", "b"]
    assert error_of(path, text="tags") == "column 'tags' holds a list in data row 1; expected text"


def test_parquet_columns_of_any_plain_type_are_read_as_text(tmp_path):
    """Whole numbers, booleans and missing values arrive as JSON would write them; lists are refused where used."""
    frame = pd.DataFrame({"text": [None, "x"], "label": [1, 2], "flag": [True, False], "tags": [["a"], ["b"]]})
    frame.to_parquet(tmp_path / "rows.parquet")
    table = read_table(spec_of(tmp_path / "rows.parquet"))
    assert table[["text", "label", "flag"]].to_numpy().tolist() == [["", "1", "true"], ["x", "2", "false"]]
    assert error_of(tmp_path / "rows.parquet", text="tags").startswith("column 'tags' holds a list")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("text,label\n", "there are no data rows"),
        ("text,label\nx,a\ny,a", "column 'label' holds one class only ('a'); at least two are needed"),
        ("text,labels\nx,a\ny,b", "there is no column 'label'; did you mean 'labels'?"),
        ("text,y\nx,a\ny,b", "there is no column 'label'; there are 'text', 'y'"),
        ("text,label\nx,a\ny,b,c", "data row 2 has 3 cells, expected 2 as in the header"),
        ("text,label\nx,a\ny", "data row 2 has 1 cells, expected 2 as in the header"),
        ('text,label\nx,a\n"y,b', "line 3: unexpected end of data"),
        ("text,label,text\nx,a,y", "the header names column 'text' more than once"),
        ("text,label\nx,\ny,b\nz, ", "the label column 'label' is empty in data rows 1, 3"),
        (b"text,label\nx,a\n\xe4,b", "not UTF-8: byte 0xe4 at position 15, line 3"),
    ],
)
def test_damage_to_a_csv_file_is_named(tmp_path, content, message):
    """One line says what was found and where."""
    assert error_of(csv(tmp_path, content), text="text") == message


def test_many_empty_labels_are_counted_not_listed(tmp_path):
    """The first five rows are named."""
    path = csv(tmp_path, "text,label\n" + "x,\n" * 8 + "y,b")
    assert error_of(path, text="text") == "the label column 'label' is empty in data rows 1, 2, 3, 4, 5 and 3 more"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 'x'}", "line 2 is not JSON: Expecting property name enclosed in double quotes at character 1"),
        ("[1, 2]", "line 2 is not a JSON object"),
        ('{"text": "\\ud800"}', "line 2 holds half of a surrogate pair"),
    ],
)
def test_damage_to_a_jsonl_file_is_named(tmp_path, line, message):
    """The line number is that of the file."""
    assert error_of(csv(tmp_path, f'{{"text": "x", "label": "a"}}\n{line}', "rows.jsonl"), text="text") == message


def test_missing_file_and_folder_are_named(tmp_path):
    """What cannot be opened is said in one line."""
    assert error_of(tmp_path / "none.csv") == "there is no such file"
    (tmp_path / "folder.csv").mkdir()
    assert error_of(tmp_path / "folder.csv") == "cannot be read: Is a directory"


@pytest.mark.parametrize("size", [5, 60])
def test_damaged_gzip_is_named(tmp_path, size):
    """A file that was cut short is an error, not fewer rows."""
    path = write(tmp_path / "rows.csv.gz")
    path.write_bytes(path.read_bytes()[:size])
    assert error_of(path).startswith("damaged gzip file: ")


def test_gzip_with_damaged_contents_is_named(tmp_path):
    """The checksum inside the file is looked at."""
    path = write(tmp_path / "rows.csv.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert error_of(path).startswith("damaged gzip file: ")


def test_damaged_parquet_is_named(tmp_path):
    """Half a file has no footer."""
    path = write(tmp_path / "rows.parquet")
    path.write_bytes(path.read_bytes()[:100])
    assert error_of(path).startswith("not a readable Parquet file: ")


def test_long_cells_are_read_whole(tmp_path):
    """A text may have more than the csv module's 131,072 characters."""
    path = csv(tmp_path, f"text,label\n{'x' * 200_000},a\ny,b")
    assert np.array([len(text) for text in read_dataset(spec_of(path, text="text")).texts]).tolist() == [200_000, 1]
