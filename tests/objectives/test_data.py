"""Reading rows: every format gives the same ones, and every damage is named."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fold_search.objectives.data.dataset import Dataset, read_dataset, read_table
from fold_search.objectives.data.folds import EXTRA, split
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError

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


def test_rows_stay_together_by_the_group_column(tmp_path):
    """However their texts differ, and equal texts of two documents do not; names may differ in case, not in blanks."""
    path = csv(tmp_path, "text,label,document\na,x,D1\nb,y,D1 \na,x,d1\nb,y,\u00dc2")
    extra = csv(tmp_path, "text,label,document\nc,x,U\u0308\u200b2", "extra.csv")
    dataset = read_dataset(spec_of(path, text="text", group="document", extra=extra))
    first, second, other, last, more = dataset.groups.tolist()
    assert first == second
    assert last == more
    assert len({first, other, last}) == 3
    assert "document" not in dataset.columns


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label,document\na,x,D1\nb,y,", "the group column 'document' is empty in data row 2"),
        ("text,label,documents\na,x,D1\nb,y,D2", "there is no column 'document'; did you mean 'documents'?"),
    ],
)
def test_a_row_without_a_group_is_refused(tmp_path, content, expected):
    """It could be of any document."""
    assert expected in error_of(csv(tmp_path, content), text="text", group="document")


def test_fingerprint_changes_with_a_text_or_a_label(tmp_path):
    """One letter anywhere makes other data; where text ends and label begins counts."""
    contents = ["text,label\nab,c\nx,y", "text,label\na,bc\nx,y", "text,label\nab,c\nx,z"]
    datasets = [read_dataset(spec_of(csv(tmp_path, content), text="text")) for content in contents]
    assert len({dataset.fingerprint for dataset in datasets}) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_the_same_rows_in_parts_of_any_size(tmp_path, monkeypatch, name):
    """Texts, labels, groups and fingerprint; what is wrong is named by its row of the file, not of the part."""
    spec = spec_of(write(tmp_path / name))
    whole = read_dataset(spec)
    monkeypatch.setattr("fold_search.objectives.data.dataset.ROWS_PER_CHUNK", 2)
    parts = read_dataset(spec)
    assert (parts.texts, parts.columns, parts.fingerprint) == (whole.texts, whole.columns, whole.fingerprint)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.groups, whole.groups)
    rows = "text,label\n" + "x,a\n" * 5 + "y\n"
    assert error_of(csv(tmp_path, rows), text="text") == "data row 6 has 1 cells, expected 2 as in the header"


def test_one_text_column_may_be_given_as_a_string():
    """`text: body` is `text: [body]`."""
    assert spec_of(Path("rows.csv"), text="body").text == ("body",)


def test_unknown_settings_and_no_text_are_refused():
    """The section has no other keys and needs a text column."""
    with pytest.raises(ValidationError, match="extra_forbidden"):
        spec_of(Path("rows.csv"), sep=";")
    with pytest.raises(ValidationError, match="expected a column"):
        spec_of(Path("rows.csv"), text=[])


def test_columns_are_joined_by_the_separator_without_empty_cells(tmp_path):
    """An empty cell leaves no separator behind."""
    dataset = read_dataset(spec_of(write(tmp_path / "rows.csv"), separator=" | "))
    assert dataset.texts[1:] == ["NA", "three | one\ttab"]


def test_rows_without_text_stay(tmp_path):
    """An empty text is a row like any other; all of them are duplicates."""
    dataset = read_dataset(spec_of(csv(tmp_path, "text,label\n,a\n  ,b\nx,a"), text="text"))
    assert len(dataset.texts) == 3
    assert dataset.groups.tolist() == [0, 0, 1]


def test_rows_are_the_same_by_what_is_read_of_all_their_columns(tmp_path):
    """A blank cell is an empty one, and where a column ends does not matter to who reads the joined text."""
    rows = ["a|b c|x", "A| b\u00a0c|y", "a b|c|x", "ab|c|y", "a|\u200b|x", " |A|y"]
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(["title|body|label", *rows, ""]).replace("|", "\t"))
    assert read_dataset(spec_of(path)).groups.tolist() == [0, 0, 0, 1, 2, 2]
    assert read_dataset(spec_of(path, separator=" | ")).groups.tolist() == [0, 0, 1, 2, 3, 3]


def test_extra_rows_are_the_same_by_the_same_form(tmp_path):
    """Such a row is left out of the fold that validates the other; by data.group too, whatever its document."""
    path = csv(tmp_path, "text,label,document\n\ud55c\uae00,a,1\nb,b,2\nc,b,3")
    extra = csv(tmp_path, "text,label,document\n\u1112\u1161\u11ab\u1100\u1173\u11af,a,4", "extra.csv")
    for settings in ({}, {"group": "document"}):
        rows = read_dataset(spec_of(path, text="text", extra=extra, **settings))
        folds = np.array([0, 1, 0, EXTRA], np.int16)
        assert split(folds, rows.groups, 0, contents=rows.contents)[0].tolist() == [1]
        assert split(folds, rows.groups, 1, contents=rows.contents)[0].tolist() == [0, 2, 3]


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
    assert dataset.texts == ["True", "", ""]


def test_nested_cells_are_refused_only_in_columns_that_are_used(tmp_path):
    """A list is no text, and no matter where nobody reads it."""
    lines = [json.dumps({"text": name, "label": name, "tags": ["x"]}) for name in "ab"]
    path = csv(tmp_path, "\n".join(lines), "rows.jsonl")
    assert read_dataset(spec_of(path, text="text")).texts == ["a", "b"]
    assert error_of(path, text="tags") == "column 'tags' holds a list in data row 1; expected text"


def test_parquet_columns_of_any_plain_type_are_read_as_text(tmp_path):
    """Whole numbers, booleans and missing values are as pandas writes them into CSV; lists are refused where used."""
    frame = pd.DataFrame({"text": [None, "x"], "label": [1, 2], "flag": [True, False], "tags": [["a"], ["b"]]})
    frame.to_parquet(tmp_path / "rows.parquet")
    table = read_table(spec_of(tmp_path / "rows.parquet"))
    assert table[["text", "label", "flag"]].to_numpy().tolist() == [["", "1", "True"], ["x", "2", "False"]]
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
        (
            'text,label\nx,a\n"y, z,b',
            "line 3: the quote that opens a cell here is not closed correctly: unexpected end of data",
        ),
        ("text,label,text\nx,a,y", "the header names column 'text' more than once"),
        ("text,label\nx,\ny,b\nz, ", "the label column 'label' is empty in data rows 1, 3"),
        (
            b"text,label\nx,a\n\xe4,b",
            "not UTF-8: byte 0xe4 at position 15, line 3; data.encoding cp1252 reads 'ä,b'",
        ),
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
        ('{"\\ud800": "text"}', "line 2 holds half of a surrogate pair"),
        ('{"text": ' + "[" * 100_000, "line 2 is nested too deeply"),
        ('{"text": "x", "text": "y", "label": "a"}', "data row 2 has the key 'text' more than once"),
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


def with_extra(tmp_path: Path, extra: str, *, main: str = "text,label\nx,cat\ny,dog\nz,cat", **settings) -> Dataset:
    paths = {"path": csv(tmp_path, main), "extra": csv(tmp_path, extra, "extra.csv")}
    return read_dataset(DataSpec(**paths, label="label", text="text", **settings))


def test_extra_rows_stand_at_the_end_and_share_groups(tmp_path):
    """They are numbered as in their own file, and repeat the texts of the others."""
    dataset = with_extra(tmp_path, "label,text\ndog,X\ncat,new")
    assert (dataset.num_extra, dataset.rows.tolist()) == (2, [1, 2, 3, 1, 2])
    assert dataset.texts == ["x", "y", "z", "X", "new"]
    assert [dataset.label_names[label] for label in dataset.labels] == ["cat", "dog", "cat", "dog", "cat"]
    assert dataset.groups.tolist() == [0, 1, 2, 0, 3]
    assert dataset.strata.tolist() == dataset.labels.tolist()


def test_fingerprint_covers_extra_rows(tmp_path):
    """Without extra rows it is as ever, and a row counts as another one once it is only trained on."""
    plain = read_dataset(spec_of(csv(tmp_path, "text,label\nx,cat\ny,dog"), text="text")).fingerprint
    assert plain == hashlib.sha256(b"1:x3:cat1:y3:dog").hexdigest()
    contents = [("x,cat\ny,dog", "z,cat"), ("x,cat\ny,dog\nz,cat", "z,cat"), ("x,cat\ny,dog", "z,cat\nz,cat")]
    prints = {
        with_extra(tmp_path, f"text,label\n{extra}", main=f"text,label\n{main}").fingerprint for main, extra in contents
    }
    assert len(prints | {plain}) == 4


def test_extra_rows_may_come_in_another_format(tmp_path):
    """The name tells it; `format` is for names that do not."""
    main = csv(tmp_path, "text,label\nx,cat\ny,dog", "main.data")
    extra = csv(tmp_path, '{"text": "z", "label": "dog"}', "extra.jsonl")
    assert read_dataset(spec_of(main, extra=extra, text="text", format="csv")).texts == ["x", "y", "z"]
    same = csv(tmp_path, "text,label\nz,dog", "extra.data")
    assert read_dataset(spec_of(main, extra=same, text="text", format="csv")).texts == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("text,label\nx,cat\ny,cart", "data row 2 is of class 'cart', of which {main} has no row; did you mean 'cat'?"),
        ("text,label\nx,7", "data row 1 is of class '7', of which {main} has no row; there are 'cat', 'dog'"),
        ("text,label\nx,", "the label column 'label' is empty in data row 1"),
        ("text,labels\nx,cat", "there is no column 'label'; did you mean 'labels'?"),
        ("text,label\n", "there are no data rows"),
    ],
)
def test_damage_to_extra_rows_names_their_file(tmp_path, extra, message):
    """What is wrong is looked for in the file that has it."""
    with pytest.raises(DataError) as caught:
        with_extra(tmp_path, extra)
    assert str(caught.value) == f"{tmp_path / 'extra.csv'}: {message.format(main=tmp_path / 'rows.csv')}"


def test_numeric_labels_are_numbers(tmp_path):
    """They have no names, and extra rows need not repeat any of them."""
    dataset = with_extra(tmp_path, "text,label\nz,1e3", main="text,label\nx, -1.5\ny,2\n", task="regression")
    assert dataset.labels.dtype == np.float64
    assert dataset.labels.tolist() == [-1.5, 2.0, 1000.0]
    assert dataset.label_names == ()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["1", "high", "2", "nan"],
            "column 'label' holds no finite number in data rows 2, 4: 'high', 'nan'; "
            "data.task regression needs one in every row",
        ),
        (["1", "1e999"], "column 'label' holds no finite number in data row 2: '1e999'; "),
        (["1", "1_000"], "column 'label' holds no finite number in data row 2: '1_000'; "),
        (
            ["1", *"abcdefgh"],
            "column 'label' holds no finite number in data rows 2, 3, 4, 5, 6 and 3 more: "
            "'a', 'b', 'c', 'd', 'e' and 3 more; ",
        ),
        (["1", ""], "the label column 'label' is empty in data row 2"),
        (["2", "2.0"], "column 'label' holds one number only (2.0); at least two are needed"),
    ],
)
def test_labels_that_are_no_numbers_are_named(tmp_path, labels, message):
    """Rows and what they hold; infinities and one number alone are refused, too."""
    path = csv(tmp_path, "text,label\n" + "\n".join(f"x,{label}" for label in labels))
    assert error_of(path, text="text", task="regression").startswith(message)


def strata_of(tmp_path: Path, numbers, extra=(0,)) -> np.ndarray:
    main, more = ("text,label\n" + "\n".join(f"x,{number}" for number in part) for part in (numbers, extra))
    return with_extra(tmp_path, more, main=main, task="regression").strata


def test_strata_of_numbers_are_their_tenths(tmp_path):
    """As pandas cuts them; extra rows lie where their number belongs and move no bound."""
    numbers = np.random.default_rng(0).lognormal(size=401)
    strata = strata_of(tmp_path, numbers, [-1e9, 1e9, *numbers[:20]])
    assert strata[:401].tolist() == pd.qcut(numbers, 10, labels=False).tolist()
    assert strata[401:].tolist() == [0, 9, *strata[:20]]


@given(
    numbers=st.lists(st.integers(0, 8), min_size=2, max_size=12).filter(lambda numbers: len(set(numbers)) > 1),
    times=st.integers(1, 20),
)
def test_strata_keep_equal_numbers_together_and_leave_none_out(tmp_path_factory, numbers, times):
    """They rise with the numbers, from 0 without a gap, in parts of twenty rows or so at least."""
    numbers = numbers * times
    strata, extra = np.split(strata_of(tmp_path_factory.mktemp("strata"), numbers, [-1, 99]), [len(numbers)])
    order = np.argsort(numbers, kind="stable")
    steps = np.diff(strata[order])
    assert extra.tolist() == [0, strata.max()] == [strata.min(), strata.max()]
    assert set(steps.tolist()) <= {0, 1}
    assert not steps[np.diff(np.array(numbers)[order]) == 0].any()
    assert strata.max() < max(1, len(numbers) // 20)
