"""A study is the same from whichever folder its command is started: every path of the study file."""

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from fold_search.search.errors import ConfigError
from fold_search.search.running.objective import Objective
from fold_search.search.study import encoder_places
from fold_search.search.study.beginning import begin
from fold_search.search.study.config import StudyConfig, config_from_record, differences, load_config, to_record
from fold_search.search.study.encoder_places import located
from fold_search.search.study.environment import Secrets
from fold_search.search.study.opened import on_this_machine
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.wording import section_of
from fold_search.storage.ledger import Ledger
from tests.tiny_encoder import build_tiny_encoder

ROWS = "text,label\n" + "".join(f"text number {number} of many,{'ab'[number % 2]}\n" for number in range(20))
# Every key that holds a path: what a relative one starts at.
PATHS = {
    "data.path": "study file",
    "data.extra": "study file",
    "data.images": "study file",
    "model.encoder": "study file",
    "space.encoder": "study file",
    "storage.url": "working directory",
    "storage.artifacts": "working directory",
    "storage.cache": "working directory",
    "storage.encoders": "no key of the file",
    "trackers.mlflow.uri": "working directory",
    "trackers.neptune.directory": "working directory",
}
NO_PATHS = {"data.image", "storage"}  # their descriptions speak of paths, and they hold none
FOLDERS = ("project/study", "project", "project/study/below", "elsewhere", ".")


def fields(model: type[BaseModel] = StudyConfig, *above: str) -> Iterator[tuple[str, Any, str]]:
    """Every key of the study file, its type and its description."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        yield ".".join(path), field.annotation, field.description or ""
        if inner := section_of(field.annotation):
            yield from fields(inner, *path)


def test_every_path_of_the_study_file_is_known_here():
    """A new key that is a path, or speaks of one, has to say what it starts at."""
    told = {key for key, _, said in fields() if re.search(r"(?i)\b(path|folder|URL|URI)s?\b", said)}
    typed = {key for key, kind, _ in fields() if Path in (kind, *get_args(kind))}
    assert typed <= PATHS.keys()
    assert told - NO_PATHS <= PATHS.keys(), "a path? list it in PATHS, else in NO_PATHS"
    assert PATHS.keys() - {"space.encoder"} <= {key for key, _, _ in fields()}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A study file, its data and encoders in project/study, and folders around it."""
    study = tmp_path / "project" / "study"
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    build_tiny_encoder(study / "enc")
    (study / "models").symlink_to(study)  # models/enc, as an encoder on the hub may be called
    (study / "rows.csv").write_text(ROWS)
    (study / "more.csv").write_text("text,label\na text more,a\n")
    return tmp_path


def write(top: Path, **sections: Any) -> None:
    usual = {
        "data": {"path": "rows.csv", "extra": "./more.csv", "label": "label", "text": "text"},
        "model": {"encoder": "./enc", "max_length": 16},
        "folds": {"k": 2},
    }
    (top / "project" / "study" / "study.yaml").write_text(yaml.safe_dump(usual | sections))


def load(top: Path, *overrides: str) -> StudyConfig:
    places = [f"storage.url=sqlite:///{top}/s.db", f"storage.artifacts={top}/a", f"storage.cache={top}/cache"]
    return load_config(top / "project" / "study" / "study.yaml", [*places, *overrides])


ENCODERS = ("./enc", "enc", "models/enc", "../study/enc", "config:enc", "klue/roberta-base", "package:models/x")


@pytest.mark.parametrize("begun_in", FOLDERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_study_file_says_the_same_from_every_folder(
    top: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, begun_in: str
):
    """Whatever form an encoder's name has; and what is loaded lies where it lay."""
    (top / "project" / "study" / "pictures").mkdir()
    data = {"path": "rows.csv", "extra": "./more.csv", "images": "../study/pictures", "label": "label", "image": "text"}
    write(top, data=data, model={"encoder": encoder}, space={"encoder": [encoder, "other/name"]})
    monkeypatch.chdir(top / begun_in)
    begun = config_from_record(to_record(load(top)))
    expected = Path(located(begun.model.encoder, begun).removeprefix("config:")).resolve()
    for folder in FOLDERS:
        monkeypatch.chdir(top / folder)
        now = load(top)
        assert now.data == begun.data
        assert differences(begun, now) == [], folder
        again = encoder_places.as_begun(begun, now)
        assert again.space == begun.space
        for config in (begun, again):
            found = located(config.model.encoder, config).removeprefix("config:")
            assert Path(found).exists() == expected.exists()
            assert not expected.exists() or Path(found).resolve() == expected


@pytest.mark.parametrize("begun_in", FOLDERS)
def test_a_study_that_an_earlier_version_began_goes_on_from_every_folder(
    top: Path, monkeypatch: pytest.MonkeyPatch, begun_in: str
):
    """It noted no folder: what the path ends with must do."""
    write(top)
    monkeypatch.chdir(top / begun_in)
    record = to_record(load(top))
    del record["storage"]["encoders"]
    for folder in FOLDERS:
        monkeypatch.chdir(top / folder)
        assert differences(config_from_record(record), load(top)) == [], folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_another_encoder_is_another_study(top: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    """Also one of the same name in another folder, from wherever."""
    write(top)
    build_tiny_encoder(top / "project" / "study" / "other" / "enc")
    monkeypatch.chdir(top / "project" / "study")
    begun = load(top)
    write(top, model={"encoder": "other/enc", "max_length": 16})
    monkeypatch.chdir(top / folder)
    [found] = differences(begun, load(top))
    assert found.startswith('model.encoder: "enc" -> ')


def test_a_study_begun_in_one_folder_goes_on_in_another(top: Path, monkeypatch: pytest.MonkeyPatch):
    """With the same names in the record, the same jobs, for checkpoints are theirs, and encoders that are found."""
    write(top, space={"encoder": ["./enc", "models/enc"]})
    monkeypatch.chdir(top / "project" / "study")
    begun = begin(load(top), "s", secrets=Secrets()).record.config
    monkeypatch.chdir(top / "elsewhere")
    study = begin(load(top), "s", secrets=Secrets())
    assert study.rows is not None
    assert study.record.config["space"] == begun["space"] == to_record(study.rows.config)["space"]
    fingerprints = []
    for folder, config in (("elsewhere", study.rows.config), ("project", on_this_machine(study.record, ()))):
        monkeypatch.chdir(top / folder)
        rows = StudyRows(ledger=Ledger(study.ledger.engine, study.record.id), config=config)
        job = Objective(rows, device="cpu").job({"encoder": "enc"}, 0)
        assert Path(job.params.model.encoder).resolve() == top / "project" / "study" / "enc"
        fingerprints.append(job.fingerprint())
    monkeypatch.chdir(top / "project" / "study")
    here = Objective(StudyRows(ledger=study.ledger, config=load(top)), device="cpu").job({"encoder": "enc"}, 0)
    assert {*fingerprints, here.fingerprint()} == {here.fingerprint()}
    assert here.params.model.encoder == "enc"


def test_a_worker_says_where_its_machine_has_the_encoders(top: Path, monkeypatch: pytest.MonkeyPatch):
    """Else they are where `search run` found them, or, if that is not here, in the working directory."""
    write(top)
    monkeypatch.chdir(top / "project")
    record = types.SimpleNamespace(config=to_record(load(top)))
    monkeypatch.chdir(top / "elsewhere")
    assert located("study/enc", on_this_machine(record, ())) == f"{top}/project/study/enc"
    (top / "project").rename(top / "moved")
    assert located("study/enc", on_this_machine(record, ())) == "study/enc"
    config = on_this_machine(record, [f"storage.encoders={top}/moved"])
    assert located("study/enc", config) == f"{top}/moved/study/enc"


def test_the_start_of_encoders_is_no_key_of_the_study_file(top: Path):
    """There they start at the file itself."""
    write(top, storage={"encoders": "/models"})
    with pytest.raises(ConfigError, match=r"study\.yaml: storage\.encoders: cannot be set in a study file"):
        load(top)
