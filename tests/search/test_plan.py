"""`search init`: what it finds in a file, what it proposes for it, and the study file that it writes."""

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from transformers import ViTConfig

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError
from fold_search.search.drafting.demo import build_demo
from fold_search.search.drafting.plan import Plan, propose
from fold_search.search.drafting.survey import Survey, render_table, survey
from fold_search.search.drafting.template import as_yaml, write_study_file
from fold_search.search.errors import ConfigError
from fold_search.search.study.checks import check_settings
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.parameters import PARAMETERS
from tests.search.trained import search
from tests.tiny_images import VIT, build_tiny_image_encoder, write_photos, write_zip

SHARED = Path(__file__).parents[3] / "shared" / "data"

Write = Callable[..., DataSpec]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows of (label, text) to a CSV file."""

    def write(
        rows: list[tuple[str, str]], name: str = "rows.csv", label: str = "label", text: str = "text"
    ) -> DataSpec:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([(label, text), *rows])
        return DataSpec(path=tmp_path / name, label=label, text=(text,))

    return write


def rows_of(**classes: int) -> list[tuple[str, str]]:
    """Different texts, so many for each class."""
    return [(name, f"{name} {number}") for name, count in classes.items() for number in range(count)]


def plan_for(write: Write, **classes: int) -> Plan:
    return Plan(found=survey(write(rows_of(**classes))))


def printed(found: Survey) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(render_table(found))
    return console.file.getvalue()


def test_a_survey_counts_what_matters(write):
    """Duplicates apart from case and white space, texts with two labels, empty cells."""
    rows = [("a", "one two"), ("a", "One  two"), ("b", "one two"), ("b", "x"), ("b", ""), ("", "y")]
    found = survey(write(rows))
    assert (found.num_rows, found.classes, found.distinct) == (6, {"b": 3, "a": 2}, {"b": 3, "a": 1})
    assert (found.num_duplicates, found.num_conflicts, found.missing) == (2, 1, {"label": 1, "text": 1})
    words, characters = found.lengths["words"], found.lengths["characters"]
    assert (words.median, words.largest, characters.largest) == (2, 2, 8)
    assert found.imbalance == 1.5


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a", "x"), ("a", "y")], {}, "has 1 classes, expected at least two"),
        ([("a", "x"), ("b", "y")], {"label": "lable"}, "did you mean 'label'?"),
        ([("1", "x"), ("", "y"), ("1.0", "z")], {"task": "regression"}, "has 1 numbers, expected at least two"),
        (
            [("1", "x"), ("", "y"), ("1_0", "z")],
            {"task": "regression"},
            "in data row 3: found '1_0', expected a finite",
        ),
        ([("1", "x"), ("inf", "y")], {"task": "regression"}, "in data row 2: found 'inf', expected a finite number"),
    ],
)
def test_a_file_that_cannot_be_searched_on_is_refused(write, rows, changes, message):
    """One class or number, a column that is not there, or what is no number where one is to be."""
    spec = write(rows).model_copy(update=changes)
    with pytest.raises(DataError) as refused:
        survey(spec)
    assert message in str(refused.value)


def test_the_table_says_what_was_found_and_what_follows(write):
    """A user reads it before anything is trained."""
    table = printed(survey(write([*rows_of(common=30, rare=3), ("rare", "rare 0"), ("", "no label")])))
    for expected in (
        "common: 30 rows",
        "rare: 4 rows",
        "7.5 : 1",
        "label 1, text 0",
        "does not accept rows without a label",
    ):
        assert expected in table
    assert "duplicates    │ 1 row " in table


def test_classes_that_look_alike_are_told(write):
    """In quotes, with their rows and what they differ in; other classes are not named."""
    rows = [
        (label, f"text {row}") for row, label in enumerate(["spam", "spam", "spam ", "ham", "1", "1.0", "M\u00fcll"])
    ]
    table = " ".join(printed(survey(write([*rows, ("Mu\u0308ll", "text")]))).replace("\u2502", " ").split())
    assert "similar names 6 classes 'spam' (2 rows), 'spam ' (1 row) differ in white space only" in table
    assert "'1' (1 row), '1.0' (1 row) differ in the writing of a number or truth value only" in table
    assert (
        r"'M\u00fcll' (1 row), 'Mu\u0308ll' (1 row) differ in Unicode form only".replace(r"\u00fc", "\u00fc") in table
    )
    assert "largest spam: 2 rows" in table
    assert "'spam ', ham, 1" in table
    assert "similar names" not in printed(survey(write([("spam", "a"), ("ham", "b")])))


def test_a_numeric_label_is_shown_by_its_spread(write):
    """Quantiles in place of classes; a row without a label is in none of them."""
    rows = [*((str(number), f"text {number}") for number in range(101)), ("", "no label")]
    found = survey(write(rows).model_copy(update={"task": "regression"}))
    assert found.spread is not None
    assert (found.spread.num_distinct, found.spread.mean) == (101, 50)
    assert found.spread.quantiles == (0, 5, 50, 95, 100)
    table = printed(found)
    for expected in ("101 different", "0 to 100, median 50", "5 to 95", "deviation 29.15"):
        assert expected in table
    assert "imbalance" not in table


@pytest.mark.parametrize(
    ("labels", "hinted"), [(("0.5", "2", "2"), True), (("1.0", "2", "2"), False), (("0.5", "b", "b"), False)]
)
def test_numbers_taken_as_classes_are_pointed_out(write, labels, hinted):
    """Unless they are whole ones, as the numbers of classes often are."""
    table = printed(survey(write([(label, f"text {row}") for row, label in enumerate(labels)])))
    assert ("--task regression" in table) == hinted


def test_the_study_file_of_a_numeric_label_searches_what_numbers_have(write, tmp_path):
    """A metric and losses for numbers, nothing of classes and samplers; it can be begun as it is."""
    rows = [(f"{number / 7:.3f}", f"text {number}") for number in range(60)]
    write_study_file(
        Plan(found=survey(write(rows).model_copy(update={"task": "regression"}))), tmp_path / "study.yaml", full=True
    )
    config = load_config(tmp_path / "study.yaml")
    assert (config.data.task, config.study.metric, config.folds.k) == ("regression", "mae", 5)
    assert config.space["loss"].values() == ["mse", "mae", "huber"]
    assert "huber_delta" in config.space
    text = (tmp_path / "study.yaml").read_text()
    for name in (
        "sampler",
        "sampler_min_rows",
        "class_weights",
        "label_smoothing",
        "focal_gamma",
        "minority_augmentation",
    ):
        assert f" {name}:" not in text.partition("\nmodel:")[2]
    check_begins(config)
    check_begins(load_config(tmp_path / "study.yaml", ["space.loss=null", "space.huber_delta=null"]))


def test_names_from_the_data_can_neither_style_nor_break_the_table_or_the_file(write, tmp_path):
    """Markup, control characters and line breaks are data."""
    spec = write(rows_of(**{"[red]x\x1b[0m\u2028folds: {k: 99}": 3, "b": 9}), label="la: [bel] #", text="yes")
    assert r"'[red]x\x1b[0m\u2028folds" in printed(survey(spec))
    write_study_file(Plan(found=survey(spec)), tmp_path / "study.yaml", full=True)
    config = load_config(tmp_path / "study.yaml")
    assert (config.data.label, config.data.text, config.folds.k) == ("la: [bel] #", ("yes",), 3)


REAL_DATA = {
    "kev_cwe": ("title", "description", "vendor_product"),
    "sms_spam": ("text",),
    "r52": ("title", "body"),
    "biotools_topics": ("title", "description", "keywords"),
    "klue_re": ("sentence", "subject", "object"),
}
# The demo data is everywhere; the others only where the project is developed.
THERE = ["demo", *(name for name in REAL_DATA if (SHARED / name).is_dir())]


def check_begins(config: StudyConfig) -> None:
    """Fails unless losses, samplers and metrics fit the data in every fold, as `search run` checks it."""
    dataset = read_dataset(config.data)
    assignments = assign_folds(
        dataset.strata, dataset.groups, num_folds=config.folds.k, seed=config.folds.seed, stratified=True
    )
    check_settings(config, dataset, assignments)


@pytest.mark.parametrize("name", THERE)
def test_the_study_file_for_real_data_can_be_begun(tmp_path, name):
    """What is written is accepted, searches what is proposed and fits the data; no sampler cuts blindly by default."""
    if name == "demo":
        spec = DataSpec(path=tmp_path / "demo.csv", label="label", text=("name", "summary", "body"))
        build_demo(spec.path, rows=200, classes=5, seed=0)
    else:
        spec = DataSpec(path=SHARED / name / "train.csv.gz", label="label", text=REAL_DATA[name])
    found = survey(spec)
    write_study_file(Plan(found=found), tmp_path / "study.yaml", full=True)
    config = load_config(tmp_path / "study.yaml")
    assert config.data == spec.model_copy(update={"path": spec.path.resolve()})
    assert config.space == {
        name: proposal.domain for name, proposal in propose(Plan(found=found)).items() if proposal.searched
    }
    samplers = config.space["sampler"].values() if "sampler" in config.space else []
    assert not {"near_miss", "tomek_links", "smote_enn"} & set(samplers)
    check_begins(config)


@pytest.mark.parametrize(("columns", "has_columns"), [(("text",), False), (("text", "label"), True)])
def test_the_study_file_has_no_fields_of_other_kinds_of_data(write, tmp_path, columns, has_columns):
    """Neither relations nor images, and an architecture for columns only where there are several."""
    spec = write(rows_of(a=60, b=6)).model_copy(update={"text": columns})
    write_study_file(Plan(found=survey(spec)), tmp_path / "study.yaml", full=True)
    sections = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert not {"relation", "image", "images"} & set(sections["data"])
    names = {*sections["model"], *sections["training"]}
    assert not {"entity_form", "entity_states", "image_size", "image_augmentation"} & names
    of_columns = {"architecture", "shared_encoder", "column_max_length", "column_dropout", "fusion_width"}
    assert of_columns & names == (of_columns if has_columns else set())


def test_every_line_of_the_study_file_is_commented(write, tmp_path):
    """Above each key stands why it is there."""
    write_study_file(Plan(found=survey(write(rows_of(a=60, b=6)))), tmp_path / "study.yaml", full=True)
    lines = (tmp_path / "study.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert len(keys) > 40
    assert all(lines[number - 1].lstrip().startswith("# ") for number in keys)


def test_the_proposal_for_a_small_long_tail(write):
    """Few rows: many epochs. A tiny class: no cutting down to it, and editing by neighbours leaves it alone."""
    plan = plan_for(write, a=120, b=40, c=6)
    proposals = propose(plan)
    assert plan.num_folds == 5
    assert proposals["epochs"].domain.high == 20
    offered = ["none", "random_over", "minority_over", "enn", "smote", "class_balanced_batches"]
    assert proposals["sampler"].domain.values() == offered
    assert (
        "Without random_under: no class is much larger than the smallest class with 50 or more training rows"
        in proposals["sampler"].why
    )
    assert proposals["sampler_neighbors"].searched  # smote's


@pytest.mark.parametrize(
    ("classes", "removing", "min_rows"),
    [
        ({"a": 900, "b": 90}, ["random_under", "enn"], 0),
        ({"a": 900, "b": 90, "c": 9}, ["random_under", "enn"], 50),
        ({"a": 900, "b": 9}, ["enn"], 50),
        ({"a": 90, "b": 80, "c": 9}, ["enn"], 50),
        ({"a": 40, "b": 9}, [], 0),
    ],
)
def test_samplers_that_remove_rows_leave_small_classes_alone(write, tmp_path, classes, removing, min_rows):
    """They are proposed where some class can spare rows, with the rows that a class must have to lose any."""
    spec = write(rows_of(**classes))
    write_study_file(Plan(found=survey(spec)), tmp_path / "study.yaml", full=True)
    config = load_config(tmp_path / "study.yaml")
    assert [name for name in config.space["sampler"].values() if name in ("random_under", "enn")] == removing
    assert config.training.sampler_min_rows == min_rows
    check_begins(config)


def test_balanced_classes_need_neither_focal_loss_nor_a_sampler(write):
    """And nothing that depends on them."""
    proposals = propose(plan_for(write, a=60, b=50))
    unsearched = {name for name, proposal in proposals.items() if not proposal.searched}
    assert {"loss", "focal_gamma", "class_weights", "class_balanced_beta", "sampler", "sampler_ratio"} <= unsearched
    assert "label_smoothing" not in unsearched
    assert {"learning_rate", "epochs", "batch_size", "dropout", "label_smoothing"}.isdisjoint(unsearched)


def test_repeating_small_classes_is_bounded_by_the_length_of_an_epoch(write):
    """With many tiny classes full balance would multiply the cost."""
    plan = plan_for(write, big=400, **{f"tiny{number}": 5 for number in range(20)})
    proposals = propose(plan)
    assert "random_over" not in proposals["sampler"].domain.values()
    assert plan.growth(proposals["sampler_ratio"].domain.high) <= 4 < plan.growth(1.0)


@pytest.mark.parametrize(("classes", "folds"), [({"a": 50, "b": 5}, 5), ({"a": 50, "b": 4}, 3), ({"a": 2, "b": 1}, 2)])
def test_the_number_of_folds_follows_the_smallest_class(write, classes, folds):
    """5 where every class has a row for each fold, and never more than the largest class has."""
    assert plan_for(write, **classes).num_folds == folds


def test_only_what_is_declared_searchable_is_proposed(write):
    """The ranges come from the fields' own declarations; a loss for numbers is nothing for classes."""
    declared = {name for name, parameter in PARAMETERS.items() if parameter.suggested}
    assert propose(plan_for(write, a=9, b=9)).keys() == declared - {"huber_delta"}


def test_the_data_is_named_relative_to_the_study_file(write, tmp_path):
    """A folder with both can be moved."""
    write_study_file(Plan(found=survey(write(rows_of(a=9, b=9)))), tmp_path / "study.yaml", full=True)
    assert "  path: rows.csv\n" in (tmp_path / "study.yaml").read_text()


def test_an_existing_file_is_not_overwritten_unless_told(write, tmp_path):
    """A study file may have been edited by hand."""
    found, path = survey(write(rows_of(a=9, b=9))), tmp_path / "study.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"study\.yaml: exists already; --force overwrites it"):
        write_study_file(Plan(found=found), path, full=True)
    assert path.read_text() == "mine"
    write_study_file(Plan(found=found), path, overwrite=True, full=True)
    assert load_config(path).data.label == "label"


def test_a_folder_that_is_not_there_is_named(write, tmp_path):
    """Nothing is made by accident."""
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write_study_file(Plan(found=survey(write(rows_of(a=9, b=9)))), tmp_path / "absent" / "study.yaml", full=True)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("no", '"no"'),
        ("a/b", "a/b"),
        ("1", '"1"'),
        (1e-05, "1e-5"),
        (0.5, "0.5"),
        (None, "null"),
        (True, "true"),
        (("a", 2), "[a, 2]"),
    ],
)
def test_values_are_written_as_a_person_would(value, written):
    """Quotes only where YAML needs them."""
    assert as_yaml(value) == written


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 blue, 12 green and 6 red images of 16 x 16 pixels, one of them twice, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    write_photos(folder)
    (folder / "red" / "again.png").write_bytes((folder / "red" / "00.png").read_bytes())
    (folder / "red" / "notes.txt").write_text("no image")
    return folder


def test_a_folder_of_images_needs_nothing_else_said(photos, tmp_path, monkeypatch):
    """Its classes, sizes, duplicates and what is no image are shown; the study file begins once that is gone."""
    monkeypatch.chdir(tmp_path)
    result = search("init", photos, "--no-probe", "--full")
    assert result.exit_code == 0, result.output
    for part in ("3, imbalance 3.0 : 1", "median 16, 95% up to 16, largest 16", "red/notes.txt is no image", "1 row"):
        assert part in result.output
    (photos / "red" / "notes.txt").unlink()
    tiny = build_tiny_image_encoder(tmp_path / "vit", ViTConfig(**VIT))
    config = load_config(tmp_path / "study.yaml", ["model.encoder=vit"])
    check_begins(config)
    assert (config.data.path, config.data.image, config.data.label) == (photos, "file", "folder")
    assert (config.model.encoder, config.model.image_size) == (tiny.name, 32)
    sections = yaml.safe_load((tmp_path / "study.yaml").read_text())
    names = {*sections["model"], *sections["training"], *sections["data"]}
    assert not {"text", "relation", "max_length", "morphemes", "lora_rank", "token_masking"} & names
    assert {"image", "images", "image_size", "image_augmentation"} <= names


def test_a_zip_and_a_table_of_images_give_the_same_plan(photos, tmp_path):
    """Whichever the form; the zip file's checksums tell which images are equal."""
    (photos / "red" / "notes.txt").unlink()
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    archive = write_zip(tmp_path / "photos.zip", {path: (photos / path).read_bytes() for path in paths})
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(["path,class", *(f"{path},{path.split('/')[0]}" for path in paths)]))
    configs = []
    for data, options in (
        (photos, ()),
        (archive, ()),
        (table, ("--label", "class", "--image", "path", "--images", archive)),
    ):
        out = tmp_path / f"{data.name}.yaml"
        assert search("init", data, "--no-probe", "--out", out, *options).exit_code == 0
        configs.append(load_config(out, ["model.encoder=config:none"]))
        assert read_dataset(configs[-1].data).num_extra == 0
    assert configs[0].model == configs[1].model == configs[2].model
    assert configs[0].space == configs[1].space == configs[2].space
    assert configs[2].data.images == archive


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("rows.csv", "--label", "y"), "expected --text (or --image): the names of columns of rows.csv"),
        (("rows.csv", "--label", "y", "--text", "x", "--image", "x"), "--text and --image: found both"),
        (("rows.csv", "--text", "x"), "expected --label: the names of columns of rows.csv"),
        (("empty",), "empty: there are no data rows"),
        (("rows.csv", "--label", "y", "--image", "x"), "rows.csv: no image can be read; the first, 'a.png' under"),
    ],
)
def test_what_is_no_set_of_images_is_refused(tmp_path, monkeypatch, options, message):
    """With one line, and no study file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("x,y\na.png,a\nb.png,b\n")
    result = search("init", "--no-probe", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "study.yaml").exists()
