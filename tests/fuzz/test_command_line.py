"""The command line with any options, and model folders that say anything: never a traceback."""

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_search.objectives.errors import ModelError
from fold_search.objectives.params import ModelParams, Params, TrainingParams
from fold_search.objectives.predicting.exported import DESCRIPTION, Description, Member, read_description
from fold_search.objectives.scoring.metrics import Goal
from fold_search.search.cli import app
from tests.fuzz.refusals import check_refusal
from tests.fuzz.strategies import changed, damaged

FUZZ = settings.get_profile("fuzz")

# What an argument of a process can hold: no NUL, and bytes that are no text as halves of surrogate pairs.
ARGUMENT = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["", "-", "--", "-1", "9" * 30, "9" * 5000, "1e999", "nan", "../x", "/", ".", "\udcff", "[b]", "%s"]
    ),
    st.sampled_from(["d.csv", "study.yaml", "sqlite:///s.db", "sqlite://", "mysql://h", "postgresql://u:p@[", "text"]),
)
COMMANDS = {
    "init": [
        "--label",
        "--text",
        "--task",
        "--encoding",
        "--quotes",
        "--time",
        "--preset",
        "--encoder",
        "--out",
        "--force",
    ],
    "plan": ["--config", "--workers", "--set", "--json"],
    "run": ["--study", "--config", "--trials", "--timeout", "--workers", "--storage", "--set"],
    "worker": ["--study", "--storage", "--set", "--workers"],
    "status": ["--study", "--storage", "--json"],
    "list": ["--storage", "--json"],
    "best": ["--study", "--storage"],
    "diagnose": ["--study", "--trial", "--out", "--storage"],
    "export": ["--study", "--trial", "--out", "--form", "--storage"],
    "export-curves": ["--study", "--out", "--test", "--encoding", "--quotes", "--storage"],
    "predict": [
        "--model",
        "--encoding",
        "--quotes",
        "--out",
        "--keep",
        "--top-k",
        "--template",
        "--columns",
        "--images",
        "--memory-limit",
    ],
    "evaluate": [
        "--model",
        "--encoding",
        "--quotes",
        "--columns",
        "--images",
        "--batch-size",
        "--memory-limit",
        "--json",
    ],
    "publish": ["--study", "--storage", "--rebuild"],
    "backup": ["--study", "--out", "--storage", "--set"],
    "restore": ["--storage", "--set"],
    "clean": ["--study", "--storage"],
}


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(COMMANDS)))
    arguments = [name, *(["--no-probe"] if name == "init" else []), *draw(st.lists(ARGUMENT, max_size=1))]
    for option in draw(st.lists(st.sampled_from(COMMANDS[name]), unique=True)):
        arguments += [option, *draw(st.lists(ARGUMENT, min_size=1, max_size=1))]
    return arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(arguments=commands())
def test_options(folder: Path, arguments: list[str]):
    """No study is there, so that whatever is asked for is refused before anything is trained."""
    (folder / "d.csv").write_text("text,label\n" + "x,a\ny,b\n" * 3)
    (folder / "study.yaml").write_text("data: {path: d.csv, label: label, text: text}\nmodel: {encoder: ./none}\n")
    here = os.getcwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        os.chdir(here)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 2)
    assert "Traceback" not in result.output
    assert result.exit_code == 0 or re.search("^[Ee]rror: ", result.output, re.MULTILINE), result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "NAME", "--out", "new.yaml"],
        ["init", "d.csv", "--image", "text", "--label", "label", "--images", "NAME", "--out", "new.yaml"],
        ["list", "--storage", "sqlite:///NAME"],
        ["data", "demo", "--out", "NAME"],
    ],
)
def test_a_name_that_no_file_can_have(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]):
    """Longer than file systems allow."""
    (folder / "d.csv").write_text("text,label\nx,a\ny,b\n")
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, [argument.replace("NAME", "9" * 300) for argument in arguments])
    assert result.exit_code == 2, result.exception
    assert result.output == f"error: File name too long: {'9' * 300}\n"


DESCRIPTION_OF_A_MODEL = json.loads(
    Description(
        form="fold",
        study="s",
        trial=0,
        task="classification",
        label_names=("a", "b"),
        data={"path": "d.csv", "label": "label", "text": "text"},
        params=Params(model=ModelParams(encoder="e"), training=TrainingParams()),
        max_length=16,
        goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
        fold_scores=(0.5,),
        pooled={"accuracy": 0.5},
        temperature=1.0,
        members=(Member(folder="fold-0", fold=0, epochs=1, score=0.5, class_counts=(1, 1), checksums={"a.json": "0"}),),
        packages={},
        fingerprints={},
    ).model_dump_json()
)


@FUZZ
@given(
    content=changed(DESCRIPTION_OF_A_MODEL).map(json.dumps).map(str.encode)
    | damaged(json.dumps(DESCRIPTION_OF_A_MODEL).encode())
)
def test_model_descriptions(folder: Path, content: bytes):
    """model.json may say anything."""
    (folder / DESCRIPTION).write_bytes(content)
    try:
        description = read_description(folder)
    except ModelError as error:
        check_refusal(error, folder)
        return
    assert description.members
    assert all(Path(folder, member.folder).parent == folder for member in description.members)
