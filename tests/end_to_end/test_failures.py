"""`search run` where every trial fails, and where memory is too short, as real processes."""

from pathlib import Path

import pytest

from storage.records import StudyState
from tests.end_to_end.conftest import UserFolder

pytestmark = pytest.mark.slow

BROKEN = """
import objectives.losses
def build_loss(*_, **__): raise ValueError("this library is broken")
objectives.losses.build_loss = build_loss
"""


def test_a_study_whose_trials_all_fail_ends_and_is_continued_by_the_same_command(user: UserFolder, tmp_path: Path):
    """With one line that says why and exit code 2; the trials that are left are trained once that is mended."""
    user.write_study_file(budget={"trials": 4, "max_failures": 2})
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    process = user.start(*command(user), PYTHONPATH=str(tmp_path))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    reason = "2 trials failed in a row, the last of them, trial 1: code error: ValueError: this library is broken"
    assert output.splitlines()[-1] == f"error: {reason}; the same command continues once that is mended"
    status = user.json("status")
    assert (status["state"], status["failures"]) == ("failed", {"code_error": 2})
    user.search(*command(user))
    assert user.ledger().study().state is StudyState.FINISHED
    assert user.json("status")["trials"] == {"failed": 2, "complete": 2}


def test_a_limit_below_what_a_worker_begins_with_is_refused(user: UserFolder):
    """One line that names the option, what was found and what was expected."""
    process = user.start(*command(user), "--memory-limit", "50MB")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    assert "error: --memory-limit: found a limit of 50000000 bytes, expected more than the" in output


def command(user: UserFolder) -> list[str]:
    return ["run", "--study", "tiny", "--config", "study.yaml", "--storage", user.storage]
