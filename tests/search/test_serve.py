"""The guard of the dashboards, and what `search serve` refuses to begin with."""

import base64
import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fold_search.search.cli import app
from fold_search.search.errors import ConfigError
from fold_search.search.reporting import serve
from fold_search.search.reporting.serve import Address, Guard

PASSWORD = "correct horse: båttery"
HERE = "http://gpu-box:8080"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for both dashboards."""
    request = Request(scope, receive)
    await PlainTextResponse(f"let in to {request.method} {request.url.path}")(scope, receive, send)


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """At an address that others reach."""
    monkeypatch.setattr(serve, "FAILURE_SECONDS", 0.0)
    return TestClient(Guard(echo, password=PASSWORD), base_url=HERE)


@pytest.fixture
def local() -> TestClient:
    """On loopback, without a password."""
    return TestClient(Guard(echo, password=None), base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(""),
        basic("correct horse"),
        basic(PASSWORD + " "),
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic ####"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Digest username=x"},
        {"Cookie": "session=1", "Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1"},
    ],
)
def test_without_the_password_nobody_gets_in(guarded: TestClient, method: str, headers: dict[str, str]):
    """Whatever the method and however the header is broken; the browser is told to ask."""
    answer = guarded.request(method, "/api/studies", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "let in" not in answer.text


def test_the_password_opens_as_browsers_and_as_clients_of_mlflow_send_it(guarded: TestClient):
    """HTTP Basic with any user name, and a bearer token."""
    assert guarded.get("/", headers=basic(PASSWORD)).text == "let in to GET /"
    token = {"Authorization": b"Bearer " + PASSWORD.encode()}
    ascii_only = TestClient(Guard(echo, password="plain-and-long-enough"), base_url=HERE)
    assert ascii_only.get("/", headers={"Authorization": "Bearer plain-and-long-enough"}).status_code == 200
    assert guarded.get("/", headers=token).status_code == 401  # headers are ASCII, so this password needs HTTP Basic


def test_a_wrong_password_costs_time(guarded: TestClient, monkeypatch: pytest.MonkeyPatch):
    """A second, which holds nobody else up; a request that brings none is answered at once."""
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(serve, "FAILURE_SECONDS", 1.0)
    monkeypatch.setattr(serve.asyncio, "sleep", sleep)
    guarded.get("/")
    assert slept == []
    guarded.get("/", headers=basic("wrong"))
    assert slept == [1.0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": HERE}, 403),
        ({"Origin": HERE}, 200),
        ({"Origin": "http://gpu-box:9090"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
)
def test_no_page_of_another_address_changes_anything(guarded: TestClient, headers: dict[str, str], status: int):
    """The browser would send the password with its request; it may follow a link, though."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert guarded.request(method, "/", headers=basic(PASSWORD) | headers).status_code == status
    assert guarded.get("/", headers=basic(PASSWORD) | headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("elsewhere.example:8080", 403),
        ("127.0.0.1.elsewhere.example", 403),
        ("localhost@elsewhere.example", 403),
        ("192.168.0.7:8080", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_password_only_this_machine_s_names_are_answered(local: TestClient, host: str, status: int):
    """A page elsewhere whose name leads to our address gets nothing, be it only to read."""
    assert local.get("/", headers={"Host": host}).status_code == status


def test_answers_tell_browsers_to_be_careful(local: TestClient):
    """No page elsewhere can frame ours or take them in."""
    headers = local.get("/").headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("command", ["serve", "dashboard", "ui"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu-box", ""])
def test_others_need_a_password(command: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One line, exit code 2, and nothing is opened or made."""
    monkeypatch.chdir(tmp_path)
    refuse([command, "--host", host], "--host", "SEARCH_SERVE_PASSWORD_FILE")
    assert list(tmp_path.iterdir()) == []


def test_a_password_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Its length is told, not what it is."""
    monkeypatch.setenv("SEARCH_SERVE_PASSWORD", "hunter2")
    assert "hunter2" not in refuse(["serve"], "found 7 characters", "16 or more")


def test_an_empty_file_is_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rather than serving without one."""
    (tmp_path / "password").write_text("\n")
    monkeypatch.setenv("SEARCH_SERVE_PASSWORD_FILE", str(tmp_path / "password"))
    refuse(["serve"], "SEARCH_SERVE_PASSWORD_FILE", "is empty")


def test_a_certificate_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its file is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cert.pem").write_text("nonsense")
    refuse(["serve", "--certificate", "cert.pem"], "--certificate: cert.pem cannot be used")
    refuse(["serve", "--certificate", "absent.pem"], "--certificate: absent.pem", "No such file")
    refuse(["serve", "--key", "key.pem"], "--key", "expected --certificate")


def test_a_port_that_is_taken_is_refused():
    """Before anything is served."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=re.escape(f"--port {address.port}: cannot be served: Address")):
            serve.serve({"": echo}, address)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:5000", "is a server already"),
        ("nonsense", "found 'nonsense', expected a database URL"),
        ("sqlite:////proc/none/mlflow.db", "/proc/none cannot be made: No such file or directory"),
    ],
)
def test_what_is_no_database_of_mlflow_is_refused(uri: str, expected: str):
    """A server, no URL, and a place where no file can be."""
    with pytest.raises(ConfigError, match=expected):
        serve.mlflow_app(uri)


def test_a_database_is_not_made_by_looking_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The one that `search run` makes is named."""
    monkeypatch.chdir(tmp_path)
    refuse(["serve"], "studies/search.db", "no such database")
    assert list(tmp_path.iterdir()) == []


def refuse(arguments: list[str], *expected: str) -> str:
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2, answer.output
    [line] = [line for line in answer.output.splitlines() if not line.endswith(" ...")]  # those are its steps
    assert all(part in line for part in ("error: ", *expected)), line
    return line
