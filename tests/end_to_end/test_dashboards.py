"""Both dashboards on a real study, in a real headless browser."""

import socket
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.end_to_end.browser import open_page, take_picture, wait_for_text
from tests.end_to_end.conftest import UserFolder, wait_for

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(user: UserFolder, command: str, *options: str) -> str:
    """Start `search dashboard` or `search ui` and return its address once it answers."""
    port = free_port()
    user.start(command, "--study", "tiny", "--port", str(port), *options)
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: answers(url), seconds=90)
    return url


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def test_both_dashboards_show_the_study(user: UserFolder, tmp_path: Path):
    """Optuna's shows its trials; MLflow's shows the trials' runs, and in one of them the fold curves and params."""
    user.write_study_file(trackers={"mlflow": True})
    user.run()
    best = user.json("best")
    with open_page(f"{serve(user, 'dashboard')}/dashboard/studies/1/trials") as page:
        wait_for_text(page, "Trial 2")
        wait_for_text(page, "learning_rate")
        take_picture(page, tmp_path / "optuna.png")
    with open_page(f"{serve(user, 'ui')}/#/experiments/1/runs") as page:
        wait_for_text(page, "tiny")
        take_picture(page, tmp_path / "mlflow.png")
    assert best["params"]["learning_rate"] > 0
