"""`search serve` on a real study: with the password a browser sees both dashboards, without it nobody sees anything."""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.end_to_end.browser import open_page, shown, take_picture, wait_for_text
from tests.end_to_end.conftest import UserFolder, free_port, wait_for

pytestmark = pytest.mark.slow

PASSWORD = "nobody-else-knows-this"
OWN = "document.title='owned'"
NAME = f"../../<img src=x onerror={OWN}>'; DROP TABLE studies; --[red]"
LABELS = {label: f"<script>{OWN}</script><b>{label}</b>" for label in "abcd"}
PATHS = (
    "/",
    "/dashboard",
    "/dashboard/studies/1",
    "/api/meta",
    "/api/studies",
    "/api/studies/1",
    "/csv/1",
    "/static/bundle.js",
    "/favicon.ico",
    "/artifacts/1/x",
    "/incompatible-rdb-schema",
    "//api/studies",
    "/mlflow",
    "/mlflow/",
    "/mlflow/health",
    "/mlflow/version",
    "/mlflow/static-files/favicon.ico",
    "/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=10",
    "/mlflow/api/2.0/mlflow/experiments/search?max_results=10",
    "/mlflow/get-artifact?path=study.yaml&run_uuid=x",
    "/mlflow/api/2.0/mlflow-artifacts/artifacts",
    "/mlflow/graphql",
    "/nowhere",
    "/%2e%2e/mlflow/",
)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, encoder: Path, demo_data: Path) -> Iterator[UserFolder]:
    """A folder with a study of two trials, published to MLflow; its name, its labels and its texts try to run code."""
    folder = UserFolder(tmp_path_factory.mktemp("serve"), encoder, demo_data)
    rows = pd.read_csv(demo_data)
    labels = dict(zip(sorted(rows["label"].unique()), LABELS.values(), strict=True))
    rows.assign(label=rows["label"].map(labels), body=f"<script>{OWN}</script> " + rows["body"]).to_csv(
        folder.folder / "rows.csv", index=False
    )
    folder.write_study_file(
        data={"path": "rows.csv", "label": "label", "text": ["summary", "body"]},
        trackers={"mlflow": True},
        training={"epochs": 1},
        folds={"k": 2},
        budget={"trials": 2},
    )
    folder.search("run", "--study", NAME, "--config", "study.yaml")
    yield folder
    folder.end()


def serve(user: UserFolder, *options: str) -> int:
    """Start `search serve` with a password and return its port."""
    port = free_port()
    user.start("serve", "--study", NAME, "--port", str(port), *options, SEARCH_SERVE_PASSWORD=PASSWORD)
    return port


def status(url: str, trusting: ssl.SSLContext | None = None) -> int | None:
    try:
        with urlopen(url, timeout=30, context=trusting) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return None


BASELINES = ("baseline: majority class", "baseline: TF-IDF + linear model")


def test_both_dashboards_are_behind_one_password(user: UserFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A browser that knows it sees trials and runs, one that does not sees nothing of any path; MLflow's client too."""
    port = serve(user)
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: status(url))
    assert {path: status(url + path) for path in PATHS} == dict.fromkeys(PATHS, 401)
    with open_page(f"{url}/dashboard/studies/1/trials") as page:
        assert "Trial" not in shown(page)
        page.get(url.replace("//", f"//anybody:{PASSWORD}@"))
        page.get(f"{url}/dashboard/studies/1/trials")
        wait_for_text(page, "Trial 1")
        wait_for_text(page, "learning_rate")
        wait_for_text(page, NAME)
        take_picture(page, tmp_path / "optuna.png")
        assert page.title != "owned"
        page.get(f"{url}/mlflow/#/experiments/1/runs")
        wait_for_text(page, "5 matching runs")
        wait_for_text(page, NAME)
        take_picture(page, tmp_path / "mlflow.png")
        assert page.title != "owned"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", PASSWORD)
    client = MlflowClient(f"{url}/mlflow")
    runs = client.search_runs(["1"])
    assert sorted(run.info.run_name for run in runs) == sorted([NAME, "trial 0", "trial 1", *BASELINES])
    experiment = client.create_experiment("by the API")
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "kept", "note.txt")
    assert [file.read_text() for file in (user.folder / "studies" / "mlartifacts").rglob("note.txt")] == ["kept"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_it_is_served_by_https(user: UserFolder):
    """With a certificate of one's own; to one who does not know the password as little."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    own_name = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *own_name], cwd=user.folder, check=True, capture_output=True)
    port = serve(user, "--certificate", "cert.pem", "--key", "key.pem")
    trusting = ssl.create_default_context(cafile=str(user.folder / "cert.pem"))
    url = f"https://localhost:{port}/api/studies"
    assert wait_for(lambda: status(url, trusting)) == 401
    request = Request(url, headers={"Authorization": f"Bearer {PASSWORD}"})
    with urlopen(request, timeout=30, context=trusting) as answer:
        assert json.load(answer)["study_summaries"][0]["study_name"] == NAME


def test_each_dashboard_is_served_alone(user: UserFolder):
    """On loopback without a password, to those who call it by a name of this machine."""
    places = {"dashboard": "/api/studies", "ui": "/ajax-api/2.0/mlflow/experiments/search?max_results=10"}
    for command, path in places.items():
        port = free_port()
        user.start(command, "--study", NAME, "--port", str(port))
        url = f"http://127.0.0.1:{port}{path}"
        assert wait_for(lambda url=url: status(url)) == 200
        with urlopen(url, timeout=30) as answer:
            assert json.dumps(NAME) in answer.read().decode()
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(url, headers={"Host": "elsewhere.example"}), timeout=30)


def test_nothing_of_the_data_runs_in_the_report(user: UserFolder):
    """Study, labels and texts are shown as they are written, in the browser and in the model's card."""
    user.search("diagnose", "--study", NAME, "--out", "report")
    with open_page((user.folder / "report" / "index.html").as_uri()) as page:
        wait_for_text(page, NAME)
        wait_for_text(page, LABELS["a"])
        assert page.title != "owned"
    user.search("export", "--study", NAME, "--out", "model")
    card = (user.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "<img" not in card.replace("\\<", "")
    assert "<script" not in card.replace("\\<", "")
