"""Secrets: the one place that reads the environment, and where the database password is put into its URL."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from search.config import StudyConfig
from search.errors import ConfigError

_PASSWORD = "SEARCH_STORAGE_PASSWORD"  # noqa: S105 - a variable's name
_PASSWORD_FILE = "SEARCH_STORAGE_PASSWORD_FILE"  # noqa: S105
_EXAMPLE = "sqlite:///studies/search.db or postgresql+psycopg://user@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What only the environment may supply; its repr shows nothing."""

    storage_password: str | None = field(default=None, repr=False)
    neptune_api_token: str | None = field(default=None, repr=False)
    neptune_project: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read SEARCH_STORAGE_PASSWORD or SEARCH_STORAGE_PASSWORD_FILE, NEPTUNE_API_TOKEN and NEPTUNE_PROJECT.

        Raises ConfigError if both passwords are set or the file cannot be read.
        """
        return cls(
            storage_password=_storage_password(environment),
            neptune_api_token=environment.get("NEPTUNE_API_TOKEN") or None,
            neptune_project=environment.get("NEPTUNE_PROJECT") or None,
        )


def storage_url(config: StudyConfig, secrets: Secrets) -> str:
    """Return the URL of the study's database, with its password: a secret. Raises ConfigError if it is not a URL."""
    return with_password(config.storage.url, secrets)


def with_password(url: str, secrets: Secrets) -> str:
    """Return a database URL with the password of the environment, unless it has its own or is SQLite's.

    Raises ConfigError, without the password, if it is not a URL.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(f"storage.url: not a database URL, expected one such as {_EXAMPLE}") from None
    if secrets.storage_password and parsed.password is None and parsed.get_backend_name() != "sqlite":
        parsed = parsed.set(password=secrets.storage_password)
    return parsed.render_as_string(hide_password=False)


def _storage_password(environment: Mapping[str, str]) -> str | None:
    password, file = environment.get(_PASSWORD), environment.get(_PASSWORD_FILE)
    if password and file:
        raise ConfigError(f"{_PASSWORD} and {_PASSWORD_FILE} are both set, expected one of them")
    if not file:
        return password or None
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{_PASSWORD_FILE}: {file} cannot be read, expected a file with the password") from None
