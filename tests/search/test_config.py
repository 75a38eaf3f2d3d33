"""The study file: what it accepts, what it refuses and in which words."""

import os
import random
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from fold_search.objectives.scoring.metrics import METRICS
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import (
    StudyConfig,
    config_from_record,
    differences,
    fingerprint,
    load_config,
    to_record,
)
from fold_search.search.study.environment import Secrets, missing_sign_in, mlflow_uri, storage_url
from fold_search.search.study.sections import GoalConfig

MINIMAL = "data: {path: rows.csv, label: topic, text: [title, body]}\nmodel: {encoder: tiny}\n"

FULL = f"""\
{MINIMAL}
study: {{metric: accuracy, sampler: grid, seed: 3}}
training:
  epochs: 3
  learning_rate: 1e-4
space:
  dropout: {{low: 0.0, high: 0.4, step: 0.2}}
  loss: [cross_entropy, focal]
budget: {{trials: 3, time: 2h}}
storage: {{url: "sqlite:///x.db"}}
trackers: {{mlflow: false}}
"""

Load = Callable[..., StudyConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(sections: str = "", *overrides: str, whole: str | bytes | None = None) -> StudyConfig:
        path = tmp_path / "study.yaml"
        content = MINIMAL + sections if whole is None else whole
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_config(path, overrides)

    return load


def refusal(load: Load, sections: str = "", *overrides: str, whole: str | bytes | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load(sections, *overrides, whole=whole)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message.split("study.yaml: ")[-1]


def test_a_minimal_file_has_the_documented_defaults(load):
    """Only data and model must stand in the file."""
    config = load()
    assert (config.study.metric, config.folds.k, config.budget.trials) == ("macro_f1", 5, 30)
    assert config.data.text == ("title", "body")


def test_the_data_path_starts_at_the_study_file(load, tmp_path):
    """A study file and its data can be moved together."""
    assert load().data.path == tmp_path / "rows.csv"


def test_a_home_that_is_not_there_stays_a_name(load, tmp_path):
    """`~nobody` is then a folder's name."""
    config = load(whole=MINIMAL.replace("rows.csv", "~nobody-here/rows.csv"))
    assert config.data.path == tmp_path / "~nobody-here" / "rows.csv"


def test_a_data_path_from_the_command_line_starts_at_the_working_directory(load, tmp_path, monkeypatch):
    """An override is typed in a shell, where paths are relative to the working directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load("", "data.path=other.csv").data.path == elsewhere / "other.csv"


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("config:tiny.json", "config:{0}/tiny.json"),
        ("models/here", "{0}/models/here"),
        ("./models/other", "{0}/models/other"),
        ("/models/other", "/models/other"),
        ("klue/roberta-base", "klue/roberta-base"),
        ("timm:resnet18", "timm:resnet18"),
        ("config:timm:resnet18", "config:timm:resnet18"),
        ("package:models/a/b/c", "package:models/a/b/c"),
    ],
)
def test_an_encoders_folder_starts_where_the_data_path_does(tmp_path, monkeypatch, encoder, expected):
    """At the study file, from the command line at the working directory; in its own words for other machines."""
    study, elsewhere = tmp_path / "project" / "study", tmp_path / "elsewhere"
    (study / "models" / "here").mkdir(parents=True)
    elsewhere.mkdir()
    text = MINIMAL.replace("tiny", encoder) + f"space: {{encoder: [{encoder}, b]}}\n"
    (study / "study.yaml").write_text(text)
    monkeypatch.chdir(study.parent)
    config = load_config(study / "study.yaml")
    assert config.model.encoder == expected.format("study")
    assert config.space["encoder"].values() == [expected.format("study"), "b"]
    assert load_config(study / "study.yaml", [f"model.encoder={config.model.encoder}"]).model == config.model
    monkeypatch.chdir(elsewhere)
    assert load_config(study / "study.yaml").model.encoder == expected.format(study)


def test_a_section_whose_lines_are_all_commented_out_has_its_defaults(load):
    """`race:` with nothing below is YAML's null, and means the defaults."""
    assert load("race:\n  # rule: none\n").race.rule == "paired"


@pytest.mark.parametrize(
    ("written", "value"), [("1e-5", 1e-5), ("1E-5", 1e-5), ("-1e3", -1e3), ("1.5", 1.5), (".5", 0.5)]
)
def test_a_number_may_be_written_with_an_exponent_and_no_dot(load, written, value):
    """YAML 1.1 would read 1e-5 as text."""
    message = refusal(load, f"folds: {{seed: {written}}}")
    assert message == f"folds.seed: found {value}, expected a whole number"


UNQUOTED = [
    "yes",
    "no",
    "On",
    "OFF",
    "true",
    "False",
    "1",
    "01",
    "010",
    "1.0",
    "1.50",
    "1e3",
    "1_000",
    "0x1F",
    "1:30",
    "-0",
]


@pytest.mark.parametrize("name", UNQUOTED)
@pytest.mark.parametrize(
    "place",
    [
        "study: {positive_label: NAME}",
        "study: {negative_label: NAME}",
        "data: {path: rows.csv, label: NAME, text: title}",
        "data: {path: rows.csv, label: topic, text: NAME}",
        "data: {path: rows.csv, label: topic, text: [title, NAME]}",
        "data: {path: rows.csv, label: topic, text: title, group: NAME}",
        "data: {path: rows.csv, label: topic, image: NAME}",
        "data: {path: rows.csv, label: topic, relation: {sentence: NAME}}",
    ],
)
def test_a_name_that_yaml_takes_for_something_else_is_to_be_quoted(load, name, place):
    """The error says which word it is and how to write it, and that is accepted; with `--set` as a shell reads it."""
    section, _, value = place.partition(": ")
    kind = "a number" if name[-1].isdigit() or name == "0x1F" else "true or false"
    expected = f"found {name}, which YAML reads as {kind}, expected text; put it in quotes: "
    rest = "" if section == "data" else "data: {path: rows.csv, label: topic, text: title}\n"
    message = refusal(load, whole=f"{rest}model: {{encoder: tiny}}\n{place}\n".replace("NAME", name))
    assert message.split(": ", 1)[1] == f'{expected}"{name}"'
    load(whole=f"{rest}model: {{encoder: tiny}}\n{place}\n".replace("NAME", message.rsplit(": ", 1)[1]))
    message = refusal(load, "", f"{section}={value}".replace("NAME", name))
    assert message.startswith("--set ")
    assert message.split(": ", 1)[1] == f"{expected}'\"{name}\"'"
    load("", f"{section}={value}".replace("NAME", *shlex.split(message.rsplit(": ", 1)[1])))


@pytest.mark.parametrize("name", [*UNQUOTED, "null", "~", "12345678901234567890"])
def test_a_name_that_is_a_key_is_what_is_written(load, name):
    """Keys are nothing but names, in the file, in `--set`'s value and in its path."""
    weights = f"{{{name}: 2, other: 1}}"
    assert load(f"training: {{class_weights: {weights}}}").training.class_weights == {name: 2, "other": 1}
    assert load("", f"training.class_weights={weights}").training.class_weights == {name: 2, "other": 1}
    prior = f"training: {{loss: kl_divergence, smoothing_prior: {{'{name}': 0.5, other: 0.5}}}}"
    assert load(prior).training.smoothing_prior == {name: 0.5, "other": 0.5}
    if "." not in name:
        dotted = load("training: {class_weights: {other: 1}}", f"training.class_weights.{name}=2")
        assert dotted.training.class_weights == {name: 2, "other": 1}


def test_a_tracker_can_be_switched_off_by_null_or_false(load):
    """`mlflow: null` and `neptune: false` say what they mean."""
    trackers = load("trackers: {mlflow: null, neptune: false}").trackers
    assert (trackers.mlflow.enabled, trackers.neptune.enabled) == (False, False)


@pytest.mark.parametrize(
    ("written", "seconds"), [("null", None), ("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1d2s", 86402), ("45", 45)]
)
def test_a_time_is_read_as_people_write_it(load, written, seconds):
    """The budget's time may have units."""
    config = load(f"budget: {{time: {written}}}")
    assert config.budget.seconds == seconds
    assert config_from_record(to_record(config)) == config  # a warning is an error here


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ("trainig: {epochs: 3}", "trainig: unknown key; did you mean training?"),
        ("training: {epoch: 3}", "training.epoch: unknown key; did you mean epochs?"),
        ("trackers: {mlfow: {}}", "trackers.mlfow: unknown key; did you mean mlflow?"),
        ("folds: {xyz: 1}", "folds.xyz: unknown key; expected one of k, seed, stratified, group_duplicates"),
        ("space: {dropout: {low: 0, hgh: 0.5}}", "space.dropout.hgh: unknown key; did you mean high? (and 1 more)"),
        ("training: {epochs: three}", 'training.epochs: found "three", expected a whole number'),
        ("training: {epochs: '3'}", 'training.epochs: found "3", expected a whole number'),
        ("training: {epochs: true}", "training.epochs: found true, expected a whole number"),
        ("training: {epochs: 0}", "training.epochs: found 0, expected at least 1"),
        ("training: {loss: hinge}", "training.loss: found \"hinge\", expected 'cross_entropy', 'focal', 'dice', "),
        ("training: {gradient_clip: .inf}", 'training.gradient_clip: found ".inf", expected a number'),
        ('"a\\nb\\e[0m": 5', r'"a\nb\u001b[0m": unknown key'),
        ("training: 5", "training: found 5, expected a section of `key: value` lines"),
        ("folds: {k: 1}", "folds.k: found 1, expected at least 2"),
        ("folds: {stratified: 1}", "folds.stratified: found 1, expected true or false"),
        ("storage: {url: 5}", "storage.url: found 5, which YAML reads as a number, expected text"),
        ("study: {metric: f1}", 'study.metric: found "f1", expected one of accuracy, balanced_'),
        ("study: {epoch_metric: acuracy}", 'study.epoch_metric: found "acuracy", expected a metric; did you mean acc'),
        (
            "budget: {time: 2x}",
            'budget.time: found "2x", expected a time above 0 such as 2h, 90m, 1h30m or a number of',
        ),
        (f"budget: {{time: {'9' * 400}d}}", 'budget.time: found "999'),
        ("space: {dropout: {low: 0, high: 0.5, step: 1.0e-300}}", 'space.dropout: found {"low": 0, "high": 0.5, "st'),
        ("budget: {time: 0}", "budget.time: found 0, expected a time above 0"),
        ("budget: {time: true}", "budget.time: found true, expected a time above 0"),
        ("trackers: {mlflow: 3}", "trackers.mlflow: found 3, expected a section"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(load, sections, message):
    """The line names the key, what was found and what was expected, or the nearest known key."""
    assert refusal(load, sections).startswith(message)


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ("", "the file is empty, expected at least the sections data and model"),
        ("# nothing\n", "the file is empty"),
        ("- a\n- b\n", "found a list, expected sections with `key: value` lines"),
        ("data", "found a single value, expected sections"),
        (MINIMAL.replace("model: {encoder: tiny}", ""), "model: missing"),
        (MINIMAL.replace("encoder: tiny", ""), "model.encoder: missing"),
        (
            MINIMAL.replace("[title, body]", "[]"),
            "data.text: found [], expected a column, or a list of them, or data.relation",
        ),
        (MINIMAL.replace("[title, body]", "5"), "data.text: found 5, which YAML reads as a number, expected text"),
        (MINIMAL.replace("topic", "[topic]"), 'data.label: found ["topic"], expected text'),
        ("data: a: b", "not valid YAML in line 1: mapping values are not allowed here"),
        ("folds: {}\nfolds: {}\n", "not valid YAML in line 2: the key folds is given twice"),
        ("folds:\n  k: 3\n  k: 4\n", "not valid YAML in line 3: the key k is given twice"),
        ('"a\\nb": 1\n"a\\nb": 2\n', r'not valid YAML in line 2: the key "a\nb" is given twice'),
        ("a: &x [1]\nb: *x\n", "not valid YAML in line 2: an alias (*name) is not supported"),
        ("a: !!python/object:os.system {}\n", "not valid YAML in line 1: a tag (!name) is not supported"),
        ("? [a]\n: b\n", "not valid YAML in line 1: found unhashable key"),
        ("a: \x01\n", "not valid YAML: unacceptable character"),
        ("a: !!int ''\n", "not valid YAML in line 1: a tag (!name) is not supported"),
        ("- " * 2000, "not valid YAML in line 1: nested too deeply"),
        ("a: " + "1" * 5000, 'not valid YAML in line 1: found the number "111'),
        ("a: 1" + ":1" * 40_000, 'not valid YAML in line 1: found the number "1:1'),
        (
            "\ntraining: {dropout: 1e999}",
            'not valid YAML in line 2: found the number "1e999", expected one below 2**63',
        ),
        (r'data: {path: "~a\0"}', r'not valid YAML in line 1: found "~a\u0000", expected text without NUL'),
        (r'data: {path: "\ud800"}', r'not valid YAML in line 1: found "\ud800", expected text without NUL characters'),
        (b"a: 1\nb: \xff\n", "found the byte 0xff in line 2, expected UTF-8 text"),
        (b"#" * 100_001, "larger than 100,000 bytes, expected a study file"),
    ],
)
def test_a_file_that_is_no_study_file_is_refused(load, whole, message):
    """Whatever the file holds, the answer is one line."""
    assert refusal(load, whole=whole).startswith(message)


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_study_file_is_accepted_or_refused_in_one_line(load, seed):
    """Wherever a sign is lost or another comes in: no traceback, no message of two lines."""
    signs, chance = list(FULL), random.Random(seed)
    for position in chance.sample(range(len(signs)), 3):
        signs[position] = chance.choice(
            ["", "{", "]", ":", "- ", "'", "\n", "\t", "&a", "!!set", "~", "1e-5", "\u2028"]
        )
    try:
        config = load(whole="".join(signs))
    except ConfigError:
        assert refusal(load, whole="".join(signs))
    else:
        assert config_from_record(to_record(config)) == config


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, reason):
    """The path is in the message."""
    with pytest.raises(ConfigError, match=f"{tmp_path / name}: cannot be read: {reason}".replace(".", r"\.")):
        load_config(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_key(load):
    """Some editors write one."""
    assert load(whole=b"\xef\xbb\xbf" + MINIMAL.encode()).model.encoder == "tiny"


def test_overrides_are_laid_over_the_file(load):
    """Values are YAML, sections are made as needed, the last one counts."""
    config = load("folds: {k: 4}", "folds.k=3", "training.epochs=1", "training.epochs=2", "space.dropout=[0.1, 0.2]")
    assert (config.folds.k, config.training.epochs) == (3, 2)
    assert config.space["dropout"].values() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "--set training.epoch: unknown key; did you mean epochs?"),
        ("trainin.epochs=3", "--set trainin: unknown key; did you mean training?"),
        ("training.epochs=x", '--set training.epochs: found "x", expected a whole number'),
        ("training.epochs", "--set training.epochs: expected section.field=value"),
        ("=3", "--set : expected section.field=value"),
        ("data.label.x=3", "--set data.label.x: data.label is a single value, expected an override of all of it"),
        ("folds.k=[1", "--set folds.k: not valid YAML in line 1: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(load, override, message):
    """The message says `--set`, not the file's name."""
    assert refusal(load, "", override) == message


def test_an_override_of_a_searched_parameter_fixes_it(load):
    """Otherwise it would do nothing."""
    config = load("space: {epochs: [1, 2], dropout: [0.1, 0.2]}", "training.epochs=3")
    assert config.training.epochs == 3
    assert list(config.space) == ["dropout"]


def test_a_record_gives_the_same_config_back(load):
    """What is recorded is all of it."""
    config = load("space: {learning_rate: {low: 1e-5, high: 1, log: true}, encoder_dropout: [null, 0.1]}")
    assert config_from_record(to_record(config)) == config


def test_a_record_that_this_version_does_not_understand_is_named(load):
    """A newer version may have written it."""
    record = to_record(load())
    record["race"]["rule"] = "risk_ledger"
    with pytest.raises(ConfigError, match=r"^the study's record: race\.rule: found \"risk_ledger\", expected 'paired'"):
        config_from_record(record)


@pytest.mark.parametrize(
    "sections",
    [
        "storage: {url: 'postgresql://ann:s3cret@host/db'}",
        "storage: {url: 'postgresql://ann:s3cret@x@host/db'}",
        "storage: {url: 'postgresql://ann@host/db?password=s3cret&a=b'}",
        "storage: {artifacts: 's3://key:s3cret@host/bucket'}",
        "trackers: {mlflow: {uri: 'https://ann:s3cret@host'}}",
    ],
)
def test_passwords_are_neither_recorded_nor_shown(load, sections):
    """A record goes to the database and to trackers, a repr into logs."""
    config = load(sections)
    assert "s3cret" not in str(to_record(config))
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("key", ["urll: ", "cache: {a: ", "url: [", "url: {a: "])
def test_no_message_shows_a_password(load, key):
    """Neither for an unknown key nor for a wrong value."""
    closing = {"{": "}", "[": "]"}.get(next((sign for sign in key if sign in "{["), ""), "")
    assert "s3cret" not in refusal(load, f"storage: {{{key}'postgresql://ann:s3cret@host/db'{closing}}}")


def test_budget_storage_trackers_and_the_place_of_the_data_may_change(load):
    """A study may be continued with more trials, from another machine."""
    changed = load("", "budget.trials=99", "storage.cache=x", "trackers.mlflow=false", "data.path=/elsewhere/rows.csv")
    assert fingerprint(changed) == fingerprint(load())
    assert differences(load(), changed) == []


def test_what_must_not_change_is_named(load):
    """Keys, the value before and the value now."""
    before = load("space: {dropout: [0.1, 0.2], batch_size: {low: 2, high: 3}}")
    now = load("space: {pooling: [cls, mean], batch_size: {low: 2, high: 4}}", "training.epochs=7", "data.label=kind")
    assert fingerprint(before) != fingerprint(now)
    assert differences(before, now) == [
        'data.label: "topic" -> "kind"',
        "training.epochs: 4 -> 7",
        'space.dropout: {"choices": [0.1, 0.2]} -> nothing',
        'space.batch_size: {"low": 2, "high": 3} -> {"low": 2, "high": 4}',
        'space.pooling: nothing -> {"choices": ["cls", "mean"]}',
    ]


def test_every_metric_can_be_chosen():
    """The study file names what objectives computes."""
    for name in METRICS:
        assert GoalConfig(metric=name, epoch_metric=name).metric == name


def test_the_password_comes_from_the_environment_or_a_file(load, tmp_path):
    """It is put into the URL escaped, and nowhere else."""
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd\n")
    config = load("storage: {url: 'postgresql://ann@host/db'}")
    for environment in ({"SEARCH_STORAGE_PASSWORD": "p@ss/w:rd"}, {"SEARCH_STORAGE_PASSWORD_FILE": str(file)}):
        secrets = Secrets.read(environment)
        assert storage_url(config, secrets) == "postgresql://ann:p%40ss%2Fw%3Ard@host/db"
        assert "p@ss" not in repr(secrets)


def test_a_url_keeps_its_own_password_and_sqlite_needs_none(load):
    """The environment's password is for a URL without one."""
    secrets = Secrets.read({"SEARCH_STORAGE_PASSWORD": "other"})
    own = load("storage: {url: 'postgresql://ann:own@host/db'}")
    assert storage_url(own, secrets) == "postgresql://ann:own@host/db"
    assert storage_url(load(), secrets) == "sqlite:///studies/search.db"


def test_a_database_on_a_unix_socket_gets_the_password_too(load):
    """Its host stands in the query."""
    config = load("storage: {url: 'postgresql://ann@/db?host=/run/pg'}")
    url = storage_url(config, Secrets.read({"SEARCH_STORAGE_PASSWORD": "s3cret"}))
    assert url == "postgresql://ann:s3cret@/db?host=%2Frun%2Fpg"


def test_what_is_no_url_is_refused_without_its_password(load):
    """The message has an example and no secret."""
    with pytest.raises(
        ConfigError, match=r"^storage\.url: not a database URL, expected one such as sqlite:///"
    ) as refused:
        storage_url(load("storage: {url: 'postgresql//ann:s3cret@host'}"), Secrets.read({}))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SEARCH_STORAGE_PASSWORD": "s3cret", "SEARCH_STORAGE_PASSWORD_FILE": "x"}, "are both set"),
        ({"SEARCH_STORAGE_PASSWORD_FILE": "/absent"}, "SEARCH_STORAGE_PASSWORD_FILE: /absent cannot be read"),
    ],
)
def test_an_unclear_environment_is_refused(environment, message):
    """Two passwords, or a file that is not there."""
    with pytest.raises(ConfigError, match=message) as refused:
        Secrets.read(environment)
    assert "s3cret" not in str(refused.value)


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign-in to MLflow, and none that outlives the test."""
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_PASSWORD_FILE"])
@pytest.mark.parametrize(
    ("uri", "expected", "user"),
    [
        ("https://ann@host/mlflow", "https://ann@host/mlflow", "ann"),
        ("https://a%40b@host", "https://a%40b@host", "a@b"),
        ("https://host", "https://host", None),
        ("postgresql+psycopg://ann@host/mlflow", "postgresql+psycopg://ann:p%40ss%2Fw@host/mlflow", None),
        ("postgresql+psycopg://ann:own@host/mlflow", "postgresql+psycopg://ann:own@host/mlflow", None),
        ("sqlite:///studies/mlflow.db", "sqlite:///studies/mlflow.db", None),
        ("databricks://profile", "databricks://profile", None),
        ("./mlruns", "./mlruns", None),
    ],
)
@pytest.mark.usefixtures("mlflow_environment")
def test_mlflow_gets_its_password_from_the_environment(
    tmp_path: Path, variable: str, uri: str, expected: str, user: str | None
):
    """A server's by the variables that MLflow's client reads, with the user of the address; a database's in its URL."""
    (tmp_path / "password").write_text("p@ss/w\n")
    secrets = Secrets.read({variable: "p@ss/w" if variable.endswith("PASSWORD") else f"{tmp_path}/password"})
    assert mlflow_uri(uri, secrets) == expected
    assert os.environ.get("MLFLOW_TRACKING_USERNAME") == user
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD") == ("p@ss/w" if uri.startswith("https") else None)
    assert missing_sign_in(uri, secrets) == ""


@pytest.mark.parametrize(
    ("uri", "is_missing"),
    [
        ("https://ann@host", True),
        ("https://@host", True),
        ("postgresql://ann@host/db", True),
        ("https://ann:pw@host", False),
        ("https://host/a@b", False),
        ("sqlite:///studies/mlflow.db", False),
    ],
)
def test_a_password_that_nobody_gave_is_missed(uri: str, is_missing: bool):
    """The line says where it is to be given, whatever took it out of the address."""
    said = missing_sign_in(uri, Secrets())
    assert ("MLFLOW_TRACKING_PASSWORD_FILE" in said) == is_missing
    assert missing_sign_in(uri, Secrets(mlflow_token="t")) == ""
