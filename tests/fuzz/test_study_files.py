"""Study files, `--set` and templates, damaged in every way: they are accepted, or refused in one line."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, config_from_record, load_config, to_record
from fold_search.search.study.space import grid
from fold_search.search.study.study_file import read_yaml
from tests.fuzz.refusals import check_refusal
from tests.fuzz.strategies import ODD, changed, damaged

FUZZ = settings.get_profile("fuzz")
STUDY = {
    "study": {"metric": "macro_f1", "sampler": "tpe", "seed": 1, "positive_label": "a"},
    "data": {"path": "d.csv", "label": "label", "text": ["title", "body"], "group": "document"},
    "model": {"encoder": "e", "max_length": 64, "dropout": 0.1, "pooling": "mean"},
    "training": {"epochs": 3, "loss": "focal", "class_weights": {"a": 1.0, "b": 2.0}, "batch_size": 16},
    "space": {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
        "focal_gamma": [0.0, 2.0],
    },
    "folds": {"k": 3, "seed": 0},
    "race": {"rule": "paired", "risk": 0.05},
    "budget": {"trials": 10, "time": "1h30m"},
    "storage": {"url": "sqlite:///s.db"},
    "trackers": {"mlflow": {"uri": "sqlite:///m.db"}, "neptune": False},
}
FILE = yaml.safe_dump(STUDY).encode()


def check_loaded(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig | None:
    """Load a study file, and use what was accepted as a study does first; None if it is refused."""
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        check_refusal(error)
        return None
    assert config_from_record(to_record(config)) == config
    if config.study.sampler == "grid":
        try:
            assert grid(config)
        except ConfigError as error:
            check_refusal(error)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def test_the_undamaged_study_file_is_loaded(folder: Path):
    """With every section, and with what `--set` says."""
    (folder / "study.yaml").write_bytes(FILE)
    config = check_loaded(folder / "study.yaml", ("study.seed=5",))
    assert config is not None
    assert (config.study.seed, config.folds.k, config.space.keys()) == (5, 3, STUDY["space"].keys())


@FUZZ
@given(sections=changed(STUDY))
def test_study_files_with_other_values(folder: Path, sections: dict):
    """One to three keys or values are not what was written."""
    # Not every value can be written as YAML; what cannot is in no file.
    try:
        content = yaml.safe_dump(sections, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError):
        return
    (folder / "study.yaml").write_bytes(content)
    check_loaded(folder / "study.yaml")


@FUZZ
@given(
    content=damaged(FILE) | st.binary(max_size=200) | st.text(alphabet=":-[]{}!&*?|>'\"% \n#,0a1_.ex~<", max_size=60)
)
def test_study_files_with_other_bytes(folder: Path, content: bytes | str):
    """Bytes are not what was written, or YAML's own signs stand in any order."""
    (folder / "study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    check_loaded(folder / "study.yaml")
    try:
        read_yaml(folder / "study.yaml")  # as templates are read
    except ConfigError as error:
        check_refusal(error, folder / "study.yaml")


KEYS = [f"{section}.{key}" for section, keys in STUDY.items() for key in keys]


@FUZZ
@given(key=st.sampled_from(KEYS) | st.text(max_size=20), value=ODD.map(str) | st.text(max_size=30))
def test_overrides(folder: Path, key: str, value: str):
    """`--set` takes any text."""
    (folder / "study.yaml").write_bytes(FILE)
    check_loaded(folder / "study.yaml", (f"{key}={value}",))
