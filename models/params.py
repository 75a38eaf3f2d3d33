"""What of the model can be set or searched: one declaration for the study file, the space, the docs and the errors."""

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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EncoderParams(_Section):
    """The encoder, what of it is trained, and the head."""

    encoder: str = Field(
        description="A model hub name, a pretrained model's folder, or `package:NAME/FOLDER` in an installed package; "
        "for images also `timm:NAME` (the extra `timm`), and `config:FOLDER`, `config:FILE` or `config:timm:NAME`: "
        "that architecture, trained from random weights. A relative folder starts at the study file's."
    )
    max_length: int = searchable(128, "Tokens of a text that are kept, special tokens included.", ge=4, le=8192)
    long_text: Literal["head", "tail", "head_tail", "windows"] = searchable(
        "head",
        "What of a longer text is kept: its beginning, its end, half of each, or all of it in overlapping windows "
        "whose pooled states are averaged. Of a text's tokens the first 8,192 are looked at.",
        source="Sun et al. 2019",
    )
    window_overlap: float = searchable(
        0.25,
        "Windows: the share of its tokens that a window has in common with the one before, or more: windows are evenly "
        "spread.",
        when={"long_text": ["windows"]},
        ge=0.0,
        le=0.9,
    )
    morphemes: Literal["none", "kiwi"] = searchable(
        "none",
        "Korean: whether words are cut into their morphemes, with a space between them, before the tokenizer reads "
        "them; kiwi needs the extra `korean`.",
        source="Park et al. 2021",
    )
    pooling: Literal["mean", "cls", "max", "attention"] = searchable(
        "mean",
        "How token states become one vector: masked mean, the first token's, the masked maximum of each coordinate, or "
        "a mean weighted by learned attention.",
        suggest=["mean", "cls"],
        source="attention: Yang et al. 2016",
    )
    dropout: float = searchable(
        0.1,
        "Dropout probability before the linear head.",
        suggest={"low": 0.0, "high": 0.5},
        source="Srivastava et al. 2014",
        ge=0.0,
        lt=1.0,
    )
    encoder_dropout: float | None = searchable(
        None, "Dropout probability inside the encoder; null keeps the pretrained configuration's.", ge=0.0, lt=1.0
    )
    trainable_layers: int | None = searchable(
        None, "How many top encoder layers are trained; null trains all and the embeddings, 0 the head only.", ge=0
    )
    reinit_layers: int = searchable(
        0, "How many top encoder layers start anew from random weights.", source="Zhang et al. 2021", ge=0
    )
    lora_rank: int | None = searchable(
        None,
        "Rank of the low-rank updates that are trained in place of the encoder's own weights; null: those themselves.",
        source="Hu et al. 2022",
        ge=1,
        le=1024,
    )
    lora_alpha: float = searchable(
        16.0, "LoRA: the updates are scaled by this over the rank.", source="Hu et al. 2022", gt=0.0, le=1024.0
    )
    lora_targets: Literal["attention", "all"] = searchable(
        "attention", "LoRA: which linear layers are updated: those of the attention, or all.", source="Hu et al. 2022"
    )
    gradient_checkpointing: bool = searchable(
        False, "Compute activations again in the backward pass instead of keeping them: less memory, more time."
    )


class ColumnsParams(_Section):
    """How several text columns are read."""

    architecture: Literal["joined", "columns"] = searchable(
        "joined",
        "joined: one encoder reads the text columns one after the other; columns: each column is read and classified "
        "by itself, and a two-layer head fuses what they say.",
    )
    shared_encoder: bool = searchable(
        True, "columns: whether one encoder reads all columns, or each its own.", when={"architecture": ["columns"]}
    )
    column_max_length: dict[str, Annotated[int, Field(ge=4, le=8192)]] = Field(
        {}, description="columns: tokens kept of a column, as {column: tokens}; max_length for those not named."
    )
    column_dropout: dict[str, Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        {},
        description="columns: dropout before a column's own classifier, as {column: probability}; dropout otherwise.",
    )
    fusion_width: int = searchable(
        256,
        "columns: units of the fusing head's hidden layer (ReLU).",
        when={"architecture": ["columns"]},
        ge=1,
        le=8192,
    )


class RelationParams(_Section):
    """How a sentence with two marked entities is read."""

    entity_form: Literal["separated", "markers", "typed_markers", "typed_punctuation"] = searchable(
        "typed_markers",
        "Relations: how the entities are shown: before the sentence and separated from it, between marker tokens in "
        "it, between markers that name their types, or between punctuation and the types' names.",
        source="Zhou and Chen 2022",
    )
    entity_states: Literal["pooled", "entities"] = searchable(
        "pooled",
        "Relations: what the head sees: the pooled states of all tokens, or those at the starts of both entities.",
        source="Baldini Soares et al. 2019",
    )


class ImageParams(_Section):
    """How images are read."""

    image_size: int = searchable(
        224,
        "Images: their height and width in pixels as the encoder sees them, whatever their shape.",
        ge=8,
        le=2048,
    )


class ModelParams(ImageParams, RelationParams, ColumnsParams, EncoderParams):
    """An encoder with a head, as the study file's `model:` section or one trial of it."""
