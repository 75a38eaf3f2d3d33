"""The model's parameters that can be set or searched, declared once for the study file, the space, docs and errors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = int | float | str | bool | None


def searchable(
    default: Any,
    meaning: str,
    *,
    suggest: dict[str, Any] | list[Scalar] | None = None,
    when: dict[str, list[str]] | None = None,
    source: str = "",
    **bounds: Any,
) -> Any:
    """Declare one field that may be fixed or searched.

    `suggest` is the range or the choices that `search init` proposes (`{"low", "high", "log"}` or a list); `when` names
    the field and its values under which this one has any effect; `bounds` are pydantic's (`ge`, `gt`, `le`, `lt`).
    """
    extra: dict[str, Any] = {"suggest": suggest, "when": when, "source": source}
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """Parameters that belong together; nothing but these may be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EncoderParams(Section):
    """The encoder, which of its layers are trained, and the head."""

    encoder: str = Field(
        description="The pretrained model: a hub name, a folder, or `package:NAME/FOLDER` in an installed package. "
        "Images: also `timm:NAME` (needs the extra `timm`), or only an architecture, trained from random weights: "
        "`config:FOLDER`, `config:FILE`, `config:timm:NAME`. A relative folder starts at the study file's folder."
    )
    max_length: int = searchable(128, "Number of tokens of a text that are kept, with special tokens.", ge=4, le=8192)
    long_text: Literal["head", "tail", "head_tail", "windows"] = searchable(
        "head",
        "What is kept of a text longer than max_length. head: its start. tail: its end. head_tail: half of each. "
        "windows: all of it, in overlapping windows whose pooled states are averaged. Only the first 8,192 tokens of a "
        "text are read.",
        source="Sun et al. 2019",
    )
    window_overlap: float = searchable(
        0.25,
        "windows: the least share of tokens that a window shares with the one before it. Windows are evenly spread, so "
        "it may be more.",
        when={"long_text": ["windows"]},
        ge=0.0,
        le=0.9,
    )
    morphemes: Literal["none", "kiwi"] = searchable(
        "none",
        "For Korean. kiwi: words are split into morphemes before the tokenizer reads them; it needs the extra "
        "`korean`.",
        source="Park et al. 2021",
    )
    pooling: Literal["mean", "cls", "max", "attention"] = searchable(
        "mean",
        "How token states become one vector. mean: their mean. cls: the first token's state. max: the maximum of each "
        "coordinate. attention: a mean weighted by learned attention. Padding never counts.",
        suggest=["mean", "cls"],
        source="attention: Yang et al. 2016",
    )
    dropout: float = searchable(
        0.1,
        "Dropout probability before the head.",
        suggest={"low": 0.0, "high": 0.5},
        source="Srivastava et al. 2014",
        ge=0.0,
        lt=1.0,
    )
    encoder_dropout: float | None = searchable(
        None, "Dropout probability inside the encoder; null: as in the pretrained model.", ge=0.0, lt=1.0
    )
    trainable_layers: int | None = searchable(
        None, "How many of the top encoder layers are trained; null: all, and the embeddings; 0: only the head.", ge=0
    )
    reinit_layers: int = searchable(
        0,
        "How many of the top encoder layers start from random weights instead of pretrained ones.",
        source="Zhang et al. 2021",
        ge=0,
    )
    lora_rank: int | None = searchable(
        None,
        "LoRA rank: low-rank updates are trained instead of the encoder's weights; null: no LoRA, the weights are "
        "trained.",
        source="Hu et al. 2022",
        ge=1,
        le=1024,
    )
    lora_alpha: float = searchable(
        16.0, "LoRA: the updates are scaled by lora_alpha / lora_rank.", source="Hu et al. 2022", gt=0.0, le=1024.0
    )
    lora_targets: Literal["attention", "all"] = searchable(
        "attention", "LoRA: which linear layers get updates: those of the attention, or all.", source="Hu et al. 2022"
    )
    gradient_checkpointing: bool = searchable(
        False, "Recompute activations in the backward pass instead of storing them: less memory, more time."
    )


class ColumnsParams(Section):
    """How several text columns are read."""

    architecture: Literal["joined", "columns"] = searchable(
        "joined",
        "joined: the text columns are joined into one text. columns: each column is read and classified separately, "
        "and a two-layer head combines the results.",
    )
    shared_encoder: bool = searchable(
        True,
        "columns: true: one encoder for all columns; false: one encoder per column.",
        when={"architecture": ["columns"]},
    )
    column_max_length: dict[str, Annotated[int, Field(ge=4, le=8192)]] = Field(
        {}, description="columns: tokens kept per column, as {column: tokens}. Other columns use max_length."
    )
    column_dropout: dict[str, Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        {},
        description="columns: dropout before a column's classifier, as {column: probability}. Other columns use "
        "dropout.",
    )
    fusion_width: int = searchable(
        256,
        "columns: units in the hidden layer (ReLU) of the head that combines the columns.",
        when={"architecture": ["columns"]},
        ge=1,
        le=8192,
    )


class RelationParams(Section):
    """How a sentence with two marked entities is read."""

    entity_form: Literal["separated", "markers", "typed_markers", "typed_punctuation"] = searchable(
        "typed_markers",
        "How the two entities of a relation are shown to the encoder. separated: before the sentence. markers: between "
        "marker tokens in the sentence. typed_markers: between markers that name their types. typed_punctuation: "
        "between punctuation marks, with their types.",
        source="Zhou and Chen 2022",
    )
    entity_states: Literal["pooled", "entities"] = searchable(
        "pooled",
        "What the head sees of a relation. pooled: the pooled states of all tokens. entities: the states at the "
        "starts of both entities.",
        source="Baldini Soares et al. 2019",
    )


class ImageParams(Section):
    """How images are read."""

    image_size: int = searchable(
        224,
        "Images are resized to this height and width in pixels, whatever their shape.",
        ge=8,
        le=2048,
    )


class ModelParams(ImageParams, RelationParams, ColumnsParams, EncoderParams):
    """An encoder with a head: the study file's `model:` section, or one trial's values of it."""
