"""`search init` and `search plan` on this machine: real steps of tiny encoders are timed."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, ResNetConfig

from fold_search.search.drafting import measuring
from fold_search.search.drafting.measured import Wanted
from fold_search.search.drafting.measuring import NotMeasured, try_encoder
from fold_search.search.drafting.ways import WAYS
from fold_search.search.study.beginning import begin
from fold_search.search.study.config import load_config
from fold_search.search.study.environment import Secrets
from fold_search.search.study.kept_forecast import read_forecast
from fold_search.search.study.space import usual
from tests.search.trained import search
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import build_tiny_image_encoder, write_photos, write_zip

ROWS = [f"{'ab'[row % 4 == 0]},title {row} of some,{'word ' * (row % 9)}" for row in range(60)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a table and a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("\n".join(["label,title,text", *ROWS]))
    build_tiny_encoder(tmp_path / "tiny")
    return tmp_path


INIT = ("init", "rows.csv", "--label", "label", "--text", "title", "--text", "text", "--encoder", "./tiny")


def test_init_times_the_encoder_and_writes_what_fits(folder):
    """A table of what was measured, the choice and its reason; the short file has what was chosen and nothing else."""
    result = search(*INIT, "--time", "30m")
    assert result.exit_code == 0, result.output
    for words in ("the whole encoder", "LoRA", "the top 2 layers", "a head on the frozen", "chosen", "For 30m on CPU"):
        assert words in result.output
    config = load_config(folder / "study.yaml")
    assert (config.budget.seconds, config.model.encoder) == (1800, "tiny")
    assert config.model.trainable_layers is None  # so tiny an encoder is soon trained as a whole
    text = (folder / "study.yaml").read_text()
    assert "For 30m on CPU" in text
    assert "mlflow" not in text
    assert len(text.splitlines()) < 70


def test_full_writes_every_key(folder):
    """With what each of them means."""
    assert search(*INIT, "--time", "30m", "--full").exit_code == 0
    text = (folder / "study.yaml").read_text()
    for key in ("mlflow:", "risk:", "paused_checkpoints:", "# layer_decay:"):
        assert f"  {key}" in text
    assert load_config(folder / "study.yaml").budget.seconds == 1800


def test_without_a_time_one_is_assumed_and_said(folder):
    """Half an hour where there is no GPU; nobody is asked in a script."""
    result = search(*INIT)
    assert "note: --time is not given; the study is made for " in result.output
    assert load_config(folder / "study.yaml").budget.seconds in (1800, 8 * 3600)


@pytest.mark.parametrize("text", ["", "0", "abc", "-5m", "1w", "nan"])
def test_what_is_no_time_is_refused(folder, text):
    """With one line that shows what a time looks like."""
    result = search(*INIT, "--time", text)
    assert result.exit_code == 2
    assert f"found {text!r}, expected a time such as 30m, 2h or 1h30m" in result.output


def test_an_encoder_that_cannot_be_loaded_still_gives_a_study_file(folder):
    """It says that nothing was measured, and why."""
    result = search(*(INIT[:-1]), "./absent", "--time", "30m")
    assert result.exit_code == 0, result.output
    assert "nothing was measured, so the study may not fit the time: encoder" in result.output
    assert (folder / "study.yaml").exists()


def test_a_probe_that_is_killed_is_an_answer(folder, monkeypatch):
    """As where memory runs out: this process goes on."""
    monkeypatch.setattr(measuring, "measure_here", _die)
    config_data = load_config_of(folder).data
    with pytest.raises(NotMeasured, match="was killed, perhaps because memory ran out"):
        try_encoder(config_data, str(folder / "tiny"), Wanted())


def load_config_of(folder: Path):
    search(*INIT, "--no-probe")
    return load_config(folder / "study.yaml")


def _die(*args: object, **kwargs: object) -> None:
    import os

    os._exit(9)


def test_the_time_is_in_the_file_whatever_is_measured(folder):
    """To the second: the run ends then."""
    for options, seconds in ((("--no-probe",), 89), (("--encoder", "./absent"), 600)):
        assert search(*INIT, *options, "--time", f"{seconds}s", "--force").exit_code == 0
        assert load_config(folder / "study.yaml").budget.seconds == seconds


def test_the_encoder_is_named_from_the_study_file_s_folder(folder):
    """As its relative paths are read."""
    (folder / "sub").mkdir()
    assert search(*INIT, "--no-probe", "--out", "sub/study.yaml").exit_code == 0
    assert Path(load_config(folder / "sub" / "study.yaml").model.encoder).resolve() == folder / "tiny"


def test_one_way_that_cannot_be_trained_is_no_reason_to_measure_nothing(folder):
    """An encoder of one layer has no two top layers."""
    texts = [row.partition(",")[2] for row in ROWS]
    build_shallow_encoder(folder / "shallow", texts)
    result = search(*INIT[:-1], "./shallow", "--time", "30m")
    assert result.exit_code == 0, result.output
    assert "nothing was measured" not in result.output
    assert "chosen" in result.output


def build_shallow_encoder(folder: Path, texts: list[str]) -> None:
    build_tiny_encoder(folder, texts)
    config = json.loads((folder / "config.json").read_text())
    BertModel(BertConfig(**{**config, "num_hidden_layers": 1})).save_pretrained(folder)


def test_a_label_that_is_an_id_is_pointed_out(folder):
    """Every row has its own."""
    result = search("init", "rows.csv", "--label", "title", "--text", "text", "--no-probe")
    assert "most rows have a label of their own: is this an id?" in " ".join(result.output.split())


def test_a_missing_label_shows_the_columns(folder):
    """Each with its first values, and then the one line."""
    result = search("init", "rows.csv")
    assert result.exit_code == 2
    for part in ("title", "title 0 of some", "b | a"):
        assert part in result.output
    assert "error: expected --label and --text (or --image): the names of columns of rows.csv" in result.output


def test_relations_are_known_by_their_columns(folder):
    """No option says that there are any."""
    names = ["sentence"] + [
        f"{entity}{part}" for entity in ("subject", "object") for part in ("", "_start", "_end", "_type")
    ]
    rows = [f"Ann met Bob {row},Ann,0,2,PER,Bob,8,10,PER,{'xy'[row % 2]}" for row in range(20)]
    (folder / "pairs.csv").write_text("\n".join([",".join([*names, "label"]), *rows]))
    assert search("init", "pairs.csv", "--label", "label", "--no-probe").exit_code == 0
    assert load_config(folder / "study.yaml").data.relation is not None


def test_images_beside_a_table_are_found(folder):
    """In a zip file or a folder that lies there."""
    photos = folder / "photos"
    photos.mkdir()
    write_photos(photos)
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    write_zip(folder / "all.zip", {path: (photos / path).read_bytes() for path in paths})
    (folder / "table.csv").write_text("\n".join(["file,label", *(f"{path},{path.split('/')[0]}" for path in paths)]))
    options = ("init", "table.csv", "--label", "label", "--image", "file", "--no-probe", "--force")
    assert search(*options).exit_code == 0
    assert load_config(folder / "study.yaml").data.images == folder / "all.zip"
    (folder / "all.zip").unlink()
    assert search(*options).exit_code == 0
    assert load_config(folder / "study.yaml").data.images == photos


def test_without_a_hub_images_get_a_small_network(folder, monkeypatch):
    """Written beside the study file; the study can be begun."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder / "empty"))
    photos = folder / "photos"
    photos.mkdir()
    write_photos(photos)
    result = search("init", photos, "--time", "10m")
    assert result.exit_code == 0, result.output
    assert "a small network that starts from random weights is proposed instead" in " ".join(result.output.split())
    config = load_config(folder / "study.yaml")
    assert config.model.encoder == "config:encoder.json"
    assert json.loads((folder / "encoder.json").read_text())["model_type"] == "resnet"
    assert not {"enn", "smote"} & set(config.space["sampler"].values())  # they compare rows by the encoder's states
    assert config.space["learning_rate"].low == 3e-4 < usual(config)["learning_rate"] < 3e-3


def test_plan_says_what_a_study_takes_and_the_study_remembers_it(folder):
    """Time, device hours, memory for each batch size, disk; the forecast is kept until the study begins."""
    search(*INIT, "--time", "30m")
    options = ("--set", "space.batch_size=[8,16]", "--set", "budget.trials=3")
    result = search("plan", "--config", "study.yaml", "--json", *options)
    assert result.exit_code == 0, result.output
    for step in ("reading the rows ...", "timing a few steps of ", "memory of a training step: batch_size "):
        assert step in result.stderr
    found = json.loads(result.stdout)
    low, high = found["seconds"]
    assert 0 < low < high < found["seconds_without_race"]
    assert found["trials"] == 3
    assert found["gpu_hours"] == pytest.approx([low / 3600, high / 3600])
    assert [one["batch_size"] for one in found["memory"]] == [8, 16]
    assert all(0 < one["bytes"] < one["total_bytes"] for one in found["memory"])
    assert found["variants"][0]["epoch"] < found["variants"][0]["fold_run"] < found["variants"][0]["trial"]
    assert any("disk" in line for line in found["disk"])
    config = load_config(folder / "study.yaml", options[1::2])
    kept = read_forecast(config)
    assert kept is not None
    assert kept["gpu_hours"] == found["gpu_hours"]
    study = begin(config, "s", secrets=Secrets.read())
    assert study.record.provenance["forecast"] == kept


def test_plan_shows_tables(folder):
    """For people."""
    search(*INIT, "--time", "30m")
    result = search("plan", "--config", "study.yaml", "--set", "space.batch_size=[8]")
    for words in ("one fold run", "memory of a worker", "with the race", "device time: ", "disk: "):
        assert words in result.output


def test_plan_refuses_what_run_would(folder):
    """With the same line."""
    search(*INIT, "--no-probe")
    result = search("plan", "--config", "study.yaml", "--set", "model.encoder=./absent")
    assert result.exit_code == 2
    assert "absent" in result.output
    assert "Traceback" not in result.output


def test_weights_that_are_random_are_trained_as_a_whole(folder):
    """A head on a network that was never trained would learn little."""
    build_tiny_image_encoder(
        folder / "net", ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    )
    photos = folder / "photos"
    photos.mkdir()
    write_photos(photos)
    search("init", photos, "--no-probe", "--force")
    data = load_config(folder / "study.yaml").data
    found = try_encoder(data, f"config:{folder / 'net'}", Wanted(image_size=32))
    assert list(found.training) == ["whole"]
    trained = try_encoder(data, str(folder / "net"), Wanted(image_size=32))
    assert {"head", "whole"} <= set(trained.training) <= set(WAYS)
