"""Makes a configuration tiny: its model runs the family's own code, and is built and run in milliseconds."""

import copy
import re
from typing import Any

from transformers import PreTrainedConfig

VOCABULARY = 64
POSITIONS = 40
NUM_LAYERS = 2
WIDTH = 24  # four heads of 6; some families want it to be a multiple of 6, others of 4
LONGEST = 32  # of all sizes that no rule names

# Families have many names for their sizes. The first rule that is found in a name decides; None keeps the number.
_RULES = (
    (r"vocab_size|num_hash_buckets", VOCABULARY),
    (r"_id$|index$|seed|token_type|type_vocab|max_xpath", None),
    (r"max_position_embeddings|n_positions|max_seq_len|n_ctx|context_length", POSITIONS),
    (r"index_topk$", None),
    (r"qk_head_dim", 12),
    (r"head_?dim|d_head|dim_head|d_kv|head_size|kv_channels|rotary_dim", WIDTH // 4),
    (r"kv_heads|key_value_heads|key_heads|query_groups", 2),
    (r"heads?$", 4),
    (r"num_kv_shared_layers", 0),
    (r"^num_hidden_groups$", 1),
    (r"groups?$", 2),
    (r"^(num_)?(hidden_|encoder_|decoder_|n_)?(layers?|blocks)(_per_stack)?$|^n_layers?$", NUM_LAYERS),
    (r"hidden_size$|^d_model|^n_embd|^dim$|embed_proj_dim|lru_width|emb_dim|embedding_(dim|size)|bottleneck", WIDTH),
    (r"d_ssm", WIDTH),
    (r"hidden_size_per_layer|ple_", 8),
    (r"shrink_ratio", 2),
    (r"expand", 1),
    (r"kernel_size", 5),
    (r"coordinate_size|shape_size", 4),
    (r"per_tok|top_?k$|_k$", 2),
    (r"expert", 4),
)
# Sizes that have to fit each other, as lists.
_LISTS: dict[str, list[int]] = {
    "block_sizes": [1, 1],
    "block_repeats": [1, 1],
    "axial_pos_embds_dim": [8, 16],
    "axial_pos_shape": [5, 8],
}
_ROTARY: dict[str, Any] = {"partial_rotary_factor": 1.0, "rotary_pct": 1.0, "mrope_section": [1, 1, 1]}


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a copy of a configuration with two layers and small sizes, and everything else as it is."""
    small = copy.deepcopy(config)
    num_layers = getattr(config, "num_hidden_layers", None)
    for name, value in list(vars(small).items()):
        if not name.startswith("_"):
            setattr(small, name, _small(name, value, num_layers))
    # Each head keeps its own keys if it had them before: some families accept nothing else.
    sizes = vars(config)
    if "num_key_value_heads" in sizes and sizes["num_key_value_heads"] == sizes.get("num_attention_heads"):
        small.num_key_value_heads = 4
    return small


def _small(name: str, value: Any, num_layers: int | None) -> Any:
    if name in _LISTS:
        return type(value)(_LISTS[name])
    if name in _ROTARY and value is not None:
        return _ROTARY[name]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _small_number(name, value)
    if isinstance(value, PreTrainedConfig):
        return shrunk(value)
    if isinstance(value, dict):
        return {key: _small_rotary(key, inner) for key, inner in value.items()} if name.startswith("rope") else value
    if isinstance(value, list | tuple) and len(value) == num_layers and num_layers > NUM_LAYERS:
        # If kinds of layers alternate: the first and the last of them.
        return type(value)([value[0], value[-1]])
    if name.endswith("token_id") and isinstance(value, list):
        return [_small_number(name, token) for token in value]
    return value


def _small_number(name: str, value: int) -> int:
    if name.endswith("token_id"):
        return value if value < VOCABULARY else 3
    most = next((most for expression, most in _RULES if re.search(expression, name)), LONGEST)
    if most == POSITIONS and value > 0:
        return most
    return value if most is None else min(value, most)


def _small_rotary(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _small_rotary(key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        # One factor for each pair of dimensions of a head.
        return _ROTARY.get(name, value[: WIDTH // 8])
    return _ROTARY.get(name, value)
