"""`--set`: whatever it fixes, a study file that `init` wrote stays valid; a key that is not known is proposed."""

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.loss_params import SMOOTHABLE
from fold_search.search.drafting.plan import Plan
from fold_search.search.drafting.survey import survey
from fold_search.search.drafting.template import as_yaml, write_study_file
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, differences, load_config
from fold_search.search.study.parameters import PARAMETERS, is_active
from fold_search.search.study.space import field_values
from fold_search.search.study.study_file import apply_override, parse_override
from tests.search.test_plan import rows_of
from tests.tiny_images import write_photos

RELATION = ["s", *(f"{entity}{part}" for entity in "ab" for part in ("", "_start", "_end", "_type"))]
TABLES = {
    "imbalanced": (["y", "x"], rows_of(a=900, b=90, c=9)),
    "few rows": (["y", "x"], rows_of(a=40, b=9)),
    "balanced": (["y", "x"], rows_of(a=60, b=50)),
    "columns": (["y", "x", "z"], [(*row, "more") for row in rows_of(a=300, b=60)]),
    "numbers": (["y", "x"], [(str(number / 7), f"text {number}") for number in range(60)]),
    "relation": (
        ["y", *RELATION],
        [(label, f"A and B {number}", "A", 0, 1, "X", "B", 6, 7, "X") for label, number in rows_of(a=300, b=60)],
    ),
}
KINDS = [*TABLES, "images"]
# With smoothed labels, or with all optimisers.
NOT_TOGETHER = ("dice_alpha", "dice_smoothing", "huber_delta", "ema_decay")


def spec_of(kind: str, folder: Path) -> DataSpec:
    """Write rows of that kind."""
    if kind == "images":
        write_photos(folder)
        return DataSpec(path=folder, label="folder", image="file")
    path, (header, rows) = folder / "rows.csv", TABLES[kind]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    if kind == "relation":
        return DataSpec(path=path, label="y", relation=RelationSpec(sentence="s", subject="a", object="b"))
    task = "regression" if kind == "numbers" else "classification"
    return DataSpec(path=path, label="y", text=tuple(header[1:]), task=task)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The study file that `init` writes for each kind of data, and one that searches all that can be."""
    files = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("data") / kind.replace(" ", "-")
        folder.mkdir()
        write_study_file(Plan(found=survey(spec_of(kind, folder))), folder / "study.yaml", full=True)
        files[kind] = folder / "study.yaml"
    everything = yaml.safe_load(files["imbalanced"].read_text())
    everything["space"] = {
        name: named_values(name) or yaml.safe_load(as_yaml(parameter.suggested))
        for name, parameter in PARAMETERS.items()
        if parameter.suggested is not None and name not in NOT_TOGETHER
    } | {"loss": SMOOTHABLE}
    files["everything"] = files["imbalanced"].with_name("everything.yaml")
    files["everything"].write_text(yaml.safe_dump(everything))
    return files


def named_values(name: str) -> list[str]:
    """What the parameter can be that has a name."""
    return [value for value in get_args(PARAMETERS[name].field.annotation) if isinstance(value, str)]


def can_have_effect(name: str, config: StudyConfig) -> bool:
    """Whether a trial of the study may sample the parameter, tried with all that it depends on."""
    names = sorted({*_ancestors(name)})
    tried = product(*(field_values(config, other) for other in names))
    return any(is_active(name, config.fixed | dict(zip(names, values, strict=True))) for values in tried)


def _ancestors(name: str) -> Iterator[str]:
    for other in PARAMETERS[name].when:
        yield other
        yield from _ancestors(other)


@pytest.mark.parametrize("kind", [*KINDS, "everything"])
def test_any_parameter_can_be_fixed_to_anything_it_takes(written, kind):
    """What can then have no effect is not searched, all else is, and a note names each that is left out."""
    begun = load_config(written[kind])
    for name, domain in begun.space.items():
        # Where all is searched, the parameters that others can depend on will do: each file takes a while to check.
        numbers = () if kind == "everything" else domain.ends()[-2:]
        for value in [*numbers, *named_values(name)]:
            notes: list[str] = []
            config = load_config(written[kind], [f"{PARAMETERS[name].section}.{name}={json.dumps(value)}"], notes=notes)
            assert config.fixed[name] == value
            left_out = begun.space.keys() - config.space.keys() - {name}
            assert not any(can_have_effect(other, config) for other in left_out), (name, value)
            assert sorted(note.split()[0] for note in notes) == sorted(f"space.{other}" for other in left_out)
            assert config.space == {other: begun.space[other] for other in config.space}


CHANGES = {"token_deletion": [0.0, 0.2], "token_swap": {"low": 0.0, "high": 0.2}, "dropout": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("space", "override", "left_out"),
    [
        ({"sampler_ratio": [0.5]}, "training.sampler=enn", {"sampler_ratio": "training.sampler is enn, expected"}),
        ({"class_balanced_beta": [0.9]}, "training.loss=dice", {"class_balanced_beta": "training.loss is dice"}),
        ({"restart_epochs": [1]}, "training.optimiser=schedule_free_adamw", {"restart_epochs": "training.optimiser"}),
        ({"sampler_ratio": [0.5]}, "space.sampler=[none, enn]", {"sampler_ratio": "space.sampler is none or enn"}),
        ({"sampler_ratio": [0.5]}, "space.sampler=null", {"sampler_ratio": "training.sampler is none"}),
        (CHANGES, "model.trainable_layers=0", dict.fromkeys(("token_deletion", "token_swap"), "cannot go with")),
        ({"ema_decay": [0.99, 0.9]}, "training.optimiser=schedule_free_adamw", {"ema_decay": "averages the weights"}),
        ({"lora_rank": [8, 16]}, "model.trainable_layers=1", {"lora_rank": "expected one of them to be null"}),
    ],
)
def test_what_an_override_leaves_without_effect_is_named(tmp_path, space, override, left_out):
    """By a condition that fails, at whatever distance, or since the models refuse all but the fixed value with it."""
    searched = {
        "sampler": ["none", "smote"],
        "loss": ["cross_entropy"],
        "class_weights": ["none", "class_balanced"],
        "schedule": ["linear", "cosine_restarts"],
    }
    notes: list[str] = []
    config = load_config(study_file(tmp_path, space=searched | space), [override], notes=notes)
    assert left_out.keys().isdisjoint(config.space)
    for name, why in left_out.items():
        assert any(note.startswith(f"space.{name} is not searched: ") and why in note for note in notes), notes


@pytest.mark.parametrize(
    ("sections", "overrides"),
    [
        ({"space": {"sampler_ratio": [0.5]}}, []),
        ({"space": {"sampler_ratio": [0.5]}}, ["training.epochs=3"]),
        ({"space": {"sampler_ratio": [0.5]}}, ["training.sampler=enn"]),
        ({"space": {"sampler": ["none", "smote"]}}, ["training.sampler=enn", "space.sampler_ratio=[0.5]"]),
    ],
)
def test_what_the_user_asks_for_is_refused_rather_than_left_out(tmp_path, sections, overrides):
    """A study file that is wrong by itself, or an override that asks to search what another one makes useless."""
    with pytest.raises(ConfigError, match=r"space\.sampler_ratio: has no effect, because training\.sampler is"):
        load_config(study_file(tmp_path, **sections), overrides)


def test_a_part_of_a_parameter_fixes_it_too(tmp_path):
    """The weight of one class is not laid under choices that hide it."""
    file = study_file(tmp_path, space={"class_weights": ["none", "class_balanced"]})
    assert "class_weights" not in load_config(file, ["training.class_weights.a=0.5"]).space


def test_the_same_override_continues_the_same_study(written):
    """And without it the difference is said, what was left out included."""
    override = ["training.sampler=enn"]
    begun = load_config(written["imbalanced"], override)
    assert differences(begun, load_config(written["imbalanced"], override)) == []
    changes = " ".join(differences(begun, load_config(written["imbalanced"])))
    assert all(f"{key}: " in changes for key in ("training.sampler", "space.sampler", "space.sampler_ratio"))


@pytest.mark.parametrize(
    ("key", "proposed"),
    [
        ("epochs", "did you mean training.epochs?"),
        ("epoch", "did you mean training.epochs?"),
        ("lr", "did you mean training.learning_rate?"),
        ("sampler", "did you mean study.sampler or training.sampler?"),
        ("seed", "did you mean study.seed or folds.seed?"),
        ("uri", "did you mean trackers.mlflow.uri?"),
        ("model.epochs", "did you mean training.epochs?"),
        ("study.trials", "did you mean budget.trials?"),
        ("training.epoch", "did you mean epochs?"),
        ("trackers.mlflow.url", "did you mean uri or storage.url?"),
        ("traning.epochs", "did you mean training?"),
        ("xyzzy", "expected one of study, data, model"),
    ],
)
def test_a_key_of_another_section_is_proposed(tmp_path, key, proposed):
    """By its name, or the nearest, in every section; in the study file as on the command line."""
    sections: dict[str, Any] = {}
    apply_override(sections, parse_override(f"{key}=6"))
    for file, overrides in ((study_file(tmp_path), [f"{key}=6"]), (study_file(tmp_path, **sections), [])):
        with pytest.raises(ConfigError) as wrong:
            load_config(file, overrides)
        assert f": unknown key; {proposed}" in str(wrong.value)


def study_file(folder: Path, **sections: Any) -> Path:
    data = {"path": "rows.csv", "label": "y", "text": "x"}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"data": data, "model": {"encoder": "none"}, **sections}))
    return path
