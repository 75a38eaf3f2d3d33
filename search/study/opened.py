"""A study that exists: find it, and adapt its paths to this machine."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, config_from_record, differences
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.study_file import apply_override, parse_override
from fold_search.storage.catalog import find_study, list_studies
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyRecord
from fold_search.words import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A study that is ready to run, and what its user should know before it does."""

    record: StudyRecord
    ledger: Ledger
    url: str
    notes: tuple[str, ...]
    # Of `begin`, which has read them; their config is the study file with the study's own names for encoders.
    rows: StudyRows | None = None


def find(name: str, *, url: str) -> OpenStudy:
    """Open an existing study; ConfigError that names the nearest if there is none of that name."""
    engine = connect(url, create=False)
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
    for override in ("budget.time=null", *overrides):
        apply_override(sections, parse_override(override))
    config = config_from_record(sections, overrides)
    if changes := differences(config_from_record(record.config), config):
        raise ConfigError(
            f"--set: found a change of {'; '.join(changes)}, expected only changes that do not affect the training"
        )
    return config


def _unknown_study(engine: Engine, name: str) -> str:
    names: Sequence[str] = [record.name for record in list_studies(engine)]
    close = nearest(name, names)
    hint = f"did you mean {close!r}?" if close else f"its studies: {', '.join(names) or 'none'}"
    return f"no study {name!r} in this database; {hint}"
