"""An MLflow that wants a password: who publishes without the study file finds it in the environment or a file."""

import pytest

from fold_search.storage.database import connect, migrate
from tests.end_to_end.conftest import SEARCH, UserFolder, free_port, wait_for
from tests.end_to_end.test_serve import status

pytestmark = pytest.mark.slow

PASSWORD = "Tracker-S3cret-0123456789"
# What neither the run nor the file of a test before may have left.
NOTHING = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": "", "MLFLOW_TRACKING_TOKEN": ""}


def search(user: UserFolder, *arguments: str, code: int = 0, **environment: str) -> str:
    """Run a command to its end, with these sign-ins alone."""
    process = user.start(*arguments, **(NOTHING | environment))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    assert PASSWORD not in output
    return output


@pytest.mark.timeout(900)
def test_who_publishes_without_the_study_file_signs_in(user: UserFolder):
    """The run has the password from the study file; it is recorded nowhere, and all others are told where to put it."""
    port = free_port()
    user.write_study_file(
        trackers={"mlflow": {"uri": f"http://ann:{PASSWORD}@127.0.0.1:{port}/mlflow"}},
        training={"epochs": 1},
        folds={"k": 2},
        budget={"trials": 2},
    )
    migrate(connect(user.storage.replace("sqlite:///", f"sqlite:///{user.folder}/")))  # serve shows one that is there
    user.program = SEARCH
    user.start("serve", "--storage", user.storage, "--port", str(port), SEARCH_SERVE_PASSWORD=PASSWORD)
    wait_for(lambda: status(f"http://127.0.0.1:{port}"), seconds=120)
    user.program = None
    study = ("--study", "tiny", "--storage", user.storage)
    (user.folder / "password").write_text(PASSWORD)
    by_file, by_value = {"MLFLOW_TRACKING_PASSWORD_FILE": "password"}, {"MLFLOW_TRACKING_PASSWORD": PASSWORD}

    begun = search(user, "run", *study, "--config", "study.yaml", "--trials", "1")
    assert "cannot be published" not in begun
    assert "up to date" in search(user, "publish", *study, **by_file)

    refused = search(user, "publish", *study, "--rebuild", code=1)
    assert "mlflow: results cannot be published" in refused
    assert "MLFLOW_TRACKING_PASSWORD_FILE" in refused
    assert "up to date" in search(user, "publish", *study, **by_value)

    said = search(user, "export", *study, "--out", "model", "--register", "tiny", code=2)
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "registered tiny" in search(
        user, "export", *study, "--out", "model", "--force", "--register", "tiny", **by_file
    )

    user.search(
        "run", *study, "--config", "study.yaml", "--trials", "2", "--timeout", "1s", "--set", "trackers.mlflow=false"
    )
    user.ledger().update_config(user.ledger().study().config | {"trackers": recorded(port)})
    joined = search(user, "worker", *study, **by_file)
    assert "cannot be published" not in joined
    assert "up to date" in search(user, "publish", *study, **by_value)
    kept = [path for path in user.folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert {path.name for path in kept} == {"study.yaml", "password"}


def recorded(port: int) -> dict[str, dict[str, object]]:
    """What the record says of trackers: the address without its password."""
    mlflow = {"enabled": True, "uri": f"http://ann@127.0.0.1:{port}/mlflow"}
    return {"mlflow": mlflow, "neptune": {"enabled": False, "directory": "studies/neptune"}}
