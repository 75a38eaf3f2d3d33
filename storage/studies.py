"""Optuna's studies, in the same database as the ledger and with the same settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from storage.database import connect, engine_options, explaining, parse
from storage.records import Direction

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


def optuna_storage(url: str) -> RDBStorage:
    """Optuna's storage at our URL; raises StorageError. Its heartbeats stay off: the ledger's leases do their work."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect(url).dispose()
    with optuna_errors(url):
        return _create_storage(parse(url))


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


def _create_storage(url: URL) -> RDBStorage:
    # Optuna formats the URL as a template.
    template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    for attempt in range(1, CREATION_ATTEMPTS + 1):
        try:
            return RDBStorage(template, engine_kwargs=engine_options(url))
        except (DBAPIError, StorageInternalError):
            # Two processes that create Optuna's tables at once get in each other's way; the later finds them made.
            if attempt == CREATION_ATTEMPTS:
                raise
            time.sleep(0.1 * attempt)
    raise AssertionError("unreachable")
