"""The dashboards, Optuna's and MLflow's, behind a guard: neither asks who you are.

Both run in this process, so nothing but the guarded address leads to them. Without a password it is this machine's
alone, and only pages of its own may use it; any other address needs a password (HTTP Basic, or a bearer token as
MLflow's clients send it).
"""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvicorn
from a2wsgi import WSGIMiddleware
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.datastructures import Authorization

from fold_search.search.errors import ConfigError
from fold_search.storage.database import connect
from fold_search.storage.errors import reason_of
from fold_search.storage.studies import optuna_storage
from fold_search.storage.trackers.mlflow import import_quietly

SHORTEST_PASSWORD = 16
FAILURE_SECONDS = 1.0
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="search", charset="UTF-8"'}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to serve. ConfigError where others could reach it and there is no password, or one that can be guessed."""

    host: str
    port: int
    password: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        given = self.password
        if given is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host: {self.host} can be reached from other machines, expected a password in SEARCH_SERVE_PASSWORD "
                "or SEARCH_SERVE_PASSWORD_FILE (`make secrets` makes one)"
            )
        if given is not None and len(given) < SHORTEST_PASSWORD:
            raise ConfigError(
                f"SEARCH_SERVE_PASSWORD: found {len(given)} characters, expected {SHORTEST_PASSWORD} or more"
            )
        if self.certificate is None and self.key is not None:
            raise ConfigError("--key: expected --certificate with it")
        if self.certificate is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            except OSError as error:
                raise ConfigError(f"--certificate: {self.certificate} cannot be used: {reason_of(error)}") from None

    @property
    def url(self) -> str:
        """What to open in a browser, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"


class Guard:
    """Answers those who may ask and refuses everybody else, before anything of a request but its head is read.

    What changes something must come from a page of this address or from no page at all, for a browser sends the
    password whichever page has asked; decided as by Go's net/http.CrossOriginProtection. Without a password the address
    must be called by a name of this machine: a page elsewhere can give its own name our address (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, password: str | None) -> None:
        self._app = app
        self._password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None and refusal.status_code == 401 and "authorization" in headers:
            await asyncio.sleep(FAILURE_SECONDS)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        if self._password is None and not is_loopback(_hostname(f"//{headers.get('host', '')}")):
            return PlainTextResponse("this server answers only to localhost", 403)
        if self._password is not None and not self._knows_password(headers.get("authorization")):
            return PlainTextResponse("a password is needed", 401, headers=CHALLENGE)
        if method not in SAFE_METHODS and not _is_same_origin(headers):
            return PlainTextResponse("requests from pages of other sites are refused", 403)
        return None

    def _knows_password(self, header: str | None) -> bool:
        credentials = Authorization.from_header(header)
        given = (credentials.password or credentials.token or "") if credentials else ""
        return secrets.compare_digest(given.encode(), (self._password or "").encode())


def optuna_app(url: str) -> ASGIApp:
    """The Optuna dashboard on this database, which must be there; it must be at the root. Raises StorageError."""
    import optuna_dashboard

    connect(url, create=False).dispose()
    return _asgi(optuna_dashboard.wsgi(optuna_storage(url)))


def mlflow_app(uri: str) -> ASGIApp:
    """MLflow's UI and API on the tracking database `uri`, one in a process. Raises ConfigError if it cannot be used.

    What goes through the API is kept in `mlartifacts` beside a SQLite file, else in the working directory.
    """
    try:
        parsed = make_url(uri)
    except ArgumentError:
        raise ConfigError(f"trackers.mlflow.uri: found {uri!r}, expected a database URL or a server") from None
    if parsed.drivername in ("http", "https"):
        raise ConfigError(f"trackers.mlflow.uri: {parsed} is a server already; open it in a browser")
    folder = Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else Path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"trackers.mlflow.uri: {folder} cannot be made: {reason_of(error)}") from None
    os.environ |= {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # It lets the pages of every program on this machine in, and its own through no proxy; the guard does neither.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    }
    import_quietly()
    # The Flask application alone: around it MLflow puts an assistant that runs programs, a gateway and job queues.
    from mlflow.server import app, constants, handlers

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: (folder / "mlartifacts").resolve().as_uri(),
    }
    try:
        handlers.initialize_backend_stores()
    except Exception as error:  # SQLAlchemy's, alembic's and more
        reason = next(iter(str(getattr(error, "orig", error)).splitlines()), type(error).__name__)
        advice = "; its password may be in MLFLOW_TRACKING_PASSWORD" if parsed.username and not parsed.password else ""
        raise ConfigError(f"trackers.mlflow.uri: {parsed} cannot be used: {reason}{advice}") from None
    return _asgi(app)


def serve(apps: Mapping[str, ASGIApp], address: Address) -> None:
    """Serve these applications, by the paths they begin at, until interrupted.

    Raises ConfigError if the host or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ConfigError(f"--host {address.host} --port {address.port}: cannot be served: {reason}") from None
    # The longest path first, and for one without the slash at its end the one with it.
    routes: list[BaseRoute] = []
    for path, app in sorted(apps.items(), reverse=True):
        routes += [Route(path, RedirectResponse(f"{path}/"))] if path else []
        routes += [Mount(path, app)]
    config = uvicorn.Config(
        Guard(Starlette(routes=routes), password=address.password),
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine is reached, or reaches, by that name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _asgi(app: Any) -> ASGIApp:
    return cast(ASGIApp, WSGIMiddleware(app))


def _is_same_origin(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
