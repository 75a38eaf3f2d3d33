"""docker-compose.yml: valid, closed to the outside, and its services together bring a study to its end."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.deploy.stack import COMPOSE_FILE, Stack, make_passwords, read_compose


def get(url: str, **headers: str) -> str:
    with urlopen(Request(url, headers=headers), timeout=30) as answer:
        return str(answer.read().decode())


def test_the_file_fits_the_compose_specification():
    """The published JSON schema accepts it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_ports_are_open_on_loopback_only():
    """Nobody but this machine reaches the database and the dashboards."""
    ports = [port for service in read_compose({})["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_services_wait_for_has_a_health_check():
    """`service_healthy` holds for no service that cannot become healthy."""
    services = read_compose({})["services"]
    awaited = {
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    }
    assert awaited == {"postgres", "serve", "coordinator"}
    assert all("healthcheck" in services[name] for name in awaited)


def test_only_those_who_need_the_passwords_get_them():
    """They come as secret files and stand in no command and no environment."""
    compose = read_compose({})
    names = ("postgres_password", "serve_password")
    assert compose["secrets"] == {name: {"file": f"deploy/secrets/{name}"} for name in names}
    keyless = {name for name, service in compose["services"].items() if not service.get("secrets")}
    assert keyless == {"demo-data"}
    assert compose["services"]["postgres"]["secrets"] == ["postgres_password"]


def test_the_passwords_are_made_for_their_readers_alone(tmp_path: Path):
    """The containers' users can read them; others on this machine do not get into their folder."""
    make_passwords(tmp_path / "secrets")
    files = sorted((tmp_path / "secrets").iterdir())
    assert [file.name for file in files] == ["postgres_password", "serve_password"]
    passwords = {file.read_text(encoding="utf-8").strip() for file in files}
    assert len(passwords) == 2
    assert all(len(password) >= 40 for password in passwords)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_coordinator_and_workers_finish_the_study(stack: Stack):
    """Both leave with 0, and the ledger holds two complete trials."""
    assert [stack.wait("coordinator"), stack.wait("worker")] == [0, 0], stack.output("worker")
    environment = {"SEARCH_STORAGE_PASSWORD_FILE": str(stack.secrets / "postgres_password")}
    status = stack.run_search("status", "--study=tiny", "--json", environment=environment)
    assert json.loads(status.stdout)["trials"] == {"complete": 2}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", ["/mlflow/api/2.0/mlflow/experiments/search?max_results=10", "/api/studies"])
def test_the_dashboards_show_the_study_to_those_who_know_the_password(stack: Stack, path: str):
    """The coordinator has published to MLflow with it; without it neither is shown."""
    stack.wait("coordinator")
    url = f"http://127.0.0.1:{stack.ports['serve']}{path}"
    password = (stack.secrets / "serve_password").read_text(encoding="utf-8").strip()
    assert '"tiny"' in get(url, Authorization=f"Bearer {password}")
    with pytest.raises(HTTPError, match="401"):
        get(url)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wrong_password_is_refused_and_not_shown(stack: Stack):
    """One line, exit code 2."""
    environment = {"SEARCH_STORAGE_PASSWORD": "not-the-password"}
    result = stack.run_search("status", "--study=tiny", environment=environment)
    assert result.returncode == 2
    assert "password authentication failed" in result.stderr
    assert "not-the-password" not in result.stderr
