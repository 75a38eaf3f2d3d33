"""What is refused before a study begins: what its file asks of data, losses, samplers and encoders in vain."""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fold_search.models.errors import EncoderError
from fold_search.models.params import EncoderParams, Scalar
from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.data.image_files import check_images
from fold_search.objectives.data.relations import Form, read_relations
from fold_search.objectives.params import TOKEN_CHANGES, TrainingParams
from fold_search.objectives.training.sampling import check_sampler
from fold_search.objectives.training.weights import check_loss
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.disk import EncoderSize, weigh
from fold_search.search.study.goal import make_goal
from fold_search.search.study.space import field_values

FORMS_OF_KNOWN_TOKENS = frozenset({"separated", "typed_punctuation"})
NEEDING_MASK = ("token_masking", "token_replacement")
NOT_FOR_IMAGES: dict[str, Scalar] = {
    "architecture": "joined",
    "long_text": "head",
    "lora_rank": None,
    "reinit_layers": 0,
    "gradient_checkpointing": False,
    "morphemes": "none",
    **dict.fromkeys(TOKEN_CHANGES, 0.0),
}
FOR_IMAGES_ONLY: dict[str, Scalar] = {"image_augmentation": 0.0}


def check_settings(config: StudyConfig, dataset: Dataset, assignments: NDArray[np.int16]) -> None:
    """Refuse what the study file says of metrics, losses, samplers and relations and the data cannot do.

    Raises ConfigError or DataError.
    """
    make_goal(config, dataset.label_names)
    for params in _variants(config, "loss", "class_weights", "smoothing_prior"):
        check_loss(params, task=config.data.task, label_names=dataset.label_names)
    _check_kind(config)
    if config.data.relation is not None:
        _check_relations(config, dataset)
    if config.data.image is not None:
        check_images(dataset)
    for params in _variants(config, "sampler", "sampler_neighbors", "sampler_min_rows"):
        if config.data.task == "regression" and params.sampler != "none":
            raise ConfigError(f"training.sampler: found {params.sampler} for a numeric label, expected none")
        check_sampler(params, labels=dataset.strata, assignments=assignments, label_names=dataset.label_names)


def _check_kind(config: StudyConfig) -> None:
    """Refuse settings that have no meaning for the kind of data."""
    is_image = config.data.image is not None
    for name, expected in (NOT_FOR_IMAGES if is_image else FOR_IMAGES_ONLY).items():
        if others := [value for value in field_values(config, name) if value != expected]:
            section = "training" if name in TrainingParams.model_fields else "model"
            found, what = json.dumps(others[0]), "images" if is_image else "rows that are not images"
            raise ConfigError(f"{section}.{name}: found {found} for {what}, expected {json.dumps(expected)}")


def _check_relations(config: StudyConfig, dataset: Dataset) -> None:
    # A long sentence is cut around its entities, and its columns are no texts of their own.
    for name, expected in (("long_text", "head"), ("architecture", "joined")):
        if others := [value for value in field_values(config, name) if value != expected]:
            raise ConfigError(f"model.{name}: found {others[0]} for relations, expected {expected}")
    for form in field_values(config, "entity_form"):
        read_relations(dataset, form=cast(Form, form))


def _variants(config: StudyConfig, *names: str) -> Iterator[TrainingParams]:
    """Yield the training parameters with each combination of the values that these may take."""
    for values in product(*(field_values(config, name) for name in names)):
        yield config.training.model_copy(update=dict(zip(names, values, strict=True)))


def check_encoders(config: StudyConfig) -> dict[str, EncoderSize]:
    """Refuse an encoder that cannot be used, in a process of its own: this one goes on without torch."""
    if config.data.image is not None:
        return _check_image_encoders(config)
    uses = uses_of(config)
    changes = frozenset(name for name in NEEDING_MASK if any(float(str(v)) > 0 for v in field_values(config, name)))
    encoders = [str(encoder) for encoder in field_values(config, "encoder")]
    with other_process() as child:
        if "kiwi" in field_values(config, "morphemes"):
            child.submit(_check_morphemes).result()
        for encoder in encoders:
            child.submit(try_encoder, encoder, uses, changes).result()
        return {encoder: child.submit(weigh, encoder).result() for encoder in encoders}


def uses_of(config: StudyConfig) -> dict[str, Any]:
    """Return what the study's trials ask of the encoder, as the fields of models.abilities.Uses."""
    values = {name: set(field_values(config, name)) for name in EncoderParams.model_fields}
    forms = set(field_values(config, "entity_form"))
    lengths = {*values["max_length"], *config.model.column_max_length.values()}
    return {
        "max_length": max(int(str(length)) for length in lengths),
        "trainable_layers": max(int(str(number or 0)) for number in values["trainable_layers"]),
        "reinit_layers": max(int(str(number)) for number in values["reinit_layers"]),
        "poolings": frozenset(map(str, values["pooling"])),
        "encoder_dropout": values["encoder_dropout"] != {None},
        "lora_targets": frozenset(map(str, values["lora_targets"])) if values["lora_rank"] != {None} else frozenset(),
        "gradient_checkpointing": True in values["gradient_checkpointing"],
        "new_tokens": config.data.relation is not None and not FORMS_OF_KNOWN_TOKENS.issuperset(forms),
    }


@contextmanager
def other_process() -> Iterator[ProcessPoolExecutor]:
    """Let another process import torch and look at encoders; raises ConfigError if it is killed."""
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as child:
            yield child
    except BrokenProcessPool:
        raise ConfigError(
            "model.encoder: the process that checks it was killed, perhaps because memory ran out; expected it to end"
        ) from None


def _check_image_encoders(config: StudyConfig) -> dict[str, EncoderSize]:
    layers = [int(str(value)) for value in field_values(config, "trainable_layers") if value is not None]
    dropout = [float(str(value)) for value in field_values(config, "encoder_dropout") if value is not None]
    variants = product(*(field_values(config, name) for name in ("image_size", "pooling")))
    with other_process() as child:
        if any(float(str(value)) > 0 for value in field_values(config, "image_augmentation")):
            child.submit(_check_augmentation).result()
        for (size, pooling), encoder in product(variants, map(str, field_values(config, "encoder"))):
            settings = {"image_size": int(str(size)), "pooling": str(pooling), "dropout": max(dropout, default=None)}
            settings["trainable_layers"] = max(layers, default=None)
            child.submit(_check_image_encoder, encoder, settings).result()
        return {name: child.submit(weigh, name).result() for name in map(str, field_values(config, "encoder"))}


def _check_image_encoder(encoder: str, settings: dict[str, Any]) -> None:
    from fold_search.models.images import check_image_encoder, load_image_encoder

    check_image_encoder(encoder, **settings)
    # What its files lack would be noticed only when a fold begins.
    load_image_encoder(encoder, image_size=settings["image_size"])


def _check_augmentation() -> None:
    from fold_search.objectives.tasks.image_augmentation import require_kornia

    require_kornia()


def _check_morphemes() -> None:
    from fold_search.objectives.tasks.morphemes import require_kiwi

    require_kiwi()


def try_encoder(encoder: str, uses: dict[str, Any], changes: frozenset[str]) -> None:
    """Refuse an encoder that these uses and changes of tokens cannot do with; raises EncoderError. Loads torch."""
    from fold_search.models.abilities import Uses, check_encoder
    from fold_search.models.encoders import load_tokenizer
    from fold_search.models.masked_language import load_masked_language_model

    check_encoder(encoder, Uses(**uses))
    tokenizer = load_tokenizer(encoder)
    if "token_masking" in changes and tokenizer.mask_token_id is None:
        raise EncoderError(f"encoder {encoder!r}: its tokenizer has no mask token, which training.token_masking needs")
    if "token_replacement" in changes:
        load_masked_language_model(encoder)
