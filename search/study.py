"""Begin a study or continue it: check the data, freeze the folds, refuse what does not fit what was begun."""

import copy
import importlib.metadata
import multiprocessing
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from objectives.data import Dataset, read_dataset
from objectives.folds import assign_folds, fingerprint_folds, small_classes
from objectives.metrics import METRICS
from search.config import StudyConfig, config_from_record, differences, fingerprint, to_record
from search.environment import Secrets, storage_url
from search.errors import ConfigError, nearest
from search.space import field_values
from search.study_file import apply_override, parse_override
from storage.catalog import create_study, find_study, list_studies
from storage.database import connect, migrate
from storage.ledger import Ledger
from storage.records import StudyRecord, StudyState

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A study that is ready to run, and what its user should know before it does."""

    record: StudyRecord
    ledger: Ledger
    url: str
    notes: tuple[str, ...]


def begin(config: StudyConfig, name: str, *, secrets: Secrets) -> OpenStudy:
    """Open the study `name`, or create it; raises DataError, ConfigError, StorageError before anything is written."""
    dataset = read_dataset(config.data)
    assignments = assign_folds(
        dataset.labels,
        _groups(dataset, config),
        num_folds=config.folds.k,
        seed=config.folds.seed,
        stratified=config.folds.stratified,
    )
    url = storage_url(config, secrets)
    engine = connect(url)
    migrate(engine)
    prints = {"data": dataset.fingerprint, "folds": fingerprint_folds(assignments), "config": fingerprint(config)}
    record = find_study(engine, name)
    if record is None:
        _check_encoders(config)
        metric = METRICS[config.study.metric]
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
    ledger = Ledger(engine, record.id)
    ledger.update_config(to_record(config))
    return OpenStudy(record=ledger.study(), ledger=ledger, url=url, notes=tuple(_notes(dataset, config)))


def find(name: str, *, url: str) -> OpenStudy:
    """Open an existing study; ConfigError that names the nearest if there is none of that name."""
    engine = connect(url)
    migrate(engine)
    record = find_study(engine, name)
    if record is None:
        raise ConfigError(_unknown_study(engine, name))
    return OpenStudy(record=record, ledger=Ledger(engine, record.id), url=url, notes=())


def on_this_machine(record: StudyRecord, overrides: Sequence[str]) -> StudyConfig:
    """The recorded study file with this machine's paths; a worker has no time budget of its own.

    Raises ConfigError if an override would change what is trained.
    """
    sections: dict[str, Any] = copy.deepcopy(record.config)
    for override in ["budget.time=null", *overrides]:
        apply_override(sections, parse_override(override))
    config = config_from_record(sections)
    if changes := differences(config_from_record(record.config), config):
        raise ConfigError(f"--set: a worker trains what the study says, expected no change of {'; '.join(changes)}")
    return config


def reopen_if_budget_grew(study: OpenStudy, config: StudyConfig) -> bool:
    """Whether the study has work left; a finished one is opened again when its budget has grown."""
    if study.record.state is not StudyState.FINISHED:
        return True
    if config.budget.trials <= len(study.ledger.trials()):
        return False
    study.ledger.reopen_study()
    return True


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
    if record.fingerprints["config"] != prints["config"]:
        changes = "; ".join(differences(config_from_record(record.config), config))
        raise ConfigError(
            f"study {record.name!r} was begun with another study file: {changes}; "
            "undo the change or choose a new study name"
        )
    for key, what in (("data", "the data file's rows"), ("folds", "the folds")):
        if record.fingerprints[key] != prints[key]:
            raise ConfigError(
                f"study {record.name!r}: {what} changed since it began (fingerprint {prints[key][:12]}, expected "
                f"{record.fingerprints[key][:12]}); restore {Path(config.data.path)} or choose a new study name"
            )


def _groups(dataset: Dataset, config: StudyConfig) -> NDArray[np.int64]:
    return dataset.groups if config.folds.group_duplicates else np.arange(len(dataset.labels))


def _check_encoders(config: StudyConfig) -> None:
    """Refuse an encoder that cannot be used, in a process of its own: this one goes on without torch."""
    values = {name: field_values(config, name) for name in ("encoder", "trainable_layers", "max_length")}
    most_layers = max((int(value) for value in values["trainable_layers"] if value is not None), default=None)
    longest = max(int(value or 0) for value in values["max_length"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as child:
        for encoder in values["encoder"]:
            child.submit(_check_encoder, str(encoder), most_layers, longest).result()


def _check_encoder(encoder: str, trainable_layers: int | None, max_length: int) -> None:
    from models.encoders import check_encoder

    check_encoder(encoder, trainable_layers=trainable_layers, max_length=max_length)


def _notes(dataset: Dataset, config: StudyConfig) -> list[str]:
    classes = small_classes(dataset.labels, _groups(dataset, config), config.folds.k)
    small = [dataset.label_names[label] for label in classes]
    if not small:
        return []
    named = ", ".join(small[:8]) + (f" and {len(small) - 8} more" if len(small) > 8 else "")
    return [
        f"{len(small)} classes have fewer rows than the {config.folds.k} folds, so that some folds validate without "
        f"them: {named}"
    ]


def _unknown_study(engine: Engine, name: str) -> str:
    names: Sequence[str] = [record.name for record in list_studies(engine)]
    close = nearest(name, names)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return f"no study {name!r} in this database; {hint}"
