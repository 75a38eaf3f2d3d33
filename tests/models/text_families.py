"""Every family of text encoders that transformers knows, tried through the product's own functions on a tiny model."""

import inspect
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from fold_search.models.abilities import Family, Uses, check_encoder, check_kind, longest_text
from fold_search.models.abilities import try_family as probe
from fold_search.models.encoders import load_config, load_encoder, load_tokenizer, quietly, text_model
from fold_search.models.errors import EncoderError
from fold_search.models.params import ModelParams
from fold_search.models.reading import lower_states, read_states, upper_states
from fold_search.models.shrinking import shrunk
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.text import prepare_text
from fold_search.objectives.training.fold import FoldTraining
from tests.one_member import export

COLUMNS = {
    "trains": "all of it is trained in full, or the head alone",
    "top layers": "`trainable_layers` and `reinit_layers`: single layers can be told apart",
    "states kept": "where only top layers are trained, what those below make of the rows is computed once a study; if "
    "not, the whole encoder is run every epoch, with the same result",
    "LoRA": "`lora_rank`: for which `lora_targets`",
    "cls": "`pooling: cls`: the first token knows of the others",
    "dropout": "`encoder_dropout`",
    "checkpointing": "`gradient_checkpointing`",
    "new tokens": "relations with `entity_form: markers` or `typed_markers`",
    "longest text": "the largest `max_length`: any, or by the positions that the configuration names",
}
# What a family's own configuration leaves open, though every pretrained model of it says so.
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1]}
OPEN: dict[str, dict[str, Any]] = {
    "ministral": {"head_dim": 6},
    "hunyuan_v1_dense": {"head_dim": 6},
    "hunyuan_v1_moe": {"head_dim": 6},
    "glm4v_text": {"rope_parameters": MROPE},
    "glm4v_moe_text": {"rope_parameters": MROPE},
    "glm_image_text": {"rope_parameters": MROPE},
    "glm_ocr_text": {"rope_parameters": MROPE},
    "qwen2_vl_text": {"rope_parameters": MROPE},
    "qwen2_5_vl_text": {"rope_parameters": MROPE},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note_text": {"num_hidden_layers": 2},
    "embedding_gemma2_text": {"num_hidden_layers": 2},
    "gemma4_text": {"num_hidden_layers": 2},
    "gemma4_unified_text": {"num_hidden_layers": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 4},
    "funnel": {"architectures": ["FunnelModel"]},
    "lfm2_moe": {"layer_types": ["conv"] * 16 + ["full_attention"] * 16},
    "nemotron": {"num_key_value_heads": 2},
    "xmod": {"default_language": "en_XX"},
}
WORDS = ["invoice", "charge", "refund", "password", "account", "parcel", "late", "box", "hello", "thanks"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 13


def _takes_ids(name: str) -> bool:
    """Whether the family's model is made for token ids; one whose code cannot even be loaded may be."""
    try:
        family = MODEL_MAPPING[CONFIG_MAPPING[name]]
        family = family[0] if isinstance(family, tuple | list) else family
        return family.main_input_name == "input_ids" and "input_ids" in inspect.signature(family.forward).parameters
    except (ImportError, ValueError):
        return False


# Newer versions of transformers add to them by themselves.
with quietly():
    FAMILIES: tuple[str, ...] = tuple(name for name in sorted(MODEL_MAPPING_NAMES) if _takes_ids(name))


def try_family(name: str, folder: Path) -> dict[str, str]:
    """Return for each of COLUMNS `yes`, or what holds in its place; of a refused family `trains` alone, the reason.

    AssertionError if the family cannot do what the product lets pass, or takes lengths that it refuses.
    """
    # The product tries a family once a study, and is asked about it here once for each column.
    with quietly(), patch("fold_search.models.abilities.try_family", _once(probe)):
        encoder = _write_encoder(name, folder / "encoder")
        if (reason := _refusal(encoder)) is not None:
            return {"trains": reason}
        return _Tried(encoder, folder).row()


class _Tried:
    """One family whose use the product does not refuse."""

    def __init__(self, encoder: str, folder: Path) -> None:
        self._encoder = encoder
        self._folder = folder
        self._dataset = _write_dataset(folder / "rows.csv")
        self._inputs = prepare_text(self._dataset, encoder=encoder, max_length=LONGEST, cache=folder / "cache")
        self._model = load_encoder(encoder).eval()
        self._ids = torch.tensor([[2, 10, 11, 12, 13, 3], [2, 14, 15, 3, 0, 0]])
        self._mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

    def row(self) -> dict[str, str]:
        self._train()
        self._train(trainable_layers=0, is_exported=False)
        self._ignores_padding()
        # One step of what is trained otherwise is taken by the product itself, before it lets it pass.
        top_layers = self._allows(trainable_layers=1, reinit_layers=1)
        if top_layers:
            self._train(trainable_layers=1, is_exported=False)
        targets = [name for name in ("attention", "all") if self._allows(lora_targets=frozenset({name}))]
        if targets:
            self._train(lora_rank=2, lora_targets=targets[-1])
        return {
            "trains": "yes",
            "top layers": _yes(top_layers),
            "states kept": _yes(top_layers and self._keeps_states()),
            "LoRA": " and ".join(targets) or "no",
            "cls": _yes(self._reads_the_first_token()),
            "dropout": _yes(self._obeys_dropout()),
            "checkpointing": _yes(self._allows(gradient_checkpointing=True)),
            "new tokens": _yes(self._allows(new_tokens=True)),
            "longest text": self._longest(),
        }

    def _allows(self, **uses: Any) -> bool:
        return _refusal(self._encoder, **uses) is None

    def _train(self, *, is_exported: bool = True, **model: Any) -> None:
        """Train one epoch of two steps; the exported model predicts what was validated."""
        job = FoldJob(
            params=Params(
                model=ModelParams(encoder=self._encoder, max_length=LONGEST, **model),
                training=TrainingParams(epochs=1, batch_size=4, learning_rate=1e-3),
            ),
            goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
            labels=self._dataset.labels,
            label_names=tuple(self._dataset.label_names),
            training_rows=np.arange(8),
            validation_rows=np.arange(8, 12),
            seed=1,
        )
        training = FoldTraining(job, inputs=self._inputs, device="cpu")
        (score,) = training.epochs()
        assert np.isfinite(score.metrics["train_loss"]), model
        if not is_exported:
            return
        folder = self._folder / f"model-{'-'.join(model) or 'full'}"
        exported = export(training, folder, job=job, inputs=self._inputs, dataset=self._dataset)
        predicted = exported.predict(self._dataset)[8:]
        np.testing.assert_allclose(predicted, training.best_predictions, atol=1e-4, err_msg=str(model))
        shutil.rmtree(folder)

    def _ignores_padding(self) -> None:
        together = self._states(self._model)[1, :4]
        alone = read_states(self._model, input_ids=self._ids[1:, :4], attention_mask=self._mask[1:, :4])[0]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)

    def _keeps_states(self) -> bool:
        """Whether a prefix is kept; then both parts, one after the other, have to be the whole."""
        if self._inputs.prefix({"max_length": LONGEST, "long_text": "head", "overlap": 0.0}, num_layers=1) is None:
            return False
        inputs = {"input_ids": self._ids, "attention_mask": self._mask}
        with torch.no_grad():
            states = lower_states(self._model, num_layers=1, **inputs) * self._mask.unsqueeze(-1)
            found = upper_states(self._model, num_layers=1, states=states, attention_mask=self._mask)
        whole = self._states(self._model)
        torch.testing.assert_close(found[self._mask > 0], whole[self._mask > 0], atol=1e-4, rtol=1e-4)
        return True

    def _reads_the_first_token(self) -> bool:
        ids = self._ids.clone()
        ids[0, 5] = 20
        whole = self._states(self._model)
        changed = read_states(self._model, input_ids=ids, attention_mask=self._mask)[0, 0]
        is_seen = not torch.allclose(changed, whole[0, 0], rtol=0, atol=2e-6 * whole.abs().max().item())
        assert is_seen == self._allows(poolings=frozenset({"cls"}))
        return is_seen

    def _obeys_dropout(self) -> bool:
        if not self._allows(encoder_dropout=True):
            return False
        none, most = (self._states(load_encoder(self._encoder, dropout=dropout).train()) for dropout in (0.0, 0.9))
        assert not torch.allclose(none, most, rtol=0, atol=1e-3)
        return True

    def _longest(self) -> str:
        """The largest length that passes can be read, and one more cannot."""
        config = load_config(self._encoder)
        longest = longest_text(config, probe(config))
        if longest is None:
            self._read(100)
            assert self._allows(max_length=8192)
            return "any"
        self._read(longest)
        assert self._allows(max_length=longest)
        assert not self._allows(max_length=longest + 1)
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            self._read(longest + 1)
        reserved = config.max_position_embeddings - longest if hasattr(config, "max_position_embeddings") else 0
        return f"positions - {reserved}" if reserved else "positions"

    @torch.no_grad()
    def _states(self, model: PreTrainedModel) -> torch.Tensor:
        return read_states(model, input_ids=self._ids, attention_mask=self._mask)

    @torch.no_grad()
    def _read(self, length: int) -> None:
        ids = torch.full((1, length), 9)
        read_states(self._model, input_ids=ids, attention_mask=torch.ones_like(ids))


def _refusal(encoder: str, **uses: Any) -> str | None:
    """Return why the product refuses the encoder before a study begins, on one line; None if it does not."""
    try:
        check_encoder(encoder, Uses(**uses))
        load_tokenizer(encoder)
    except EncoderError as error:
        message = str(error)
        assert "\n" not in message
        return message.removeprefix(f"encoder {encoder!r}: ").replace(encoder, "its folder")
    return None


def _once(function: Callable[[Any], Family]) -> Callable[[Any], Family]:
    """Return a function that answers as it first did; Unfit is raised again and again."""
    found: list[Family] = []

    def answer(config: Any) -> Family:
        if not found:
            found.append(function(config))
        return found[0]

    return answer


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _write_encoder(name: str, folder: Path) -> str:
    """Write a tiny encoder of random weights, or its configuration alone where it cannot be built or reads no text."""
    folder.mkdir()
    torch.manual_seed(0)
    try:
        config = CONFIG_MAPPING[name](**OPEN.get(name, {}))
        config.save_pretrained(folder)
        check_kind(config)
        small = shrunk(config)
        text_model(small).from_config(small).save_pretrained(folder)
    except Exception:
        # Whatever it was, the product has to say so by itself.
        (folder / "model.safetensors").touch()
        if not (folder / "config.json").is_file():
            (folder / "config.json").write_text(json.dumps({"model_type": name}))
    else:
        _write_tokenizer(folder, pad_id=getattr(small, "pad_token_id", None))
    return str(folder)


def _write_tokenizer(folder: Path, *, pad_id: int | None) -> None:
    """Write a small tokenizer that pads with what the family's configuration says.

    It is of word pieces, or of pairs of characters where the family's own class takes nothing else.
    """
    special = SPECIAL[1:]
    special.insert(pad_id if pad_id is not None and pad_id < len(SPECIAL) else 0, SPECIAL[0])
    numbers = [str(number) for number in range(10)]
    pieces = Tokenizer(models.WordPiece(_numbered([*special, *WORDS, *numbers]), unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    letters = sorted({*"".join(WORDS), *numbers, "\u0120"})
    pairs = Tokenizer(models.BPE(_numbered([*special, *letters]), merges=[], unk_token="[UNK]"))
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    for tokenizer in (pieces, pairs):
        ends = [(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
        with suppress(EncoderError):
            load_tokenizer(str(folder))
            return


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _write_dataset(file: Path) -> Dataset:
    """12 rows of two classes, of 1 to 11 words."""
    rows = [f"{' '.join([WORDS[row % 10]] * (row % 11 + 1))},{'ab'[row % 2]}" for row in range(12)]
    file.write_text("\n".join(["text,label", *rows, ""]))
    return read_dataset(DataSpec(path=file, label="label", text=("text",)))
