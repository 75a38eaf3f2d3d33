"""Secrets: the only place that reads them from environment variables."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fold_search.search.errors import ConfigError
from fold_search.search.study import defaults
from fold_search.search.study.config import StudyConfig

_EXAMPLE = f"{defaults.DATABASE} or postgresql+psycopg://user@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What only the environment may supply; its repr shows nothing."""

    storage_password: str | None = field(default=None, repr=False)
    serve_password: str | None = field(default=None, repr=False)
    mlflow_password: str | None = field(default=None, repr=False)
    mlflow_token: str | None = field(default=None, repr=False)
    neptune_api_token: str | None = field(default=None, repr=False)
    neptune_project: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables below; in place of NAME, but for Neptune's, NAME_FILE may name a file that holds it.

        Raises ConfigError if both are set, or the file is empty or cannot be read.
        """
        return cls(
            storage_password=_secret("SEARCH_STORAGE_PASSWORD", environment),
            serve_password=_secret("SEARCH_SERVE_PASSWORD", environment),
            mlflow_password=_secret("MLFLOW_TRACKING_PASSWORD", environment),
            mlflow_token=_secret("MLFLOW_TRACKING_TOKEN", environment),
            neptune_api_token=environment.get("NEPTUNE_API_TOKEN") or None,
            neptune_project=environment.get("NEPTUNE_PROJECT") or None,
        )


def mlflow_uri(uri: str, secrets: Secrets) -> str:
    """Return MLflow's address with all it needs to sign in; of a database with its password: a secret.

    What signs in to a server goes where MLflow's client looks for it alone: into this process's environment.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(uri)
    except (ArgumentError, ValueError):
        return uri
    if parsed.drivername in ("http", "https"):
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or parsed.username
        given = {"USERNAME": user, "PASSWORD": secrets.mlflow_password, "TOKEN": secrets.mlflow_token}
        os.environ |= {f"MLFLOW_TRACKING_{name}": value for name, value in given.items() if value}
    elif parsed.username and parsed.password is None and secrets.mlflow_password:
        return parsed.set(password=secrets.mlflow_password).render_as_string(hide_password=False)
    return uri


def missing_sign_in(uri: str, secrets: Secrets) -> str:
    """Say where the password of MLflow's address is to be given, if that names a user and nobody has given one."""
    user = re.match(r"[^/]+://([^/@:?]*)@", uri)
    if user is None or secrets.mlflow_password or secrets.mlflow_token:
        return ""
    return (
        "trackers.mlflow.uri has no password (a password in the study file is not stored); if it needs one, set "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_PASSWORD_FILE to the name of a file with it"
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


def _secret(name: str, environment: Mapping[str, str]) -> str | None:
    value, file = environment.get(name), environment.get(f"{name}_FILE")
    if value and file:
        raise ConfigError(f"{name} and {name}_FILE are both set, expected one of them")
    if not file:
        return value or None
    try:
        content = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{name}_FILE: {file} cannot be read, expected a file with the secret") from None
    if not content:
        raise ConfigError(f"{name}_FILE: {file} is empty, expected the secret")
    return content
