"""Runs the services of docker-compose.yml as processes on loopback: their own commands, environments and health checks.

What the container engine would supply is mapped: host names and ports to loopback, volumes and secrets to a folder.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent.parent
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
START_SECONDS = 300
PORTS = {"postgres": 5432, "serve": 8080}
SECRETS = "/run/secrets"


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with `${NAME:-default}` replaced as the engine does it."""
    text = re.sub(
        r"\$\{(\w+):-([^}]*)\}",
        lambda match: variables.get(match[1], match[2]),
        COMPOSE_FILE.read_text(encoding="utf-8"),
    )
    compose: dict[str, Any] = yaml.safe_load(text)
    return compose


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_passwords(folder: Path) -> None:
    """`make secrets`, into another place."""
    files = f"{folder}/postgres_password {folder}/serve_password"
    command = ["make", "--silent", "-C", REPOSITORY, f"PASSWORDS={files}", "secrets"]
    subprocess.run(command, check=True, capture_output=True)


class Stack:
    """The services in one folder, which stands in for all volumes and secrets."""

    def __init__(self, folder: Path, variables: Mapping[str, str], *, postgres_programs: Path) -> None:
        self.folder = folder
        self.services: dict[str, dict[str, Any]] = read_compose(variables)["services"]
        self.ports = {name: free_port() for name in PORTS}
        self.secrets = folder / "secrets"
        self._path = os.pathsep.join([str(Path(sys.executable).parent), str(postgres_programs), os.environ["PATH"]])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("study/data", "study/studies", "mlflow"):
            (folder / name).mkdir(parents=True)

    def start(self, name: str) -> None:
        """Start a service whose dependencies are up."""
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self.mapped(self.services[name]["command"]),
                env=self.environment(name),
                cwd=self.folder / "study",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_healthy(self, name: str) -> None:
        """Run the service's own health check until it passes."""
        deadline = monotonic() + START_SECONDS
        while not self.healthy(name):
            process = self._processes.get(name)
            assert process is None or process.poll() is None, self.output(name)
            assert monotonic() < deadline, self.output(name)
            sleep(1.0)  # a check is a process that takes its time from those that it checks

    def healthy(self, name: str) -> bool:
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        check = subprocess.run(self.mapped(command), env=self.environment(name), capture_output=True, check=False)
        return check.returncode == 0

    def wait(self, name: str) -> int:
        """The exit code of a service that ends by itself."""
        return self._processes[name].wait(timeout=START_SECONDS)

    def run_search(self, *arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """Run a `search` command on the stack's database, from within its network so to speak."""
        command = ["search", *arguments, self.map("--storage=postgresql+psycopg://search@postgres/search")]
        given = {"HOME": str(self.folder), "PATH": self._path, **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    def output(self, name: str) -> str:
        return self._log(name).read_text(encoding="utf-8") if self._log(name).exists() else ""

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def environment(self, name: str) -> dict[str, str]:
        """What the service is given, and nothing of ours but the place of the programs."""
        given = {key: self.map(value) for key, value in self.services[name].get("environment", {}).items()}
        home = {"HOME": str(self.folder), "PATH": self._path, "PGPORT": str(self.ports["postgres"])}
        return {**home, "OMP_NUM_THREADS": "1", **given}

    def mapped(self, command: list[str]) -> list[str]:
        return [self.map(word) for word in command]

    def map(self, text: str) -> str:
        """Turn what holds inside the containers into what holds here."""
        text = text.replace("@postgres/", f"@127.0.0.1:{self.ports['postgres']}/")
        text = text.replace("//serve:", "//127.0.0.1:").replace("--host=0.0.0.0", "--host=127.0.0.1")
        for name, port in PORTS.items():
            text = re.sub(rf"(?<=[:= ]){port}\b", str(self.ports[name]), text)
        text = text.replace(SECRETS, str(self.secrets))
        return re.sub(r"(?<![\w/])/(?=(study|mlflow)\b)|(?<=:///)/(?=mlflow\b)", f"{self.folder}/", text)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"
