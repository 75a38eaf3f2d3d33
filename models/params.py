"""What of the model can be set or searched: one declaration for the study file, the space, the docs and the errors."""

from typing import Any, Literal

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


class ModelParams(BaseModel):
    """An encoder with a linear head, as the study file's `model:` section or one trial of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    encoder: str = Field(
        description="A model hub name, a pretrained model's folder, or `package:NAME/FOLDER` in an installed package."
    )
    max_length: int = searchable(128, "Tokens of a text that are kept, special tokens included.", ge=4, le=8192)
    pooling: Literal["mean", "cls"] = searchable(
        "mean", "How token states become one vector: masked mean, or the first token's.", suggest=["mean", "cls"]
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
