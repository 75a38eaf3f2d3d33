"""`search run` where every trial fails, and where memory is too short, as real processes."""

import csv
import re
from pathlib import Path

import pytest

from fold_search.search.errors import ExitCode
from fold_search.storage.records import EventKind, StudyState, TrialState
from tests.end_to_end.conftest import SEARCH, UserFolder

# Real interpreters, several a test: on a busy machine they take their time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BROKEN = """
import fold_search.objectives.training.losses
def build_loss(*_, **__): raise ValueError("this library is broken")
fold_search.objectives.training.losses.build_loss = build_loss
"""


def test_a_study_whose_trials_all_fail_ends_and_is_continued_by_the_same_command(user: UserFolder, tmp_path: Path):
    """With one line that says why and exit code 4; the trials that are left are trained once that is mended.

    A third trial may fail before the coordinator has seen that two did.
    """
    user.write_study_file(budget={"trials": 4, "max_failures": 2})
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    process = user.start(*command(user), PYTHONPATH=str(tmp_path))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == ExitCode.TRIALS_FAIL, output
    status = user.json("status")
    failed = status["failures"]["code_error"]
    assert (status["state"], status["failures"]) == ("failed", {"code_error": failed})
    assert failed in (2, 3)
    reason = r"2 trials failed in a row; the last was trial [12]: code error: ValueError: this library is broken"
    last = output.splitlines()[-1]
    assert re.fullmatch(f"error: {reason}; once the cause is fixed, `search run` continues it", last), last
    user.search(*command(user))
    assert user.ledger().study().state is StudyState.FINISHED
    assert user.json("status")["trials"] == {"failed": failed, "complete": 4 - failed}


def test_a_batch_that_a_memory_limit_has_no_room_for_is_halved_and_costs_no_trial(user: UserFolder):
    """A limit below what a worker begins with is refused in one line, which says how much that is."""
    rows = [f"{'fox' if row % 3 else 'cash'} {'the ' * 50}{row},{row % 3 == 0}" for row in range(2560)]
    (user.folder / "long.csv").write_text("\n".join(["text,label", *rows]))
    user.write_study_file(
        data={"path": "long.csv", "label": "label", "text": "text"},
        model=user.sections["model"] | {"max_length": 64},
        training={"epochs": 1, "batch_size": 1280},
        folds={"k": 2},
        budget={"trials": 1},
    )
    user.program = SEARCH  # a forked one holds what it was forked with
    process = user.start(*command(user), "--memory-limit", "50MB")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output
    refused = re.search(r"error: --memory-limit: found a limit of 50000000 bytes, expected more than the (\d+)", output)
    assert refused, output
    user.search(*command(user), "--memory-limit", f"{int(refused[1]) // 1_000_000 + 250}MB")
    [trial] = user.ledger().trials()
    assert (trial.state, trial.failure, len(trial.fold_scores)) == (TrialState.COMPLETE, None, 2)
    events = user.ledger().last_events([EventKind.OUT_OF_MEMORY], limit=100)
    assert {event.payload["rows"] for event in events} in ({640}, {640, 320})


def test_predictions_within_a_memory_limit_are_those_without(user: UserFolder):
    """Rows that do not fit at once go in parts."""
    rows = [f"{'fox' if row % 3 else 'cash'} {'the ' * 50}{row},{row % 3 == 0}" for row in range(4096)]
    for name, num_rows in (("long.csv", 4096), ("some.csv", 40)):
        (user.folder / name).write_text("\n".join(["text,label", *rows[:num_rows]]))
    user.write_study_file(
        data={"path": "some.csv", "label": "label", "text": "text"},
        model=user.sections["model"] | {"max_length": 64},
        training={"epochs": 1, "batch_size": 16},
        folds={"k": 2},
        budget={"trials": 1},
    )
    user.search(*command(user))
    user.search("export", "--study", "tiny", "--storage", user.storage, "--form", "fold", "--out", "model")

    predict = ["predict", "--model", "model", "long.csv", "--batch-size", "4096", "--out"]
    refused, _ = user.start(*predict, "none.csv", "--memory-limit", "50MB").communicate(timeout=600)
    begins = int(re.findall(r"\d+", refused)[1]) // 1_000_000
    user.search(*predict, "free.csv")
    user.search(*predict, "little.csv", "--memory-limit", f"{begins + 160}MB")
    free, little = (
        list(csv.DictReader((user.folder / name).read_text().splitlines())) for name in ("free.csv", "little.csv")
    )
    assert [row["label"] for row in little] == [row["label"] for row in free]
    assert [float(row["p_True"]) for row in little] == pytest.approx([float(row["p_True"]) for row in free], abs=1e-5)


def command(user: UserFolder) -> list[str]:
    return ["run", "--study", "tiny", "--config", "study.yaml", "--storage", user.storage]
