"""The dashboards: Optuna's and MLflow's, on the right stores, on loopback unless told otherwise."""

import os
import subprocess
import sys

from sqlalchemy.engine import make_url

from search.errors import ConfigError
from storage.studies import optuna_storage


def serve_dashboard(url: str, *, host: str, port: int) -> None:
    """Serve the Optuna dashboard on this database until interrupted; it has no authentication of its own."""
    import optuna_dashboard

    # In this process and by object: the database's password stands in no argument list.
    optuna_dashboard.run_server(optuna_storage(url), host=host, port=port)


def serve_mlflow(uri: str, *, host: str, port: int) -> int:
    """Serve the MLflow UI on the tracking database `uri` until interrupted; returns its exit code."""
    if uri.startswith(("http://", "https://")):
        raise ConfigError(f"trackers.mlflow.uri: {uri} is a server already; open it in a browser")
    if not make_url(uri).drivername:
        raise ConfigError(f"trackers.mlflow.uri: found {uri!r}, expected a database URL or a server")
    # By environment rather than by argument, for the same reason.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0
