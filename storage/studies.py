"""Optuna's studies, in the same database as the ledger and with the same settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fold_search.storage.database import connect, engine_options, explaining, parse, place
from fold_search.storage.errors import StorageError
from fold_search.storage.records import Direction

CREATION_ATTEMPTS = 5


def open_study(url: str, *, name: str, direction: Direction, sampler: BaseSampler | None = None) -> optuna.Study:
    """The Optuna study of that name, created if it is not there; raises StorageError."""
    storage = optuna_storage(url)
    with optuna_errors(url):
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )


def close_study(study: optuna.Study) -> None:
    """Close the connections of a study that `open_study` opened."""
    backend: Any = getattr(study._storage, "_backend", study._storage)
    backend.engine.dispose()


def optuna_storage(url: str) -> RDBStorage:
    """Optuna's storage at our URL; raises StorageError. Its heartbeats stay off: the ledger's leases do their work.

    Whoever opens it closes its `engine` (`dispose`) at the end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect(url).dispose()
    parsed = parse(url)
    # Optuna formats the URL as a template.
    template = parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    options = engine_options(parsed)
    with optuna_errors(url):
        try:
            _create_tables(template, options)
            return RDBStorage(template, engine_kwargs=options)
        except RuntimeError as error:  # another version of Optuna wrote its tables
            raise StorageError(f"{place(parsed)}: {error}") from None


@contextmanager
def optuna_errors(url: str) -> Iterator[None]:
    """Turn the database errors of calls to Optuna into StorageError or StorageUnavailable."""
    with explaining(parse(url)):
        try:
            yield
        except StorageInternalError as error:
            if isinstance(error.__cause__, DBAPIError):
                raise error.__cause__ from None
            raise


def _create_tables(template: str, options: dict[str, Any]) -> None:
    # Processes that create Optuna's tables at once get in each other's way; the later ones find them made.
    for attempt in range(CREATION_ATTEMPTS):
        try:
            RDBStorage(template, engine_kwargs=options | {"poolclass": NullPool})
            return
        except (DBAPIError, StorageInternalError):
            time.sleep(0.1 * (attempt + 1))
