"""A real `mlflow server` process on loopback, to be stopped and started again."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

START_SECONDS = 90


class MlflowServer:
    """Its port and its database stay the same over stops and starts."""

    def __init__(self, database: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.database = database
        self.start()

    def start(self) -> None:
        """Return when the server answers."""
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.database.with_name("artifacts"))]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.database.with_name("server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
            )
        deadline = monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None
            assert monotonic() < deadline
            sleep(0.2)

    def stop(self) -> None:
        """Kill the server with its workers."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the server and its workers; they are a process group of their own."""
        os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            return urlopen(f"{self.url}/health", timeout=2).status == 200
        except (URLError, OSError):
            return False
