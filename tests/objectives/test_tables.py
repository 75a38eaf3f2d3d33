"""A column is the same cells in every format; NaN is an empty one; a name matters only where it is asked for."""

import csv
import datetime
import decimal
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fold_search.objectives.data.dataset import read_chunks, read_dataset, read_table
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError

FORMATS = ["csv", "tsv", "jsonl", "parquet"]


def spec_of(path: Path, **settings: Any) -> DataSpec:
    return DataSpec(**{"path": path, "label": "label", "text": ("text",), **settings})


def cells_of(path: Path, name: str = "label") -> list[str]:
    """A column's cells; the same at once and in parts."""
    cells = read_table(spec_of(path))[name].tolist()
    assert [cell for chunk in read_chunks(spec_of(path), rows=2) for cell in chunk.table[name]] == cells
    return cells


def write(path: Path, column: pd.Series) -> Path:
    """Write a label column as pandas does, JSON as Python does."""
    frame = pd.DataFrame({"text": [f"text {row}" for row in range(len(column))], "label": column})
    match path.suffix:
        case ".parquet":
            frame.to_parquet(path)
        case ".jsonl":
            records = frame.astype(object).to_dict(orient="records")
            path.write_text("\n".join(json.dumps(record, default=str) for record in records))
        case suffix:
            frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


DAYS = pd.to_datetime(["2024-01-31", "2024-02-01", "2024-01-31"])
COLUMNS = {
    "integers": (pd.Series([1, 2, 1]), ["1", "2", "1"]),
    "unsigned": (pd.Series([1, 255, 1], dtype="uint8"), ["1", "255", "1"]),
    "floats": (pd.Series([1.0, 2.5, 1.0]), ["1.0", "2.5", "1.0"]),
    "tiny and huge floats": (pd.Series([1e-5, 1e16, 123456789.0]), ["1e-05", "1e+16", "123456789.0"]),
    "single precision": (pd.Series([0.1, 2.0, 1 / 3], dtype="float32"), ["0.1", "2.0", "0.33333334"]),
    "integers with a gap": (pd.Series([1, None, 2]), ["1.0", "", "2.0"]),
    "integers that may have gaps": (pd.Series([1, None, 2], dtype="Int64"), ["1", "", "2"]),
    "infinite": (pd.Series([math.inf, -math.inf, math.nan]), ["inf", "-inf", ""]),
    "booleans": (pd.Series([True, False, True]), ["True", "False", "True"]),
    "booleans with a gap": (pd.Series([True, None, False], dtype="boolean"), ["True", "", "False"]),
    "texts": (pd.Series(["01", "NA", "nan"]), ["01", "NA", "nan"]),
    "texts with a gap": (pd.Series(["a", None, math.nan]), ["a", "", ""]),
    "categories": (pd.Series(["a", "b", None], dtype="category"), ["a", "b", ""]),
    "categories of numbers": (pd.Series([3, 1, 3], dtype="category"), ["3", "1", "3"]),
    "categories of floats": (pd.Series([3.0, 1.0, None], dtype="category"), ["3.0", "1.0", ""]),
    "categories of booleans": (pd.Series([True, False, None], dtype="category"), ["True", "False", ""]),
    "dates": (pd.Series([day.date() for day in DAYS]), ["2024-01-31", "2024-02-01", "2024-01-31"]),
    "decimals": (pd.Series([decimal.Decimal("1.50"), decimal.Decimal("2.00"), None]), ["1.50", "2.00", ""]),
    "times": (pd.Series([datetime.time(9, 30), datetime.time(0, 0), None]), ["09:30:00", "00:00:00", ""]),
}
# JSON has none of these: what writes it says what they are.
MOMENTS = {
    "days": (pd.Series(DAYS), ["2024-01-31", "2024-02-01", "2024-01-31"]),
    "days with a gap": (pd.Series([DAYS[0], pd.NaT, DAYS[1]]), ["2024-01-31", "", "2024-02-01"]),
    "moments": (
        pd.Series(pd.to_datetime(["2024-01-31 09:30:00", "2024-02-01 00:00:00", "2024-01-31 23:59:59"])),
        ["2024-01-31 09:30:00", "2024-02-01 00:00:00", "2024-01-31 23:59:59"],
    ),
    "moments in a zone": (
        pd.Series(DAYS.tz_localize("UTC")),
        ["2024-01-31 00:00:00+00:00", "2024-02-01 00:00:00+00:00", "2024-01-31 00:00:00+00:00"],
    ),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_the_same_in_every_format(tmp_path: Path, name: str, file_format: str):
    """As pandas writes it into CSV, but that no format has a gap that is a text."""
    column, expected = COLUMNS[name]
    if file_format == "jsonl" and name in ("single precision", "categories of booleans", "booleans with a gap"):
        column = (
            column.astype(object).where(column.notna(), None).map(lambda cell: getattr(cell, "item", lambda: cell)())
        )
    if file_format == "jsonl" and name == "single precision":
        column = pd.Series(list(map(float, expected)))
    assert cells_of(write(tmp_path / f"rows.{file_format}", column)) == expected


@pytest.mark.parametrize("file_format", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("name", MOMENTS)
def test_moments_are_the_same_where_a_format_has_them(tmp_path: Path, name: str, file_format: str):
    """Those that are all midnight are dates, as pandas has it, in every part of the file."""
    column, expected = MOMENTS[name]
    assert cells_of(write(tmp_path / f"rows.{file_format}", column)) == expected


@given(
    cells=st.lists(st.floats() | st.none(), min_size=1, max_size=8)
    | st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=8)
    | st.lists(st.booleans(), min_size=1, max_size=8)
    | st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=4), min_size=1, max_size=8)
)
def test_any_column_is_the_same_in_every_format(tmp_path_factory: pytest.TempPathFactory, cells: list):
    """Whatever its numbers, and with any of them missing."""
    folder = tmp_path_factory.getbasetemp()
    texts = [f"text {row}" for row in range(len(cells))]
    pyarrow.parquet.write_table(pa.table({"text": texts, "label": cells}), folder / "c.parquet")
    (folder / "c.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": cell}) for text, cell in zip(texts, cells, strict=True))
    )
    with (folder / "c.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows([("text", "label"), *zip(texts, cells, strict=True)])
    # What csv writes of a float that is none is the text nan.
    expected = ["" if cell == "nan" and not isinstance(cells[0], str) else cell for cell in cells_of(folder / "c.csv")]
    assert cells_of(folder / "c.jsonl") == expected
    assert cells_of(folder / "c.parquet") == expected


EMPTY = {
    "csv": ["NaN", ""],
    "tsv": ["NaN", ""],
    "jsonl": ["NaN", "null", '"NaN"', '""'],
    "parquet": [math.nan, None],
}


@pytest.mark.parametrize(("file_format", "cell"), [(name, cell) for name, cells in EMPTY.items() for cell in cells])
def test_what_is_no_number_is_an_empty_cell(tmp_path: Path, file_format: str, cell: Any):
    """Never a text or a class: refused as a label, empty as a text, in every format."""
    path = tmp_path / f"rows.{file_format}"
    if file_format == "parquet":
        floats = {name: [1.0, 2.0, cell] for name in ("text", "label", "other")}
        pyarrow.parquet.write_table(pa.table(floats | {"other": [1.0, 2.0, 1.0]}), path)
    elif file_format == "jsonl":
        path.write_text(
            "".join(f'{{"text": {a}, "label": {a}, "other": {b}}}\n' for a, b in ((1, 1), (2, 2), (cell, 1)))
        )
    else:
        d = {"csv": ",", "tsv": "\t"}[file_format]
        path.write_text(d.join(("text", "label", "other")) + f"\n1{d}1{d}1\n2{d}2{d}2\n{cell}{d}{cell}{d}1\n")
    assert read_table(spec_of(path))["text"].tolist()[2] == ""
    assert read_dataset(spec_of(path, label="other")).texts[2] == ""
    for task in ("classification", "regression"):
        with pytest.raises(DataError, match="the label column 'label' is empty in data row 3"):
            read_dataset(spec_of(path, task=task))


def test_nan_and_infinity_inside_of_cells_are_no_one_s_concern(tmp_path: Path):
    """Of lists that nobody reads."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "x", "label": Infinity, "more": [NaN, {"a": 1, "a": 2}]}\n{"text": "y", "label": -Infinity}\n'
    )
    assert read_dataset(spec_of(path)).label_names == ("-inf", "inf")


def with_names(path: Path, names: list[str]) -> Path:
    """Two rows under these names; the first cell is a text and the second a label."""
    rows = [["x", "a", "1", "2"], ["y", "b", "3", "4"]]
    match path.suffix:
        case ".parquet":
            columns = [pa.array([row[column] for row in rows]) for column in range(4)]
            pyarrow.parquet.write_table(pa.Table.from_arrays(columns, names=names), path)
        case ".jsonl":
            lines = [", ".join(f'"{name}": "{cell}"' for name, cell in zip(names, row, strict=True)) for row in rows]
            path.write_text("\n".join(f"{{{line}}}" for line in lines))
        case suffix:
            lines = [("," if suffix == ".csv" else "\t").join(row) for row in (names, *rows)]
            path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("names", [["text", "label", "", ""], ["text", "label", "x", "x"], ["text", "label", "", "x"]])
def test_names_that_repeat_or_are_empty_are_refused_only_where_asked_for(tmp_path: Path, file_format: str, names: list):
    """With the name; the other columns are read as ever."""
    path = with_names(tmp_path / f"rows.{file_format}", names)
    assert read_dataset(spec_of(path)).texts == ["x", "y"]
    assert sum(len(chunk.table) for chunk in read_chunks(spec_of(path), rows=1)) == 2
    for name in {name for name in names if names.count(name) > 1 and name}:
        for asked in ({"text": name}, {"label": name}, {"group": name}):
            with pytest.raises(DataError, match=f"{path.name}: .*'{name}' more than once"):
                read_dataset(spec_of(path, **asked))


def test_columns_of_parquet_that_no_text_can_be_made_of_stay_what_they_are(tmp_path: Path):
    """Where nobody reads them."""
    table = {"text": ["x", "y"], "label": ["a", "b"], "half": np.array([0.1, 1], np.float16), "raw": [b"\xff", b"\xfe"]}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "rows.parquet")
    assert read_dataset(spec_of(tmp_path / "rows.parquet")).texts == ["x", "y"]
    assert cells_of(tmp_path / "rows.parquet", "half") == ["0.1", "1.0"]
    with pytest.raises(DataError, match="column 'raw' holds a bytes"):
        read_dataset(spec_of(tmp_path / "rows.parquet", text="raw"))
