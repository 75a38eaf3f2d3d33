"""From the rows of a file to the inputs of models: one way for each kind of data."""

from dataclasses import replace
from pathlib import Path

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.tasks.columns import prepare_columns
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.tasks.image import prepare_images
from fold_search.objectives.tasks.morphemes import cut_texts
from fold_search.objectives.tasks.relation import prepare_relations
from fold_search.objectives.tasks.text import prepare_text

# Trials that agree in these share their inputs.
PREPARED_FOR = ("encoder", "architecture", "entity_form", "image_size", "long_text", "morphemes")


def prepare(content: Content, *, params: ModelParams, max_length: int, cache: Path, device: str) -> Inputs:
    """Return the rows prepared for models like `params`, or find them in `cache`; `max_length` is the study's largest.

    A frozen encoder's states are computed on `device` when they are first asked for. Raises EncoderError, DataError.
    """
    kind = content.spec.kind
    if kind == "text" and params.morphemes != "none":
        content = _cut(content, params=params, cache=cache)
    if kind == "text" and params.architecture == "columns":
        return prepare_columns(content, params=params, max_length=max_length, cache=cache, device=device)
    if kind == "relation":
        return prepare_relations(
            content,
            encoder=params.encoder,
            form=params.entity_form,
            max_length=max_length,
            cache=cache,
            device=device,
            cut_words=params.morphemes != "none",
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


def _cut(content: Content, *, params: ModelParams, cache: Path) -> Content:
    """Return the rows with the texts that are read cut into morphemes."""
    if params.architecture == "columns":
        columns = {name: cut_texts(cells, cache=cache) for name, cells in content.columns.items()}
        return replace(content, columns=columns)
    return replace(content, texts=cut_texts(content.texts, cache=cache))
