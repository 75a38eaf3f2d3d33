"""What commands print, in whatever encoding, to whatever stands behind stdout; and from where their files are found."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fold_search.search.cli import app
from fold_search.search.running.run import Ending
from tests.search.test_diagnose import WrittenStudy, noisy
from tests.search.trained import refused, search

CLASSES = ("긍정", "부정", "émotion", "…±→")
COMMANDS: list[list[str]] = [
    *([name, "--help"] for name in app.commands),
    ["--help"],
    ["--version"],
    ["init", "--no-probe", "data.csv", "--label", "label", "--text", "text", "--out", "감정.yaml"],
    ["init", "--no-probe", "data.csv", "--label", "라벨", "--text", "text"],
    ["run", "--study", "감정", "--config", "없음.yaml"],
    ["run", "--study", "감정", "--config", "감정.yaml", "--set", "본문=3"],
    ["data", "demo", "--out", "데모.csv", "--rows", "60", "--classes", "2"],
    *([name, "--study", "감정"] for name in ("status", "best", "clean")),
    ["list"],
    ["list", "--json"],
    ["diagnose", "--study", "감정"],
    ["diagnose", "--study", "없음"],
    ["diagnose", "--study", "감정", "--json"],
    ["export-curves", "--study", "감정", "--out", "곡선.npz"],
    ["backup", "--study", "감정", "--out", "백업.tar"],
    ["restore", "백업.tar", "--storage", "sqlite:///다른.db", "--set", "storage.artifacts=다른"],
    ["export", "--study", "감정", "--trial", "77", "--out", "모델"],
    ["predict", "--model", "모델", "data.csv", "--out", "예측.csv"],
    ["evaluate", "--model", "모델", "data.csv"],
    ["없음"],
]
# One process for all commands: it is the imports that take their time.
PROGRAM = """
import sys
from fold_search.search.cli import main
commands = {commands!r}
for words in commands:
    sys.argv = ["search", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 1, 2), words
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenStudy:
    """A study whose name and classes few encodings have, with its files relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    sections = {"storage": {"url": "sqlite:///study.db", "artifacts": "artifacts", "cache": "cache"}}
    study = WrittenStudy(tmp_path, CLASSES * 9, name="감정", sections=sections)
    study.add_trial(noisy(len(CLASSES) * 9))
    return study


def started(
    words: Sequence[str], *, encoding: str = "utf-8", stdout: int | None = subprocess.PIPE
) -> tuple[int, bytes]:
    """The exit code of a program that was started, and what it wrote."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(words, env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=300, check=False)
    return done.returncode, (done.stdout or b"") + done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "cp1252", "cp949"])
def test_what_an_encoding_lacks_is_written_by_its_number(study: WrittenStudy, encoding: str):
    """Every command's help, tables and errors; whoever asked for an encoding can read all of it in that."""
    storage = ["--storage", study.url]
    commands = [words + storage * ("--study" in words and words[0] != "run") for words in COMMANDS]
    commands = [words + storage * (words[0] == "list") for words in commands]
    code, written = started([sys.executable, "-c", PROGRAM.format(commands=commands)], encoding=encoding)
    text = written.decode("utf-8" if encoding.startswith("ascii") else encoding)  # click's own errors are UTF-8 there
    assert code == 0, text
    assert "Traceback" not in text
    assert "wrote " in text
    if encoding == "ascii":
        assert "\\uae0d\\uc815" in text
        assert "0.5000 +- 0.0000" in text


@pytest.mark.parametrize("words", [["--help"], ["list"], ["status", "--study", "감정"], ["list", "--json"]])
@pytest.mark.parametrize(("behind", "expected"), [("nobody", 1), ("full", 2)])
def test_output_that_nobody_can_take_ends_without_a_traceback(
    study: WrittenStudy, words: list[str], behind: str, expected: int
):
    """As in `| head`, whose end is no error to be told of, and on a disk that is full."""
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    program = [Path(sys.executable).with_name("search"), *words, *(["--storage", study.url] * (words != ["--help"]))]
    code, written = started([str(word) for word in program], stdout=full if behind == "full" else writing)
    os.close(full)
    os.close(writing)
    said = b"error: the output cannot be written: No space left on device\n"
    assert (code, written) == (expected, said if behind == "full" else b"")


@pytest.mark.parametrize(
    "words",
    [
        ["diagnose"],
        ["export", "--out", "model"],
        ["backup", "--out", "backup.tar"],
        ["export-curves", "--out", "curves.npz", "--test", "../data.csv"],
        ["worker"],
        ["clean"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_finds_nothing_stored_says_what_to_set(
    study: WrittenStudy, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Started in another folder, where `artifacts` is none of the study's."""
    if words != ["worker"]:  # of a study that has ended it trains nothing
        study.ledger.finish_study("done")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("fold_search.search.running.run.run_study", lambda *_, **__: Ending.FINISHED)
    options = ["--study", study.name, "--storage", f"sqlite:///{tmp_path / 'study.db'}"]
    result = search(*words, *options)
    expected = f"storage.artifacts: found no files of study '감정' in {tmp_path / 'elsewhere' / 'artifacts'}"
    if words[0] in ("worker", "clean"):
        assert result.exit_code == 0, result.output
        assert expected in result.output
    else:
        refused(result, expected, "--set storage.artifacts=PLACE")
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_it_is_can_be_said(study: WrittenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The override that the error names is what is needed."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    options = ["--study", study.name, "--storage", f"sqlite:///{tmp_path / 'study.db'}"]
    result = search("diagnose", *options, "--set", f"storage.artifacts={tmp_path / 'artifacts'}", "--json")
    assert result.exit_code == 0, result.output
