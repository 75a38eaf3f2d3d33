"""A study that is there already: find it, adapt it to this machine, open it again."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from search.config import StudyConfig, config_from_record, differences
from search.errors import ConfigError, nearest
from search.study_file import apply_override, parse_override
from storage.catalog import find_study, list_studies
from storage.database import connect, migrate
from storage.ledger import Ledger
from storage.records import StudyRecord, StudyState


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A study that is ready to run, and what its user should know before it does."""

    record: StudyRecord
    ledger: Ledger
    url: str
    notes: tuple[str, ...]


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
    settings = [parse_override(override) for override in ["budget.time=null", *overrides]]
    for setting in settings:
        apply_override(sections, setting)
    config = config_from_record(sections, settings)
    if changes := differences(config_from_record(record.config), config):
        raise ConfigError(f"--set: a worker trains what the study says, expected no change of {'; '.join(changes)}")
    return config


def reopen_if_budget_grew(study: OpenStudy, config: StudyConfig) -> bool:
    """Whether the study has work left; one that has ended is opened again if its budget has trials left."""
    if study.record.state is StudyState.RUNNING:
        return True
    if config.budget.trials <= len(study.ledger.trials()):
        return False
    study.ledger.reopen_study()
    return True


def _unknown_study(engine: Engine, name: str) -> str:
    names: Sequence[str] = [record.name for record in list_studies(engine)]
    close = nearest(name, names)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return f"no study {name!r} in this database; {hint}"
