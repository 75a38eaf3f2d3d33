"""Files in another encoding, or with stray quotes, through the command line: the refusal names what to type."""

import csv
import json
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fold_search.search.cli import app
from fold_search.search.exporting.curves import load_curves
from fold_search.search.study.config import differences, fingerprint, load_config
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder

KOREAN = ["이 제품은 정말 좋습니다", "배송이 늦어서 실망했어요", "환불을 요청합니다"]
ROWS = [(f"{KOREAN[row % 3]} {row}", "좋음" if row % 3 == 0 else "나쁨") for row in range(24)]
STRAY = [
    (f'"{text}' if row == 3 else f'{text} 27"' if row == 9 else text, label) for row, (text, label) in enumerate(ROWS)
]


def write(path: Path, rows: list[tuple[str, str]], encoding: str = "utf-8") -> Path:
    """As a table without quotes."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    lines = [delimiter.join(row) for row in (("text", "label"), *rows)]
    path.write_text("\n".join(lines), encoding=encoding)
    return path


def pasted(result: Result) -> Result:
    """Run the command at the end of a refusal."""
    refused(result, ": search ")
    command = result.output.strip().rpartition(": search ")[2]
    return CliRunner().invoke(app, shlex.split(command))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TrainedStudy:
    folder = tmp_path_factory.mktemp("study")
    encoder = build_tiny_encoder(folder / "encoder", KOREAN)
    sections = {
        "data": {
            "path": write(folder / "d.csv", ROWS, "cp949"),
            "label": "label",
            "text": "text",
            "encoding": "cp949",
            "quotes": "off",
        },
        "model": {"encoder": str(encoder), "max_length": 16},
        "training": {"epochs": 1, "batch_size": 8},
    }
    return TrainedStudy(folder, name="korean", sections=sections, trials=[{}])


@pytest.fixture(scope="module")
def model(study: TrainedStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    assert study.export(folder, "--form", "fold").exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("name", "rows", "encoding", "expected"),
    [
        ("d.csv", ROWS, "cp949", {"encoding": "cp949", "quotes": "auto"}),
        ("d e.csv", ROWS, "euc-kr", {"encoding": "cp949", "quotes": "auto"}),
        ("d.tsv", ROWS, "utf-16-le", {"encoding": "utf-16-le", "quotes": "auto"}),
        ("d.tsv", STRAY, "utf-8", {"encoding": None, "quotes": "off"}),
        ("d.csv", STRAY, "utf-8", {"encoding": None, "quotes": "off"}),
    ],
)
def test_init_proposes_what_reads_the_file_and_run_reads_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: list, encoding: str, expected: dict
):
    """The study file says it, in words that YAML does not take for true and false."""
    monkeypatch.chdir(tmp_path)
    write(Path(name), rows, encoding)
    result = pasted(search("init", "--no-probe", "--full", name, "--label", "label", "--text", "text"))
    assert result.exit_code == 0, result.output
    assert "24" in result.output
    written = yaml.safe_load(Path("study.yaml").read_text(encoding="utf-8"))["data"]
    assert {key: written[key] for key in expected} == expected
    config = load_config(Path("study.yaml"))
    assert (config.data.encoding, config.data.quotes) == tuple(expected.values())


@pytest.mark.parametrize(
    ("rows", "encoding", "setting"), [(ROWS, "cp949", "encoding=cp949"), (STRAY, "utf-8", "quotes=off")]
)
def test_run_proposes_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list, encoding: str, setting: str
):
    """What was typed, with --set."""
    monkeypatch.chdir(tmp_path)
    write(Path("d.csv"), rows, encoding)
    data = {"path": "d.csv", "label": "label", "text": "text"}
    Path("s.yaml").write_text(yaml.safe_dump({"data": data, "model": {"encoder": "./none"}}))
    result = search("run", "--study", "a b", "--config", "s.yaml", "--trials", 2)
    refused(result, f": search run --study 'a b' --config s.yaml --trials 2 --set data.{setting}")
    # The data is read by then: what is refused next is the encoder.
    refused(pasted(result), "none")


@pytest.mark.parametrize(
    ("word", "expected"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("true", "on"), ('"off"', "off")]
)
def test_quotes_may_be_written_as_yaml_has_it(tmp_path: Path, word: str, expected: str):
    """Where on and off are true and false."""
    (tmp_path / "s.yaml").write_text(
        f"data: {{path: d.csv, label: y, text: x, quotes: {word}}}\nmodel: {{encoder: e}}\n"
    )
    assert load_config(tmp_path / "s.yaml").data.quotes == expected
    assert load_config(tmp_path / "s.yaml", [f"data.quotes={word}"]).data.quotes == expected


def test_a_study_goes_on_with_its_file_in_another_encoding(tmp_path: Path):
    """Its rows are what must stay, and these have a fingerprint of their own."""
    (tmp_path / "s.yaml").write_text("data: {path: d.csv, label: y, text: x}\nmodel: {encoder: e}\n")
    begun = load_config(tmp_path / "s.yaml")
    now = load_config(tmp_path / "s.yaml", ["data.encoding=cp949", "data.quotes=on"])
    assert differences(begun, now) == []
    assert fingerprint(begun) == fingerprint(now)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("encoding: cp94", 'data.encoding: found "cp94", expected the name of an encoding'),
        ("encoding: 949", "data.encoding: found 949, which YAML reads as a number, expected text"),
        ("quotes: maybe", "data.quotes: found \"maybe\", expected 'auto', 'on' or 'off'"),
        ("quotes: 1", "data.quotes: found 1, expected 'auto', 'on' or 'off'"),
    ],
)
def test_a_setting_that_is_none_is_refused(tmp_path: Path, line: str, expected: str):
    """With its key."""
    (tmp_path / "s.yaml").write_text(f"data: {{path: d.csv, label: y, text: x, {line}}}\nmodel: {{encoder: e}}\n")
    refused(search("run", "--study", "s", "--config", tmp_path / "s.yaml"), expected)


def test_options_that_are_none_are_refused(tmp_path: Path):
    """By their names."""
    for option, value in (("--encoding", "rot13"), ("--quotes", "maybe")):
        result = search("init", "--no-probe", "d.csv", "--label", "y", "--text", "x", option, value)
        assert result.exit_code == 2
        assert option in result.output


def test_a_file_to_predict_has_its_own_encoding(model: Path, tmp_path: Path):
    """UTF-8, whatever the study's file was in, or what is proposed; a byte order mark is seen."""
    out = tmp_path / "out.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        data = write(tmp_path / f"{encoding}.csv", ROWS, encoding)
        result = search("predict", "--model", model, data, "--out", out, "--keep", "text")
        assert result.exit_code == 0, result.output
        assert [row["text"] for row in read(out)] == [text for text, _ in ROWS]
    for encoding in ("cp949", "utf-16-be"):
        data = write(tmp_path / f"{encoding}.csv", ROWS, encoding)
        out.unlink()
        result = pasted(search("predict", "--model", model, data, "--out", out, "--keep", "text"))
        assert result.exit_code == 0, result.output
        assert [row["text"] for row in read(out)] == [text for text, _ in ROWS]
        result = pasted(search("evaluate", "--model", model, data, "--json"))
        assert json.loads(result.stdout)["rows"] == len(ROWS)


def test_a_file_to_predict_loses_no_rows_by_its_quotes(model: Path, tmp_path: Path):
    """Of the study's format they mean what they did there, of another what the file shows, or what is said."""
    out = tmp_path / "out.csv"
    command = ("predict", "--model", model, "--out", out, "--keep", "text")
    data = write(tmp_path / "d.csv", STRAY)
    assert search(*command, data).exit_code == 0
    assert [row["text"] for row in read(out)] == [text for text, _ in STRAY]
    data = write(tmp_path / "d.tsv", STRAY)
    result = search(*command, data)
    refused(
        result,
        f"{data}: line 5: a quote opens a cell here: if line 11 closes it, the file has 18 rows",
    )
    assert pasted(result).exit_code == 0
    assert [row["text"] for row in read(out)] == [text for text, _ in STRAY]
    assert json.loads(pasted(search("evaluate", "--model", model, data, "--json")).stdout)["rows"] == len(STRAY)
    data = tmp_path / "quoted.csv"
    data.write_text('text,label\n"a\nb",좋음\n', encoding="utf-8")
    refused(search(*command, data), "data row 1 has 1 cells, expected 2")
    assert search(*command, data, "--quotes", "auto").exit_code == 0
    assert [row["text"] for row in read(out)] == ["a\nb"]


def test_the_test_file_of_the_curves_has_its_own_encoding(study: TrainedStudy, tmp_path: Path):
    """And its own quotes; one without its label column is refused."""
    command = ("export-curves", "--study", "korean", "--storage", study.url, "--out", tmp_path / "c.npz", "--test")
    scores = []
    for name, encoding in (("utf.csv", "utf-8"), ("own.tsv", "cp949")):
        result = search(*command, write(tmp_path / name, ROWS, encoding))
        result = pasted(result) if encoding == "cp949" else result
        assert result.exit_code == 0, result.output
        scores.append(load_curves(tmp_path / "c.npz").test_ensemble.tolist())
    assert scores[0] == scores[1]
    (tmp_path / "none.csv").write_text("text\na\n")
    refused(search(*command, tmp_path / "none.csv"), "there is no column 'label'")


def test_names_of_columns_count_only_where_they_are_asked_for(model: Path, tmp_path: Path):
    """Predicted, kept, renamed or evaluated."""
    data, out = tmp_path / "d.csv", tmp_path / "out.csv"
    data.write_text("text,,,body,body,label,label\na,1,2,b,c,좋음,나쁨\n", encoding="utf-8")
    command = ("predict", "--model", model, data, "--out", out)
    assert search(*command).exit_code == 0
    more = "'{}' more than once"
    refused(search(*command, "--columns", "text=body"), "d.csv", more.format("body"))
    refused(search(*command, "--keep", "body"), "d.csv", more.format("body"))
    refused(search("evaluate", "--model", model, data), "d.csv", more.format("label"))
    data.write_text("text,text,body,label\na,b,c,좋음\n", encoding="utf-8")
    refused(search(*command), "d.csv", more.format("text"))
    assert search(*command, "--columns", "text=body", "--keep", "body").exit_code == 0
    assert [row["body"] for row in read(out)] == ["c"]


def test_documents_of_another_encoding_are_read(tmp_path: Path):
    """By what `search data extractive` proposes, too."""
    source, out = tmp_path / "d.jsonl", tmp_path / "s.csv"
    records = [{"text": f"{KOREAN[0]}. {KOREAN[1]}. {KOREAN[2]}.", "summary": KOREAN[1]}] * 3
    source.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="cp949")
    command = ("data", "extractive", source, "--document", "text", "--summary", "summary", "--out", out)
    result = pasted(search(*command))
    assert result.exit_code == 0, result.output
    assert [row["sentence"] for row in read(out)][:3] == [f"{text}." for text in KOREAN]
