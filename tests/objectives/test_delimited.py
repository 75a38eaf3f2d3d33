"""Quotes in CSV and TSV: no file ever gives fewer rows than it has without a word."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fold_search.objectives.data.dataset import read_chunks, read_dataset, read_table
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError, Misread

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = st.sampled_from(list(DELIMITERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delimited")


def rows_of(path: Path, content: str, **settings) -> list[list[str]]:
    """The header and the rows; the same at once and in parts."""
    path.write_text(content, encoding="utf-8", newline="")
    spec = DataSpec(path=path, label="label", text=("text",), **settings)
    table = read_table(spec)
    in_parts = [row for chunk in read_chunks(spec, rows=2) for row in chunk.table.to_numpy().tolist()]
    assert in_parts == table.to_numpy().tolist()
    return [list(table.columns), *in_parts]


def rows_or_refusal(path: Path, content: str) -> list[list[str]] | Misread:
    try:
        return rows_of(path, content)
    except Misread as refusal:
        return refusal


def written(rows: list[list[str]], *, delimiter: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\r\n") -> str:
    content = io.StringIO(newline="")
    csv.writer(content, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return content.getvalue()


def as_lines(content: str, delimiter: str) -> list[list[str]] | None:
    """Each line as a row, its quotes as text; None if they are of several lengths."""
    rows = [line.split(delimiter) for line in re.split(r"\r\n|\r|\n", content) if line.strip()]
    return rows if len({len(row) for row in rows}) == 1 else None


def tables(cells: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    """A header of plain names, and rows of as many cells that are not all blank."""
    widths = st.integers(1, 3)
    return widths.flatmap(
        lambda width: st.lists(
            st.lists(cells, min_size=width, max_size=width).filter(lambda row: any(cell.strip() for cell in row)),
            min_size=1,
            max_size=6,
        ).map(lambda rows: [[f"c{number}" for number in range(width)], *rows])
    )


QUOTED = st.text(st.sampled_from('ab" \t,\n\r'), max_size=6) | st.text(max_size=4)
RAW = st.text(st.sampled_from('ab "'), max_size=6)


@given(
    rows=tables(QUOTED.filter(lambda cell: "\0" not in cell and cell != "NaN")),
    file_format=FORMATS,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\r\n", "\n"]),
)
@example(rows=[["c0", "c1"], ["Hello, world\nfoo", "a"]], file_format="csv", quoting=csv.QUOTE_MINIMAL, end="\n")
def test_what_csv_writes_is_read_back(folder: Path, rows, file_format, quoting, end):
    """Or refused with its line, if it is as good a file without quotes, which then has other rows; never otherwise."""
    delimiter = DELIMITERS[file_format]
    if end == "\n":  # then Python leaves a carriage return without quotes
        rows = [[cell.replace("\r", "\n") for cell in row] for row in rows]
    content = written(rows, delimiter=delimiter, quoting=quoting, end=end)
    path = folder / f"rows.{file_format}"
    found = rows_or_refusal(path, content)
    if isinstance(found, Misread):
        assert found.setting == "quotes"
        assert quoting == csv.QUOTE_MINIMAL
        assert as_lines(content, delimiter) not in (None, rows)
    else:
        assert found == rows
    assert rows_of(path, content, quotes="on") == rows


def unquoted(row: list[str]) -> list[str]:
    """The row as CSV has it, if none of its quotes joins cells."""
    return [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in row]


@given(rows=tables(RAW), file_format=FORMATS, end=st.sampled_from(["\r\n", "\n"]))
@example(rows=[["c0", "c1"], ['"great film', "x"], ["b", "y"], ["a", '27"']], file_format="tsv", end="\n")
@example(rows=[["c0", "c1"], ["a", "x"], ['"great film', "y"], ["b", "x"]], file_format="csv", end="\n")
def test_stray_quotes_lose_no_rows(folder: Path, rows, file_format, end):
    """A file without quotes gives its rows, at most without the quotes around a whole cell; or the line is named."""
    delimiter = DELIMITERS[file_format]
    content = end.join(delimiter.join(row) for row in rows) + end
    path = folder / f"rows.{file_format}"
    found = rows_or_refusal(path, content)
    if isinstance(found, Misread):
        assert (found.setting, found.value) == ("quotes", "off")
        line = int(re.search(r": line (\d+): ", str(found))[1])
        assert any(cell.startswith('"') for cell in rows[line - 1])
    else:
        assert found in (rows, [unquoted(row) for row in rows])
    assert rows_of(path, content, quotes="off") == rows


RAW_ROWS = [[str(number), f"say {number}", str(number % 2)] for number in range(20)]


@pytest.mark.parametrize("file_format", DELIMITERS)
@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ({3: '"great film'}, None),
        ({3: '"great film', 9: 'of 27"'}, 5),
        ({3: '"great film', 9: 'of 27" screens'}, None),
        ({3: '"great" film', 9: '27"'}, None),
        ({0: '"'}, None),
        ({0: '"', 19: '"'}, 2),
        ({19: '"the end'}, None),
        ({3: '"all of it"', 5: '""', 7: 'the "end"'}, 0),
    ],
)
def test_quotes_of_a_text(tmp_path: Path, file_format: str, cells: dict[int, str], line: int | None):
    """All twenty rows as they are, or without quotes around whole cells (0), or the line of the first that opens."""
    rows = [[number, cells.get(int(number), text), label] for number, text, label in RAW_ROWS]
    content = "\n".join(DELIMITERS[file_format].join(row) for row in [["id", "text", "label"], *rows])
    path = tmp_path / f"rows.{file_format}"
    if line:
        with pytest.raises(
            Misread, match=rf"{path.name}: line {line}: a quote opens a cell here: .* 20 rows; expected data.quotes"
        ):
            rows_of(path, content)
    else:
        expected = rows if line is None else [unquoted(row) for row in rows]
        assert rows_of(path, content)[1:] == expected
    assert rows_of(path, content, quotes="off")[1:] == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('c,d\n"a, b",x\n"c, d,y\n', "line 3: the quote that opens a cell here is not closed correctly: unexp"),
        ('"c","d"\n"a",x\n"c,y\n', "line 3: the quote that opens a cell here is not closed correctly: unexp"),
        ('c,d\n"a, b",x\n"c" d,y,z\n', "line 3: the quote .* not closed correctly: ',' expected after '\"'"),
        (
            'c,d,e\n1,"a,b"\n',
            "line 2: a quote opens .* too few cells; if quotes are text, .* has 1 rows; expected data.quotes",
        ),
        ('c,d\n1,"a\nb"\n1\n', "data row 2 has 1 cells, expected 2"),
        ("c,d\n1,2\n1\n", "data row 2 has 1 cells, expected 2"),
    ],
)
def test_what_is_no_table_either_way_is_refused(tmp_path: Path, content: str, message: str):
    """With the line where the quote opens, or the row."""
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / "rows.csv", content)


def test_a_header_in_quotes_says_that_there_are_some(tmp_path: Path):
    """Though each line is a row without them."""
    content = '"text","label"\n"Hello, world\nfoo","a"\n'
    assert rows_of(tmp_path / "rows.csv", content)[1:] == [["Hello, world\nfoo", "a"]]
    with pytest.raises(Misread):
        rows_of(tmp_path / "rows.csv", content.replace('"text","label"', "text,label").replace('"a"', "a"))


@pytest.mark.parametrize("blank", ["", "   ", "\t", " \u00a0 "])
def test_a_line_of_blanks_is_empty(tmp_path: Path, blank: str):
    """Before the header, between rows and at the end; in a file of one column it is a text of blanks, if not empty."""
    for file_format, delimiter in DELIMITERS.items():
        lines = [blank, delimiter.join("abc"), blank, delimiter.join("xyz"), blank]
        assert rows_of(tmp_path / f"r.{file_format}", "\n".join(lines)) == [[*"abc"], [*"xyz"]]
    rows = rows_of(tmp_path / "r.csv", f"text\nx\n{blank}\ny\n")
    assert rows == [["text"], ["x"], *([[blank]] if blank else []), ["y"]]


def test_commas_alone_are_a_row(tmp_path: Path):
    """Of empty cells, with as many as the header has; with fewer it is damage."""
    assert rows_of(tmp_path / "r.csv", "a,b,c\n,,\n")[1:] == [["", "", ""]]
    with pytest.raises(DataError, match="data row 1 has 2 cells"):
        rows_of(tmp_path / "r.csv", "a,b,c\n,\n")


@pytest.mark.parametrize("file_format", DELIMITERS)
@pytest.mark.parametrize("damage", ['"the "best" one"', '"the end', '"great" film'])
@pytest.mark.parametrize("share", [1, 3])
def test_damage_where_most_rows_have_quotes_is_refused(tmp_path: Path, file_format: str, damage: str, share: int):
    """Else quotes would be part of every class's name, and `a` and `"a"` two classes, without a word."""
    delimiter = DELIMITERS[file_format]
    cells = [[f'"say {number}"', '"a"' if number % share == 0 else "a"] for number in range(20)]
    cells[7][0] = damage
    content = "\n".join(delimiter.join(row) for row in [["text", "label"], *cells])
    path = tmp_path / f"rows.{file_format}"
    with pytest.raises(Misread, match=r"line 9: the quote that opens a cell here .* of 20 rows .* data.quotes off"):
        rows_of(path, content)
    assert rows_of(path, content, quotes="off")[1:] == cells


def test_advice_is_only_given_where_it_helps(tmp_path: Path):
    """A file that cannot be read without quotes either is not said to be read with `off`."""
    content = 'text,label\n"a \\"b\\" c, d",x\n'
    with pytest.raises(DataError, match="not closed correctly") as refusal:
        rows_of(tmp_path / "r.csv", content)
    assert "off" not in str(refusal.value)
    with pytest.raises(DataError, match=r"data\.quotes off reads quotes as text"):
        rows_of(tmp_path / "r.csv", content, quotes="on")


@pytest.mark.parametrize(("name", "sign"), [("r.csv", ";"), ("r.csv", "\t"), ("r.csv", "|"), ("r.tsv", ",")])
@pytest.mark.parametrize("text", ["hello", "hello, {} world"])
def test_another_delimiter_is_named(tmp_path: Path, name: str, sign: str, text: str):
    """Whether rows have as many cells as the header by chance or not."""
    lines = [f"text{sign}label", *(f"{text.format(DELIMITERS[name[2:]])}{sign}{label}" for label in "abab")]
    spec = DataSpec(path=tmp_path / name, label="label", text=("text",))
    spec.path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"one name, .* separated by {re.escape(repr(sign))}; expected commas"):
        read_dataset(spec)
