"""From the rows of a file to what models are fed with: one way for each kind of data."""

from pathlib import Path

from models.params import ModelParams
from objectives.data import Content
from objectives.tasks.columns import prepare_columns
from objectives.tasks.feeds import Inputs
from objectives.tasks.image import prepare_images
from objectives.tasks.relation import prepare_relations
from objectives.tasks.text import prepare_text

# Trials that agree in these share their inputs.
PREPARED_FOR = ("encoder", "architecture", "entity_form", "image_size", "long_text")


def prepare(content: Content, *, params: ModelParams, max_length: int, cache: Path, device: str) -> Inputs:
    """Return the rows prepared for models like `params`, whose largest max_length is given; found again in `cache`.

    What a frozen encoder makes of them is computed on `device` when it is first asked for. Raises EncoderError,
    DataError.
    """
    kind = content.spec.kind
    if kind == "text" and params.architecture == "columns":
        return prepare_columns(content, params=params, max_length=max_length, cache=cache, device=device)
    if kind == "relation":
        return prepare_relations(
            content, encoder=params.encoder, form=params.entity_form, max_length=max_length, cache=cache, device=device
        )
    if kind == "image":
        return prepare_images(content, encoder=params.encoder, image_size=params.image_size, cache=cache, device=device)
    return prepare_text(
        content,
        encoder=params.encoder,
        max_length=max_length,
        cache=cache,
        device=device,
        whole=params.long_text != "head",
    )
