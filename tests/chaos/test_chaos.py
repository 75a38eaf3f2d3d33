"""A study under fire; `python -m benchmarks.chaos` is the long form."""

from pathlib import Path

import pytest

from tests.chaos.driver import run_round
from tests.chaos.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("database", "training"), [("sqlite", "scripted"), ("postgresql", "scripted"), ("sqlite", "real")]
)
def test_whatever_strikes_a_study_it_ends_as_if_nothing_had(database: str, training: str, tmp_path: Path):
    """Every epoch of every fold run once, the scores of an undisturbed run, no lease or Optuna trial left open."""
    postgres = Postgres() if database == "postgresql" else None
    try:
        for name in ("calm", "struck"):
            (tmp_path / name).mkdir()
        study = {"training": training, "rule": "none", "num_trials": 8 if training == "scripted" else 3, "seed": 0}
        calm = run_round(tmp_path / "calm", num_faults=0, **study)
        struck = run_round(tmp_path / "struck", num_faults=15, postgres=postgres, **study)
        assert struck.struck.total() > 5
        assert struck.outcome == calm.outcome
    finally:
        if postgres:
            postgres.end()
