"""No secret is written down: a study is run with one in every place that takes one, and then they are looked for.

In the databases, every file, all output (errors and debug logs among it) and the command line of every process.
"""

import base64
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from urllib.parse import quote

import psutil
import pytest

from tests.deploy.postgres import PasswordPostgres
from tests.end_to_end.conftest import SEARCH, UserFolder, free_port, wait_for
from tests.end_to_end.test_serve import status

pytestmark = pytest.mark.slow

DATABASE, SERVE, NEPTUNE = "Database/S3cret@1", "Serve-S3cret-0123456789", "Neptune-S3cret-0123456789"
TOKEN = base64.b64encode(json.dumps({"api_address": "https://app.neptune.ai", "api_key": NEPTUNE}).encode()).decode()
SECRETS = [DATABASE, quote(DATABASE, safe=""), SERVE, NEPTUNE, TOKEN]
ENVIRONMENT = {
    "SEARCH_STORAGE_PASSWORD": DATABASE,
    "SEARCH_SERVE_PASSWORD": SERVE,
    "MLFLOW_TRACKING_PASSWORD": SERVE,
    "NEPTUNE_API_TOKEN": TOKEN,
    "NEPTUNE_PROJECT": "team/project",
}
INPUTS = {"study.yaml"}  # the user's own file, which has passwords in it


class Commands(threading.Thread):
    """Collects the command lines of all processes on this machine while they run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1.0):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or ()))


class Trace:
    """All that a study and every command on it have left behind."""

    def __init__(self, user: UserFolder, postgres: PasswordPostgres) -> None:
        self.user = user
        self.postgres = postgres
        self.outputs: dict[str, str] = {}

    def search(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command once as it is and, where it is to fail, once with --debug; both outputs are kept."""
        for words in [arguments] if code == 0 else [arguments, ("--debug", *arguments)]:
            process = self.user.start(*words, **(ENVIRONMENT | environment))
            output, _ = process.communicate(timeout=600)
            self.outputs[" ".join(words)] = output
            assert (process.returncode == code) or "--debug" in words, output
        return self.outputs[" ".join(arguments)]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file, those in archives too."""
        for path in self.user.folder.rglob("*"):
            if path.is_file() and path.name not in INPUTS:
                yield str(path), path.read_bytes()
                if zipfile.is_zipfile(path):
                    with zipfile.ZipFile(path) as archive:
                        yield from ((f"{path}/{name}", archive.read(name)) for name in archive.namelist())

    def dump(self, port: int) -> str:
        """The study's database as SQL."""
        command = [self.postgres.programs / "pg_dump", "-h", "127.0.0.1", "-p", str(port), "-U", "search", "search"]
        environment = {**os.environ, "PGPASSWORD": DATABASE}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PasswordPostgres, int]]:
    """A server that wants the password, and its port."""
    file, port = tmp_path_factory.mktemp("password") / "password", free_port()
    file.write_text(DATABASE)
    server = PasswordPostgres()
    try:
        server.start(
            {"POSTGRES_USER": "search", "POSTGRES_DB": "search", "POSTGRES_PASSWORD_FILE": str(file)}, port=port
        )
        yield server, port
    finally:
        server.stop()


@pytest.mark.timeout(2400)
def test_no_secret_is_written_down(user: UserFolder, postgres: tuple[PasswordPostgres, int]):
    """Passwords in URLs and in the environment, of the database, MLflow, Neptune and the dashboards."""
    server, port = postgres
    trace, commands, dashboards = Trace(user, server), Commands(), free_port()
    place, study = f"127.0.0.1:{port}/search", ("--study", "tiny")
    storage = ("--storage", f"postgresql+psycopg://search@{place}")
    mlflow = f"http://ann:{SERVE}@127.0.0.1:{dashboards}/mlflow"
    user.write_study_file(
        storage={"url": f"postgresql+psycopg://search:{quote(DATABASE, safe='')}@{place}"},
        trackers={"mlflow": {"uri": mlflow}, "neptune": True},
        training={"epochs": 1},
        folds={"k": 2},
        budget={"trials": 1},
    )
    commands.start()
    user.program = SEARCH  # the other commands are forked, so that their command lines say nothing
    serving = user.start("serve", *storage, "--port", str(dashboards), **ENVIRONMENT)
    wait_for(lambda: status(f"http://127.0.0.1:{dashboards}"), seconds=120)

    assert "complete" in trace.search("--debug", "run", *study, "--config", "study.yaml")
    user.program = None
    for command in ("status", "best", "report", "diagnose", "publish"):
        trace.search(command, *study, *storage)
    trace.search("list", *storage, "--json")
    trace.search("export-curves", *study, *storage, "--out", "curves.npz")
    trace.search("export", *study, *storage, "--out", "model", "--register", "tiny")
    trace.search("backup", *study, *storage, "--out", "study.tar")
    trace.search("restore", "study.tar", "--storage", "sqlite:///restored.db", "--set", "storage.artifacts=restored")

    serving.terminate()
    trace.outputs["serve"] = serving.communicate(timeout=60)[0]
    trace.search("publish", *study, *storage, "--rebuild", code=1)
    trace.search("export", *study, *storage, "--out", "again", "--register", "tiny", code=2)
    trace.search("status", *study, "--storage", f"postgresql://search@127.0.0.1:{free_port()}/search", code=2)
    trace.search("status", *study, *storage, code=2, SEARCH_STORAGE_PASSWORD="Wrong-S3cret-0123456789")
    trace.search("status", "--study", "other", *storage, code=2)
    trace.search("ui", *study, *storage, code=2)
    trace.search("serve", *storage, "--mlflow", "nonsense", code=2)
    wrong, place_of_mlflow = "Wrong-S3cret-0123456789", f"postgresql+psycopg://search@{place}"
    trace.search("serve", *storage, "--mlflow", place_of_mlflow, code=2, MLFLOW_TRACKING_PASSWORD=wrong)
    trace.search("publish", *study, *storage, code=1, MLFLOW_TRACKING_PASSWORD=wrong)
    trace.search("publish", *study, *storage, code=2, MLFLOW_TRACKING_PASSWORD_FILE="study.yaml")
    trace.search("serve", *storage, code=2, SEARCH_SERVE_PASSWORD_FILE="/absent", SEARCH_SERVE_PASSWORD="")
    trace.search("run", *study, "--config", "study.yaml", "--set", "storage.artifacts=null", code=2)
    trace.search("run", *study, "--config", "study.yaml", "--set", "folds.k=3", code=2)
    for wrong in (f"postgresql://search:{DATABASE}@host:five/search", f"mysql://search:{SERVE}@host/search"):
        user.write_study_file(storage={"url": wrong})
        trace.search("run", *study, "--config", "study.yaml", code=2)
    commands.ended.set()
    commands.join()

    assert any("serve --storage" in command for command in commands.seen)
    found = {"database": trace.dump(port).encode(), "processes": "\n".join(commands.seen).encode()}
    found |= {"postgres.log": server.log.read_bytes()}
    found |= {f"search {command}": output.encode() for command, output in trace.outputs.items()}
    found |= dict(trace.files())
    assert "tiny" in found["database"].decode()
    assert {"model", "curves.npz", "studies", "study.tar", "restored.db"} <= {
        path.name for path in user.folder.iterdir()
    }
    secrets = [*SECRETS, "Wrong-S3cret-0123456789"]
    leaks = {where: secret for where, content in found.items() for secret in secrets if secret.encode() in content}
    assert leaks == {}
