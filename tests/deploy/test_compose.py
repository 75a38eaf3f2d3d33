"""docker-compose.yml: valid, closed to the outside, and its services together bring a study to its end."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.deploy.stack import COMPOSE_FILE, Stack, make_password, read_compose

# On one of the processes that share the tests, so that the services are started once.
ONE_STACK = pytest.mark.xdist_group("stack")


def get(url: str, **headers: str) -> str:
    with urlopen(Request(url, headers=headers), timeout=30) as answer:
        return str(answer.read().decode())


def test_the_file_fits_the_compose_specification():
    """The published JSON schema accepts it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_ports_are_open_on_loopback_only():
    """Nobody but this machine reaches the database, MLflow and the dashboard."""
    ports = [port for service in read_compose({})["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
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
    assert awaited == {"postgres", "mlflow", "coordinator"}
    assert all("healthcheck" in services[name] for name in awaited)


def test_only_those_who_need_the_password_get_it():
    """It comes as a secret file and stands in no command and no environment."""
    compose = read_compose({})
    assert compose["secrets"] == {"postgres_password": {"file": "deploy/secrets/postgres_password"}}
    keyless = {name for name, service in compose["services"].items() if not service.get("secrets")}
    assert keyless == {"mlflow", "demo-data"}


def test_the_password_is_made_for_its_readers_alone(tmp_path: Path):
    """The containers' users can read it; others on this machine do not get into its folder."""
    file = tmp_path / "secrets" / "postgres_password"
    make_password(file)
    assert len(file.read_text(encoding="utf-8").strip()) >= 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.slow
@ONE_STACK
def test_coordinator_and_workers_finish_the_study(stack: Stack):
    """Both leave with 0, and the ledger holds two complete trials."""
    assert [stack.wait("coordinator"), stack.wait("worker")] == [0, 0], stack.output("worker")
    environment = {"SEARCH_STORAGE_PASSWORD_FILE": str(stack.password_file)}
    status = stack.run_search("status", "--study=tiny", "--json", environment=environment)
    assert json.loads(status.stdout)["trials"] == {"complete": 2}


@pytest.mark.slow
@ONE_STACK
def test_mlflow_has_the_runs_and_answers_to_its_names_only(stack: Stack):
    """The service's name is an allowed host, a stranger's is refused."""
    stack.wait("coordinator")
    url = f"http://127.0.0.1:{stack.ports['mlflow']}/api/2.0/mlflow/experiments/search?max_results=10"
    assert '"tiny"' in get(url, Host=f"mlflow:{stack.ports['mlflow']}")
    with pytest.raises(HTTPError, match="403"):
        get(url, Host="elsewhere.example")


@pytest.mark.slow
@ONE_STACK
def test_the_dashboard_shows_the_study(stack: Stack):
    """The Optuna dashboard reads the same database."""
    stack.wait("coordinator")
    studies = json.loads(get(f"http://127.0.0.1:{stack.ports['dashboard']}/api/studies"))["study_summaries"]
    assert [study["study_name"] for study in studies] == ["tiny"]


@pytest.mark.slow
@ONE_STACK
def test_a_wrong_password_is_refused_and_not_shown(stack: Stack):
    """One line, exit code 2."""
    environment = {"SEARCH_STORAGE_PASSWORD": "not-the-password"}
    result = stack.run_search("status", "--study=tiny", environment=environment)
    assert result.returncode == 2
    assert "password authentication failed" in result.stderr
    assert "not-the-password" not in result.stderr
