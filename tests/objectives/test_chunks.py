"""A file read in chunks is the file read at once, in whatever format, and as strictly."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from fold_search.objectives.data.dataset import content_of, read_chunks, read_table
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError

ROWS = [{"text": f'line {row},\n"quoted" \u00e9', "label": "ab"[row % 2], "number": str(row)} for row in range(23)]


def spec_of(path: Path) -> DataSpec:
    return DataSpec(path=path, label="label", text=("text",))


def write(path: Path) -> Path:
    table = pd.DataFrame(ROWS)
    if path.name.startswith("rows.parquet"):
        content = table.to_parquet(row_group_size=9)
    elif path.name.startswith("rows.jsonl"):
        content = "\n".join(json.dumps(row) for row in ROWS).encode()
    else:
        content = table.to_csv(index=False, sep="\t" if ".tsv" in path.name else ",").encode("utf-8-sig")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("rows", [1, 10, 100])
def test_chunks_are_the_file(tmp_path: Path, ending: str, zipped: str, rows: int):
    """The rows, their numbers and how much of the file is read."""
    spec = spec_of(write(tmp_path / f"rows.{ending}{zipped}"))
    chunks = list(read_chunks(spec, rows=rows))
    pd.testing.assert_frame_equal(pd.concat([chunk.table for chunk in chunks], ignore_index=True), read_table(spec))
    assert max(len(chunk.table) for chunk in chunks) <= rows
    numbers = [number for chunk in chunks for number in content_of(chunk.table, spec, first=chunk.first).rows.tolist()]
    assert numbers == list(range(1, 24))
    assert chunks[-1].share_read == 1


def test_a_jsonl_key_that_later_rows_lack_is_empty_there(tmp_path: Path):
    """As when the file is read at once."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "more": 1}\n{"text": "b"}\n')
    assert [chunk.table["more"].tolist() for chunk in read_chunks(spec_of(path), rows=1)] == [["1"], [""]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", None, "there is no such file"),
        ("rows.csv", b"", "the file is empty"),
        ("rows.csv", b"text,label\n", "there are no data rows"),
        ("rows.csv", b"text,label\na,b\na,b\na,b,c\n", "data row 3 has 3 cells, expected 2"),
        ("rows.csv", b"text,label\ncaf\xe9,b\n", "not UTF-8: byte 0xe9"),
        ("rows.csv.gz", gzip.compress(b"text,label\na,b\n", mtime=0)[:-6], "damaged gzip file"),
        ("rows.csv.gz", b"text,label\na,b\n", "damaged gzip file"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("rows.parquet", b"PAR1 and nothing", "not a readable Parquet file"),
        ("rows.txt", b"text", "the name does not tell the format"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes | None, expected: str):
    """With the place, as soon as it is reached."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=expected) as refused:
        list(read_chunks(spec_of(path), rows=2))
    assert str(path) in str(refused.value)


def test_a_nested_cell_is_named_by_its_row_in_the_file(tmp_path: Path):
    """Not by its row in the chunk."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 5 + '{"text": ["b"]}\n')
    spec = spec_of(path)
    with pytest.raises(DataError, match="data row 6"):
        [content_of(chunk.table, spec, first=chunk.first) for chunk in read_chunks(spec, rows=4)]
