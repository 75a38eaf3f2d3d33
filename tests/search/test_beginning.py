"""Beginning and continuing a study: what is recorded, and what is refused when it has changed."""

import importlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertModel, ViTConfig

from fold_search.models.errors import EncoderError
from fold_search.objectives.stages import Stage
from fold_search.search.errors import ConfigError
from fold_search.search.racing.live import live_race
from fold_search.search.running.continuing import reopen_if_work_is_left
from fold_search.search.running.objective import Objective
from fold_search.search.running.run import Ending, run_study
from fold_search.search.running.worker import Worker
from fold_search.search.study.beginning import begin
from fold_search.search.study.checks import other_process, try_encoder, uses_of
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.environment import Secrets
from fold_search.search.study.opened import OpenStudy, find, on_this_machine
from fold_search.search.study.rows import StudyRows
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.records import StudyState, TrialState
from tests.search.scripted import Script
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import VIT, build_tiny_image_encoder, write_photos

ROWS = [f"text number {number},{'abb'[number % 3]}" for number in range(30)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study file on thirty rows, one of a class of its own, and its study `tiny`, just begun."""
    folder = tmp_path_factory.mktemp("begun")
    write_data(folder, [*ROWS, "the only one,rare"])
    study = {
        "data": {"path": "data.csv", "label": "label", "text": "text"},
        "model": {"encoder": str(build_tiny_encoder(folder / "encoder")), "max_length": 16},
        "folds": {"k": 3},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    begin(load(folder), "tiny", secrets=Secrets())
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    return shutil.copytree(begun, tmp_path / "copy")


def load(folder: Path, *overrides: str) -> StudyConfig:
    return load_config(folder / "study.yaml", [f"storage.url=sqlite:///{folder / 'study.db'}", *overrides])


def again(folder: Path, *overrides: str) -> OpenStudy:
    return begin(load(folder, *overrides), "tiny", secrets=Secrets())


def write_data(folder: Path, rows: list[str]) -> None:
    (folder / "data.csv").write_text("\n".join(["text,label", *rows, ""]))


def test_a_study_records_where_it_comes_from(folder: Path):
    """Fingerprints of data, folds and study file; versions; and a note that names the class with too few rows."""
    study = again(folder)
    assert set(study.record.fingerprints) == {"data", "folds", "config"}
    assert {"torch", "optuna"} <= set(study.record.provenance["packages"])
    assert "rare" in study.notes[0]
    assert len(study.ledger.assignments()) == 31
    assert study.record.config["folds"]["k"] == 3


class Here:
    """An engine whose one worker trains in this thread, whenever it is tended."""

    error, too_many_deaths = None, False

    def __init__(self, study: OpenStudy, config: StudyConfig, folder: Path) -> None:
        self.worker = Worker(
            ledger=study.ledger,
            artifacts=Artifacts(str(folder / "artifacts")),
            objective=Script(lambda trial, fold: [0.5]),
            race=live_race(study.ledger, config),
            owner="here",
            stop=threading.Event(),
        )

    def start(self) -> None:
        """It needs no start."""

    def tend(self) -> list[str]:
        while (claim := self.worker.claim()) is not None:
            self.worker.train(claim)
        return []

    def stop(self) -> None:
        """It works only when it is tended."""

    def doing(self) -> dict[str, Stage | None]:
        return {}

    def alive(self) -> bool:
        return False

    def kill(self) -> list[str]:
        return []


@pytest.mark.parametrize("name", ["tiny", "new"])
def test_a_run_reads_its_data_once(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """Though it begins the study with them, and pools each trial's scores over them; and it opens the database once."""
    calls: list[str] = []
    for place, function in (("beginning", "read_dataset"), ("rows", "read_dataset"), ("beginning", "connect")):
        module = importlib.import_module(f"fold_search.search.study.{place}")
        real = getattr(module, function)

        def counted(given: object, real: Callable[[object], object] = real) -> object:
            calls.append(real.__name__)
            return real(given)

        monkeypatch.setattr(module, function, counted)
    config = load(folder, "budget.trials=1", "trackers.mlflow.enabled=false", f"storage.artifacts={folder}/artifacts")
    study = begin(config, name, secrets=Secrets())
    pooled: list[int] = []
    real_score = StudyRows.pooled_score

    def score(rows: StudyRows, trial: int) -> float | None:
        pooled.append(len(rows.dataset.labels))
        return real_score(rows, trial)

    monkeypatch.setattr(StudyRows, "pooled_score", score)
    engine, console = Here(study, config, folder), Console(quiet=True)
    assert run_study(study, config, owner="run", engine=engine, secrets=Secrets(), console=console) is Ending.FINISHED
    assert pooled == [31]
    assert sorted(calls) == ["connect", "read_dataset"]


def test_a_study_is_not_continued_on_changed_data(folder: Path):
    """The line says what changed and what to do."""
    write_data(folder, [*ROWS, "the only one,b"])
    with pytest.raises(ConfigError, match="the data file's rows changed since it began"):
        again(folder)


def test_classes_that_look_alike_are_told(folder: Path):
    """With their rows, whether the study is new or goes on; they stay classes of their own."""
    write_data(folder, [*ROWS, *(f"another text {row},b " for row in range(4))])
    for _ in range(2):
        study = begin(load(folder), "alike", secrets=Secrets())
        [note] = [note for note in study.notes if "look alike" in note]
        assert note.startswith("some class names look alike: 'b' (20 rows), 'b ' (4 rows) differ in white space only.")
    assert study.record.provenance["classes"] == 3


TWINS = [f"{text} {number},{'ab'[number % 2]}" for number in range(20) for text in ("M\u00fcll", "Mu\u0308ll")]


def test_texts_that_read_alike_are_never_on_both_sides(folder: Path):
    """No fold trains on the decomposed form of a text that it validates, and the proof says so."""
    write_data(folder, TWINS)
    study = begin(load(folder), "twins", secrets=Secrets())
    assert apart(study) == []
    assert leaks(study, load(folder)) == [0, 0, 0]


def test_folds_that_another_version_made_stay_and_the_leak_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """It took twins for two texts: a note says so, the study goes on, and the proof of each fold run counts them."""
    write_data(folder, TWINS)
    with monkeypatch.context() as earlier:
        earlier.setattr("fold_search.objectives.data.same_text.canonical", lambda text: " ".join(text.lower().split()))
        begun = begin(load(folder), "twins", secrets=Secrets())
        assert leaks(begun, load(folder)) == [0, 0, 0]
    folds = begun.ledger.assignments()
    num_apart = 2 * int((folds[::2] != folds[1::2]).sum())
    study = begin(load(folder), "twins", secrets=Secrets())
    [note] = apart(study)
    assert note.startswith(
        f"{num_apart} rows have the same text as a row in another fold: an earlier version of this program"
    )
    assert study.ledger.assignments().tolist() == folds.tolist()
    assert sum(leaks(study, load(folder))) == num_apart > 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["data.group=document"], "data.group puts the rows of one document into one fold, whatever their text"),
        (["folds.group_duplicates=false"], "folds.group_duplicates is false, so scores may be better than on new rows"),
    ],
)
def test_texts_that_may_be_in_two_folds_are_counted(folder: Path, settings: list[str], why: str):
    """The study file allows it, so that it is no leak."""
    rows = [f"{row},{number}" for number, row in enumerate(TWINS)]
    (folder / "data.csv").write_text("\n".join(["text,label,document", *rows, ""]))
    config = load(folder, *settings)
    study = begin(config, "twins", secrets=Secrets())
    [note] = apart(study)
    assert note.endswith(f" rows have the same text as a row in another fold: {why}")
    assert leaks(study, config) == [0, 0, 0]


def test_a_document_in_two_folds_is_a_leak(folder: Path):
    """The proof compares rows by what the study file keeps together."""
    rows = [f"text {number},{'ab'[number % 2]},{number // 2}" for number in range(40)]
    (folder / "data.csv").write_text("\n".join(["text,label,document", *rows, ""]))
    config = load(folder, "data.group=document")
    study = begin(load(folder), "documents", secrets=Secrets())
    folds = study.ledger.assignments()
    assert sum(leaks(study, config)) == 2 * (folds[::2] != folds[1::2]).sum() > 0


def apart(study: OpenStudy) -> list[str]:
    """The notes on texts in several folds."""
    return [note for note in study.notes if "as a row in another fold" in note]


def leaks(study: OpenStudy, config: StudyConfig) -> list[int]:
    """What the leak proof of each fold counts."""
    objective = Objective(StudyRows(ledger=study.ledger, config=config), device="cpu")
    return [objective.training(objective.job({}, fold)).sample.num_validation_rows_used for fold in range(3)]


def test_a_study_is_not_continued_with_another_study_file(folder: Path):
    """Every difference is named; a new budget is none."""
    with pytest.raises(ConfigError, match=r"training\.epochs: 4 -> 9; undo") as refused:
        again(folder, "training.epochs=9", "budget.trials=7")
    assert "budget" not in str(refused.value)
    assert again(folder, "budget.trials=7").record.config["budget"]["trials"] == 7


@pytest.mark.parametrize("rule", ["forgiving", "early_stopping_cv"])
def test_a_study_whose_race_had_another_name_goes_on(folder: Path, rule: str):
    """Recorded as `forgiving`, it is continued by its old study file or by one with the new name."""
    study = begin(load(folder, "race.rule=early_stopping_cv"), "old", secrets=Secrets())
    study.ledger.update_config({**study.record.config, "race": {**study.record.config["race"], "rule": "forgiving"}})
    assert on_this_machine(study.ledger.study(), []).race.rule == "early_stopping_cv"
    continued = begin(load(folder, f"race.rule={rule}"), "old", secrets=Secrets())
    assert continued.record.config["race"]["rule"] == "early_stopping_cv"
    with pytest.raises(ConfigError, match=r'race\.rule: "early_stopping_cv" -> "paired"'):
        begin(load(folder), "old", secrets=Secrets())


def test_a_finished_study_is_opened_again_only_for_more_trials(folder: Path):
    """The same budget leaves it finished."""
    study = again(folder, "budget.trials=1")
    study.ledger.add_trial(0, {})
    study.ledger.finish_trial(0, TrialState.FAILED)
    study.ledger.mark_told(0)
    study.ledger.finish_study("done")
    finished = again(folder, "budget.trials=1")
    assert not reopen_if_work_is_left(finished, load(folder, "budget.trials=1"))
    assert reopen_if_work_is_left(finished, load(folder, "budget.trials=2"))
    assert study.ledger.study().state is StudyState.RUNNING


def test_a_worker_may_change_paths_and_nothing_that_is_trained(folder: Path):
    """Its machine may have the data elsewhere."""
    record = again(folder).record
    assert str(on_this_machine(record, ["data.path=/elsewhere.csv"]).data.path) == "/elsewhere.csv"
    with pytest.raises(ConfigError, match=r"training\.epochs: 4 -> 9"):
        on_this_machine(record, ["training.epochs=9"])


def test_an_unknown_study_names_the_nearest(folder: Path):
    """A slip of the pen is recognised."""
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        find("tine", url=f"sqlite:///{folder / 'study.db'}")


def test_a_process_that_is_killed_while_it_looks_at_encoders_is_one_line():
    """As Linux does where memory runs out."""
    said = r"model\.encoder: the process that checks it was killed"
    with pytest.raises(ConfigError, match=said), other_process() as child:
        child.submit(os._exit, 137).result()


def test_an_image_encoder_that_would_fail_in_training_is_refused_before_the_study_begins(tmp_path: Path):
    """Weights that its file lacks are named in one line, and nothing is written."""
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos")
    encoder = build_tiny_image_encoder(tmp_path / "vit", ViTConfig(**VIT))
    weights = load_file(encoder / "model.safetensors")
    gone = next(name for name in weights if "layers.1." in name or "layer.1." in name)
    save_file({name: weight for name, weight in weights.items() if name != gone}, encoder / "model.safetensors")
    study = {
        "data": {"path": "photos", "image": "file", "label": "folder"},
        "model": {"encoder": str(encoder), "image_size": 16},
        "folds": {"k": 3},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(EncoderError, match=r"its file has no .* \(1 weights are missing\)$"):
        begin(load(tmp_path), "photos", secrets=Secrets())
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.trainable_layers=1"],
            "trainable_layers is 1, but albert has no list of layers with weights of their",
        ),
        (["space={reinit_layers: {low: 0, high: 2}}"], "reinit_layers is 2, but albert has no list of layers"),
        (["model.gradient_checkpointing=true"], "gradient_checkpointing is true, but albert cannot"),
        (["space={gradient_checkpointing: [false, true]}"], "gradient_checkpointing is true, but albert cannot"),
        (["space={max_length: [16, 65]}"], "max_length is 65, the encoder takes 64"),
    ],
)
def test_what_a_family_cannot_do_is_refused_before_the_study_begins(folder, overrides, message):
    """Whether it is fixed or only one of the values that are searched."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = AlbertConfig(vocab_size=200, embedding_size=16, max_position_embeddings=64, **sizes)
    AlbertModel(config).save_pretrained(folder / "encoder")
    said = encoder_refusal(folder, *overrides)
    assert said is not None
    assert message in said
    assert "\n" not in said


def test_what_a_family_can_do_is_not_refused(folder):
    """Low-rank updates, dropout and pooling by the first token go together with layers that share their weights."""
    config = AlbertConfig(vocab_size=200, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    AlbertModel(config).save_pretrained(folder / "encoder")
    space = "space={pooling: [mean, cls], lora_targets: [attention, all]}"
    asked = ["model.lora_rank=2", "model.encoder_dropout=0.2", space]
    assert encoder_refusal(folder, *asked) is None


def encoder_refusal(folder: Path, *overrides: str) -> str | None:
    """What is said against the encoder for such a study, if anything is."""
    try:
        try_encoder(str(folder / "encoder"), uses_of(load(folder, *overrides)), frozenset())
    except EncoderError as error:
        return str(error)
    return None
