"""A real but tiny pretrained-model folder, so that tests train for real in milliseconds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertModel, BertTokenizer, logging

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "a buffer overflow lets a remote attacker execute code",
    "win a free prize now, call this number today",
    "see you at home this evening, shall we eat together?",
)
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_tiny_encoder(folder: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Write a randomly initialised BERT (hidden 32, 2 layers, 2 heads, 64 positions) with a tokenizer for `texts`.

    The folder holds config.json, model.safetensors and the tokenizer's files; `from_pretrained` loads it.
    The same texts give the same folder, byte for byte.
    """
    tokenizer = BertTokenizer(vocab=_vocabulary(texts), model_max_length=64)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """Every letter and the 500 commonest words: the trainer of `tokenizers` gives another order in every process."""
    words = Counter(word for text in texts for word, _ in BertPreTokenizer().pre_tokenize_str(text.lower()))
    letters = sorted(set("".join(words)))
    common = sorted(word for word, _ in words.most_common(500) if len(word) > 1)
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *common]
    return {piece: number for number, piece in enumerate(pieces)}
