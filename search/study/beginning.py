"""Begin a study or continue it: check the data and settings, fix the folds, refuse changes of a begun study."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import EXTRA, assign_folds, fingerprint_folds
from fold_search.search.errors import ConfigError
from fold_search.search.study.checks import check_encoders, check_settings
from fold_search.search.study.config import StudyConfig, config_from_record, differences, fingerprint, to_record
from fold_search.search.study.disk import check_disk
from fold_search.search.study.encoder_places import as_begun
from fold_search.search.study.environment import Secrets, storage_url
from fold_search.search.study.goal import study_metric
from fold_search.search.study.kept_forecast import read_forecast
from fold_search.search.study.notes import notes_on
from fold_search.search.study.opened import OpenStudy
from fold_search.search.study.rows import StudyRows, rows_together
from fold_search.search.terminal import visible
from fold_search.storage.catalog import create_study, find_study
from fold_search.storage.database import connect, exists, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyRecord

LONGEST_NAME = 256  # MLflow's experiments are named after studies
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


def begin(
    config: StudyConfig,
    name: str,
    *,
    secrets: Secrets,
    num_workers: int = 1,
    say: Callable[[str], None] = lambda step: None,
) -> OpenStudy:
    """Open the study `name`, or create it; it carries the rows that were read. `say` is told of each step.

    Raises DataError, ConfigError, EncoderError or StorageError before anything is written.
    """
    _check_name(name)
    say(f"reading the rows of {Path(config.data.path).name}")
    dataset = read_dataset(config.data)
    say(f"freezing the folds of {len(dataset.labels):,} rows, and checking the settings")
    assignments = _assign(dataset, config)
    check_settings(config, dataset, assignments)
    url = storage_url(config, secrets)
    say("opening the database")
    # A database that is not there yet is not created before the checks have passed.
    engine = _connect(url) if exists(url) else None
    record = None if engine is None else find_study(engine, name)
    notes: list[str] = []
    if record is None:
        say("loading the encoder, to check it")
        encoders = check_encoders(config)
        notes = check_disk(config, dataset, encoders=encoders, num_workers=num_workers)
    engine = engine or _connect(url)
    prints = {"data": dataset.fingerprint, "folds": fingerprint_folds(assignments), "config": fingerprint(config)}
    if record is None:
        metric, forecast = study_metric(config), read_forecast(config)
        record = create_study(
            engine,
            name=name,
            config=to_record(config),
            metric=metric.name,
            direction=metric.direction,
            fingerprints=prints,
            provenance=provenance(dataset) | ({} if forecast is None else {"forecast": forecast}),
            assignments=assignments,
        )
    _check_unchanged(record, config, prints)
    config = as_begun(config_from_record(record.config), config)
    ledger = Ledger(engine, record.id)
    notes = [*notes_on(dataset, config, ledger.assignments()), *notes]
    ledger.update_config(to_record(config))
    rows = StudyRows(ledger=ledger, config=config, read=dataset)
    return OpenStudy(record=ledger.study(), ledger=ledger, url=url, notes=tuple(notes), rows=rows)


def _connect(url: str) -> Engine:
    engine = connect(url)
    migrate(engine)
    return engine


def _check_name(name: str) -> None:
    """Refuse what a database or a tracker cannot keep, or nobody could read."""
    if not name.strip() or len(name) > LONGEST_NAME:
        raise ConfigError(f"--study: found {len(name)} characters, expected a name of 1 to {LONGEST_NAME}")
    if name != visible(name) or "\n" in name or "\t" in name:
        raise ConfigError(f"--study: found {name!a}, expected a name of one line without control characters")


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
