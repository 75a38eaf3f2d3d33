"""The services of docker-compose.yml, started once as processes on loopback."""

from collections.abc import Iterator

import pytest
import yaml

from tests.deploy.postgres import PasswordPostgres
from tests.deploy.stack import Stack, make_passwords
from tests.tiny_encoder import build_tiny_encoder

TINY_STUDY = """
data: {path: data/demo.csv, label: label, text: [summary, body]}
training: {epochs: 2}
space: {learning_rate: [1e-3, 3e-3]}
folds: {k: 2}
budget: {trials: 2}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every service of the default and the demo profile, started in the order of their dependencies."""
    postgres = PasswordPostgres()
    stack = Stack(tmp_path_factory.mktemp("compose"), {"STUDY": "tiny"}, postgres_programs=postgres.programs)
    write_study_file(stack)
    make_passwords(stack.secrets)
    try:
        postgres.start(stack.environment("postgres"), port=stack.ports["postgres"])
        stack.wait_healthy("postgres")
        for name in ("serve", "demo-data"):
            stack.start(name)
        assert stack.wait("demo-data") == 0, stack.output("demo-data")
        stack.wait_healthy("serve")
        stack.start("coordinator")
        stack.wait_healthy("coordinator")
        stack.start("worker")
        yield stack
    finally:
        stack.stop()
        postgres.stop()


def write_study_file(stack: Stack) -> None:
    """A study of seconds in the place where STUDY_FILE is mounted."""
    encoder = build_tiny_encoder(stack.folder / "encoder")
    study = {**yaml.safe_load(TINY_STUDY), "model": {"encoder": str(encoder), "max_length": 16}}
    (stack.folder / "study" / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
