"""Begin a study or continue it: check the data and settings, fix the folds, refuse changes of a begun study."""

import importlib.metadata
import json
import multiprocessing
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fold_search.models.errors import EncoderError
from fold_search.models.params import EncoderParams, Scalar
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import EXTRA, assign_folds, fingerprint_folds
from fold_search.objectives.data.image_files import check_images
from fold_search.objectives.data.relations import Form, read_relations
from fold_search.objectives.params import TOKEN_CHANGES, TrainingParams
from fold_search.objectives.training.sampling import check_sampler
from fold_search.objectives.training.weights import check_loss
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, config_from_record, differences, fingerprint, to_record
from fold_search.search.study.disk import EncoderSize, check_disk, weigh
from fold_search.search.study.encoder_places import as_begun
from fold_search.search.study.environment import Secrets, storage_url
from fold_search.search.study.goal import make_goal, study_metric
from fold_search.search.study.notes import notes_on
from fold_search.search.study.opened import OpenStudy
from fold_search.search.study.rows import rows_together
from fold_search.search.study.space import field_values
from fold_search.search.terminal import visible
from fold_search.storage.catalog import create_study, find_study
from fold_search.storage.database import connect, exists, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyRecord

LONGEST_NAME = 256  # MLflow's experiments are named after studies
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
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "optuna",
    "scikit-learn",
    "imbalanced-learn",
    "numpy",
    "mlflow",
)


def begin(config: StudyConfig, name: str, *, secrets: Secrets, num_workers: int = 1) -> OpenStudy:
    """Open the study `name`, or create it.

    Raises DataError, ConfigError, EncoderError or StorageError before anything is written.
    """
    _check_name(name)
    dataset = read_dataset(config.data)
    assignments = _assign(dataset, config)
    check_settings(config, dataset, assignments)
    url = storage_url(config, secrets)
    notes: list[str] = []
    if not _is_begun(name, url=url):
        encoders = _check_encoders(config)
        notes = check_disk(config, dataset, encoders=encoders, num_workers=num_workers)
    engine = connect(url)
    migrate(engine)
    prints = {"data": dataset.fingerprint, "folds": fingerprint_folds(assignments), "config": fingerprint(config)}
    record = find_study(engine, name)
    if record is None:
        metric = study_metric(config)
        record = create_study(
            engine,
            name=name,
            config=to_record(config),
            metric=metric.name,
            direction=metric.direction,
            fingerprints=prints,
            provenance=provenance(dataset),
            assignments=assignments,
        )
    _check_unchanged(record, config, prints)
    config = as_begun(config_from_record(record.config), config)
    ledger = Ledger(engine, record.id)
    notes = [*notes_on(dataset, config, ledger.assignments()), *notes]
    ledger.update_config(to_record(config))
    return OpenStudy(record=ledger.study(), ledger=ledger, url=url, notes=tuple(notes), config=config)


def _check_name(name: str) -> None:
    """Refuse what a database or a tracker cannot keep, or nobody could read."""
    if not name.strip() or len(name) > LONGEST_NAME:
        raise ConfigError(f"--study: found {len(name)} characters, expected a name of 1 to {LONGEST_NAME}")
    if name != visible(name) or "\n" in name or "\t" in name:
        raise ConfigError(f"--study: found {name!a}, expected a name of one line without control characters")


def _is_begun(name: str, *, url: str) -> bool:
    """Whether the database has the study; one that is not there yet is not created by looking."""
    if not exists(url):
        return False
    engine = connect(url)
    migrate(engine)
    begun = find_study(engine, name) is not None
    engine.dispose()
    return begun


def provenance(dataset: Dataset) -> dict[str, Any]:
    """Where the results come from: package versions, Python, platform and the git commit, if there is one."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        "git_commit": _git_commit(),
        "rows": len(dataset.labels),
        "classes": len(dataset.label_names),
    }


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _check_unchanged(record: StudyRecord, config: StudyConfig, prints: dict[str, str]) -> None:
    # Not by the fingerprint: a key that a newer version adds changes that, and nothing else.
    if changes := differences(config_from_record(record.config), config):
        raise ConfigError(
            f"study {record.name!r} was begun with another study file: {'; '.join(changes)}; "
            "undo the change or choose a new study name"
        )
    # The folds of texts follow from texts and labels: if they alone differ, another version made them, and they stay.
    is_of_texts = config.data.group is None and config.data.image is None
    checked = {"data": "the data file's rows"} | ({} if is_of_texts else {"folds": "the folds"})
    for key, what in checked.items():
        if record.fingerprints[key] != prints[key]:
            raise ConfigError(
                f"study {record.name!r}: {what} changed since it began (fingerprint {prints[key][:12]}, expected "
                f"{record.fingerprints[key][:12]}); restore {Path(config.data.path)} or choose a new study name"
            )


def check_settings(config: StudyConfig, dataset: Dataset, assignments: NDArray[np.int16]) -> None:
    """Refuse what the study file says of metrics, losses, samplers and relations and the data cannot do.

    Raises ConfigError or DataError.
    """
    make_goal(config, dataset.label_names)
    for params in _variants(config, "loss", "class_weights", "smoothing_prior"):
        check_loss(params, label_names=dataset.label_names)
    _check_kind(config)
    if config.data.relation is not None:
        _check_relations(config, dataset)
    if config.data.image is not None:
        check_images(dataset)
    for params in _variants(config, "sampler", "sampler_neighbors", "sampler_min_rows"):
        if not dataset.label_names and params.sampler != "none":
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


def _assign(dataset: Dataset, config: StudyConfig) -> NDArray[np.int16]:
    """Return the fold of every row; extra rows are in none."""
    own = len(dataset.labels) - dataset.num_extra
    folds = assign_folds(
        dataset.strata[:own],
        rows_together(dataset, config)[:own],
        num_folds=config.folds.k,
        seed=config.folds.seed,
        stratified=config.folds.stratified,
    )
    return np.concatenate([folds, np.full(dataset.num_extra, EXTRA, dtype=np.int16)])


def _check_encoders(config: StudyConfig) -> dict[str, EncoderSize]:
    """Refuse an encoder that cannot be used, in a process of its own: this one goes on without torch."""
    if config.data.image is not None:
        return _check_image_encoders(config)
    uses = _uses(config)
    changes = frozenset(name for name in NEEDING_MASK if any(float(str(v)) > 0 for v in field_values(config, name)))
    encoders = [str(encoder) for encoder in field_values(config, "encoder")]
    with _other_process() as child:
        if "kiwi" in field_values(config, "morphemes"):
            child.submit(_check_morphemes).result()
        for encoder in encoders:
            child.submit(_check_encoder, encoder, uses, changes).result()
        return {encoder: child.submit(weigh, encoder).result() for encoder in encoders}


def _uses(config: StudyConfig) -> dict[str, Any]:
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
def _other_process() -> Iterator[ProcessPoolExecutor]:
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
    with _other_process() as child:
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


def _check_encoder(encoder: str, uses: dict[str, Any], changes: frozenset[str]) -> None:
    from fold_search.models.abilities import Uses, check_encoder
    from fold_search.models.encoders import load_tokenizer
    from fold_search.models.masked_language import load_masked_language_model

    check_encoder(encoder, Uses(**uses))
    tokenizer = load_tokenizer(encoder)
    if "token_masking" in changes and tokenizer.mask_token_id is None:
        raise EncoderError(f"encoder {encoder!r}: its tokenizer has no mask token, which training.token_masking needs")
    if "token_replacement" in changes:
        load_masked_language_model(encoder)
