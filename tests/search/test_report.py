"""What `search status` and `search best` show of a study in a real database."""

import csv
import json
import re
import signal
from collections.abc import Callable, Sequence
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.training.leaks import prove
from fold_search.objectives.training.sampling import as_sample
from fold_search.search.cli import app
from fold_search.search.commands import answers
from fold_search.search.reporting import summary
from fold_search.search.reporting.summary import summarise, trials_as_json
from fold_search.search.reporting.tables import render_status
from fold_search.search.running.progress import Progress, describe
from fold_search.search.study.config import StudyConfig, to_record
from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind, FoldRunState, TrialState
from tests.claims import claim_first

TRUTH = np.array([0, 0, 0, 0, 0, 1])
VALIDATION = np.array([4])


def columns_of(line: str) -> list[str]:
    """The cells of a table's line."""
    return re.split(r"  +", line.strip())


class LookedAtStudy:
    """A study of two folds and up to ten epochs, to which trials are added as they ended."""

    def __init__(self, url: str, *, metric: str = "macro_f1", **sections: object) -> None:
        self.url = url
        config = StudyConfig.model_validate(
            {
                "study": {"metric": metric},
                "data": {"path": "none.csv", "label": "label", "text": "text"},
                "model": {"encoder": "none"},
                "training": {"epochs": 10},
                "folds": {"k": 2},
                "budget": {"trials": 4},
                **sections,
            }
        )
        engine = connect(url)
        migrate(engine)
        record = create_study(
            engine,
            name="seen",
            config=to_record(config),
            metric=metric,
            direction="minimize" if metric == "log_loss" else "maximize",
            fingerprints={},
            provenance={},
            assignments=np.arange(6, dtype=np.int16) % 2,
        )
        self.ledger = Ledger(engine, record.id)

    def add_trial(
        self,
        score: float,
        *,
        state: TrialState = TrialState.COMPLETE,
        epochs: Sequence[int] = (10, 10),
        pooled: float | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Train the folds for so many epochs each; `rows` are what each was trained on, if that is recorded."""
        number = len(self.ledger.trials())
        self.ledger.add_trial(number, {"dropout": 0.1})
        for num_epochs in epochs:
            claim = claim_first(self.ledger, "test", lease_seconds=60)
            assert claim is not None
            if rows is not None:
                self.ledger.record_sample(claim, sample_of(rows))
            for epoch in range(1, num_epochs + 1):
                scored = EpochScore(epoch=epoch, score=score, standing=score, metrics={}, seconds=0.1)
                self.ledger.record_epoch(claim, scored, checkpoint=None)
            if state is TrialState.STOPPED:
                self.ledger.stop_trial(claim, reason="hopeless")
                break
            ended = FoldRunState.FAILED if state is TrialState.FAILED else FoldRunState.DONE
            self.ledger.finish_fold(claim, ended, score=score, best_epoch=1, reason=None)
            if state is TrialState.FAILED:
                break
        complete = state is TrialState.COMPLETE
        self.ledger.finish_trial(
            number, state, score=score if complete else None, std=0.25 if complete else None, pooled=pooled
        )

    def search(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--study", "seen", "--storage", self.url])

    def list(self, *options: str) -> str:
        return CliRunner().invoke(app, ["list", "--storage", self.url, *options]).stdout

    def json(self, command: str) -> Any:
        return json.loads(self.search(command, "--json").stdout)


def sample_of(rows: Sequence[int]) -> dict[str, Any]:
    proof = prove(
        as_sample(np.array(rows)),
        training_rows=np.setdiff1d(np.arange(6), VALIDATION),
        validation_rows=VALIDATION,
        counts=lambda rows: np.bincount(TRUTH[rows], minlength=2),
    )
    return proof.summary()


@pytest.fixture
def study(sqlite_url: str) -> LookedAtStudy:
    return LookedAtStudy(sqlite_url)


def test_the_pooled_score_stands_beside_the_mean_and_its_deviation(study: LookedAtStudy):
    """In words and as JSON, of status and of best; a trial without one shows none."""
    study.add_trial(0.5)
    assert "best macro_f1: 0.5000 ± 0.2500 over 2 folds (trial 0)" in study.search("best").stdout
    study.add_trial(0.75, pooled=0.625)
    for command in ("best", "status"):
        line = "best macro_f1: 0.7500 ± 0.2500 over 2 folds, all rows pooled 0.6250 (trial 1)"
        assert line in study.search(command).stdout
    assert study.json("best")["pooled"] == study.json("status")["best"]["pooled"] == 0.625
    assert [trial["pooled"] for trial in study.json("status")["all_trials"]] == [None, 0.625]


def test_a_trial_s_row_has_its_pooled_score(study: LookedAtStudy):
    """A dash where there is none."""
    study.add_trial(0.75, pooled=0.625)
    study.add_trial(0.5)
    console = Console(file=StringIO(), width=120)
    console.print(render_status(study.ledger))
    rows = [columns_of(line) for line in console.file.getvalue().splitlines() if " complete " in line]
    assert [(cells[2], cells[3]) for cells in rows] == [
        ("0.7500 ± 0.2500", "0.6250"),
        ("0.5000 ± 0.2500", "-"),
    ]


def test_best_shows_what_resampling_made_of_the_rows_and_that_none_was_held_out(study: LookedAtStudy):
    """The row of the rare class three times, and not the validation row."""
    study.add_trial(0.5, rows=[0, 1, 2, 3, 5, 5, 5])
    output = study.search("best").stdout
    assert output.count("7 rows instead of 5; class sizes 1 to 4 become 3 to 4") == 2
    assert "leak check: no validation row was used for training" in output
    found = study.json("best")
    assert found["num_validation_rows_used"] == 0
    assert [sample["counts_after"] for sample in found["samples"]] == [[4, 3], [4, 3]]


def test_best_says_nothing_of_rows_that_nothing_was_made_of(study: LookedAtStudy):
    """But still that no validation row was used."""
    study.add_trial(0.5, rows=[0, 1, 2, 3, 5])
    output = study.search("best").stdout
    assert "5 rows" not in output
    assert "leak check: no validation row was used for training" in output


def test_a_leak_is_loud(study: LookedAtStudy):
    """One validation row in each of the two folds."""
    study.add_trial(0.5, rows=[0, 1, 2, 3, 4, 5])
    assert "LEAK: 2 validation rows were also used for training" in study.search("best").stdout
    assert study.json("best")["num_validation_rows_used"] == 2


def test_what_is_not_recorded_is_not_claimed(study: LookedAtStudy):
    """A study that an older version began has no samples."""
    study.add_trial(0.5)
    assert "not recorded for every fold" in study.search("best").stdout
    found = study.json("best")
    assert (found["num_validation_rows_used"], found["samples"]) == (None, [None, None])


def test_of_a_metric_that_is_minimised_the_smallest_is_the_best(sqlite_url: str):
    """It leads the table, and the line says so."""
    study = LookedAtStudy(sqlite_url, metric="log_loss")
    for score in (0.5, 0.25, 0.75, 0.25):
        study.add_trial(score)
    assert "best log_loss (smaller is better): 0.2500" in study.search("best").stdout
    assert study.json("best")["trial"] == 1
    console = Console(file=StringIO(), width=120)
    console.print(render_status(study.ledger))
    rows = [columns_of(line) for line in console.file.getvalue().splitlines() if " complete " in line]
    assert [cells[0] for cells in rows] == ["1", "3", "0", "2"]


def test_what_patience_left_out_is_not_saved_by_stopping(study: LookedAtStudy):
    """Both folds were done after four epochs of ten."""
    study.add_trial(0.5, epochs=(4, 4))
    summary = summarise(study.ledger)
    assert summary.work_saved == 0
    assert summary.epochs_left == 3 * 8


def test_a_stopped_trial_saved_what_its_folds_would_have_needed(study: LookedAtStudy):
    """Done folds took four epochs of ten; one that was stopped after two saved two, and the fold after it four."""
    study.add_trial(0.5, epochs=(4, 4))
    study.add_trial(0.25, state=TrialState.STOPPED, epochs=(2,))
    assert summarise(study.ledger).work_saved == pytest.approx(6 / 16)


def test_a_failed_trial_saves_nothing(study: LookedAtStudy):
    """What was not trained because of a failure was not spared by the race."""
    study.add_trial(0.5)
    study.add_trial(0.25, state=TrialState.FAILED, epochs=(2,))
    assert summarise(study.ledger).work_saved == 0


def test_a_grid_has_no_more_trials_than_combinations(sqlite_url: str):
    """The budget of four is not what will be trained."""
    study = LookedAtStudy(
        sqlite_url,
        study={"sampler": "grid"},
        space={"dropout": [0.1, 0.2]},
    )
    assert "trials 0/2" in study.search("status").stdout


def test_the_study_file_is_read_once_however_often_one_looks(sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    """And once more when another `search run` has changed the budget."""
    study = LookedAtStudy(sqlite_url, budget={"trials": 37})  # as no other test has it
    read: list[int] = []

    def counted(config: StudyConfig) -> int:
        read.append(config.budget.trials)
        return config.budget.trials

    monkeypatch.setattr(summary, "most_trials", counted)
    assert [summarise(study.ledger).budget for _ in range(3)] == [37, 37, 37]
    more = {**study.ledger.study().config, "budget": {"trials": 41}}
    study.ledger.update_config(more)
    assert [summarise(study.ledger).budget for _ in range(3)] == [41, 41, 41]
    assert read == [37, 41]


@pytest.mark.parametrize("command", ["best", "status"])
def test_a_study_without_a_complete_trial_has_no_best(study: LookedAtStudy, command: str):
    """And says so in words; best exits with 1."""
    result = study.search(command)
    assert "none yet (no trial is complete)" in result.stdout
    assert result.exit_code == (1 if command == "best" else 0)


def test_a_paused_trial_is_shown_with_its_estimate_and_chance(study: LookedAtStudy):
    """In the table, the counts, and as JSON; it is not counted as running."""
    study.add_trial(0.5)
    study.ledger.add_trial(1, {"dropout": 0.1})
    claim = claim_first(study.ledger, "test", lease_seconds=60)
    study.ledger.record_epoch(
        claim, EpochScore(epoch=1, score=0.75, standing=0.75, metrics={}, seconds=0.1), checkpoint=None
    )
    study.ledger.finish_fold(claim, FoldRunState.PAUSED, reason="others promise more", chance=0.125)
    console = Console(file=StringIO(), width=160)
    console.print(render_status(study.ledger))
    output = console.file.getvalue()
    [cells] = [columns_of(line) for line in output.splitlines() if "  paused  " in line]
    [found] = [trial for trial in study.json("status")["all_trials"] if trial["paused"]]
    assert cells[2] == f"about {found['estimate']:.4f}"
    assert found["estimate"] == 0.75  # what it has reached: one trial is too little to say more
    assert cells[6] == "p=0.12"
    assert "about, p: the score that the race expects of a trial, and its chance to be the best" in output
    assert "trial 1: 12% chance to be the best" in study.search("status", "--reasons").stdout
    assert "trials 2/4 (1 complete, 1 paused)" in output
    assert "race: 0 trials stopped early, 1 paused" in output
    assert study.json("status")["race"]["paused"] == 1


def test_best_names_the_trials_that_are_tied_with_it(sqlite_url: str):
    """In words and as JSON; a trial that is behind by the same on every fold is not."""
    study = LookedAtStudy(sqlite_url)
    for score in (0.5, 0.75, 0.75):
        study.add_trial(score)
    assert "tied with the best within the noise between folds: trials 2 (0.7500)" in study.search("best").stdout
    assert study.json("best")["tied"] == [{"trial": 2, "score": 0.75, "difference": 0.0, "p_value": 1.0}]


ALIVE: dict[str, Callable[[Ledger, float], object]] = {
    "a coordinator": lambda ledger, seconds: ledger.acquire_role("coordinator", "a", lease_seconds=seconds),
    "a worker": lambda ledger, seconds: ledger.acquire_role("worker/elsewhere", "a", lease_seconds=seconds),
    "a run that begins": lambda ledger, seconds: ledger.acquire_role("run/elsewhere", "a", lease_seconds=seconds),
    "a lease": lambda ledger, seconds: ledger.claim_run("elsewhere", trial=1, fold=0, lease_seconds=seconds),
}


@pytest.mark.parametrize("who", ALIVE)
def test_a_study_on_which_no_process_works_is_interrupted(database_url: str, who: str):
    """Whatever died there, on any machine, once its lease has lapsed; and then nothing of it is said to run."""
    study = LookedAtStudy(database_url)
    ledger = study.ledger
    study.add_trial(0.5)
    ledger.add_trial(1, {"dropout": 0.1})
    ledger.acquire_role("publisher/mlflow", "a", lease_seconds=60)  # it trains nothing
    for seconds, state in ((60, "running"), (-1, "interrupted")):
        ALIVE[who](ledger, seconds)
        trained = who == "a lease" and seconds > 0
        summary = summarise(ledger)
        assert summary.state == state
        assert summary.trials == {"complete": 1, "running" if trained else "waiting": 1}
        assert summary.fold_runs == {"done": 2, **({"leased": 1, "waiting": 1} if trained else {"waiting": 2})}
        assert trials_as_json(ledger)[1]["state"] == ("running" if trained else "waiting")
        ledger.release_owner("elsewhere", reason="left")
    ledger.finish_study("done")
    assert summarise(ledger).state == "finished"
    ledger.engine.dispose()


def test_an_interrupted_study_is_shown_with_the_command_that_continues_it(study: LookedAtStudy):
    """In words and as JSON, of status and of list; the line can be pasted, however long it is."""
    line = "not finished: no process is running it; continue with the same `search run` command, or with: "
    line += f"{{}} --storage {study.url}\n"
    for live in (True, False):
        study.ledger.acquire_role("coordinator", "a", lease_seconds=60 if live else -1)
        state = "running" if live else "interrupted"
        for text in (study.search("status").stdout, study.list()):
            assert state in text
            assert (line.format("search worker --study seen") in text) == (not live)
        assert study.json("status")["state"] == json.loads(study.list("--json"))[0]["state"] == state


def test_a_study_that_ends_while_one_looks_was_not_interrupted(study: LookedAtStudy, monkeypatch: pytest.MonkeyPatch):
    """Its processes leave with its end."""
    study.ledger.acquire_role("coordinator", "a", lease_seconds=60)
    real = Ledger.study

    def ends(ledger: Ledger) -> Any:
        ledger.finish_study("done")
        ledger.release_role("coordinator", "a")
        return real(ledger)

    monkeypatch.setattr(Ledger, "study", ends)
    assert summarise(study.ledger).state == "finished"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_status_has_a_line_for_each_trial(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, width: int):
    """Whole, and no wider than the terminal; the best first, and the reasons in full where they are asked for."""
    study = LookedAtStudy(sqlite_url, budget={"trials": 14})
    for number in range(13):
        state = TrialState.STOPPED if number % 3 else TrialState.COMPLETE
        study.add_trial(0.125 + number / 1000, state=state, epochs=(10, 10) if state is TrialState.COMPLETE else (2,))
    monkeypatch.setenv("COLUMNS", str(width))
    shown = study.search("status").stdout.splitlines()
    rows = [columns_of(line) for line in shown if re.match(r" +\d+  (complete|stopped)  ", line)]
    assert [int(cells[0]) for cells in rows] == [12, 9, 6, 3, 0, 11, 10, 8, 7, 5, 4, 2, 1]
    assert rows[0][:3] == ["12", "complete", "0.1370 ± 0.2500"]
    assert (
        max(len(line) for line in shown if not line.startswith("not finished: ")) <= width
    )  # that is a command to paste
    assert "…" not in "".join(shown)
    assert len(shown) < 32
    assert "trial 11: hopeless" not in shown
    assert "trial 11: hopeless" in study.search("status", "--reasons").stdout.splitlines()


def test_status_as_csv_has_every_trial_and_param(study: LookedAtStudy):
    """A row for each, which a table program reads; nothing of a study that has no trial."""
    assert study.search("status", "--csv").stdout == ""
    study.add_trial(0.5, pooled=0.625)
    study.add_trial(0.25, state=TrialState.STOPPED, epochs=(3,))
    best, stopped = csv.DictReader(StringIO(study.search("status", "--csv").stdout))
    assert [best[name] for name in ("number", "state", "score", "pooled", "fold_1", "dropout")] == [
        *("0", "complete", "0.5", "0.625", "0.5", "0.1"),
    ]
    assert [stopped[name] for name in ("number", "state", "score", "reason")] == ["1", "stopped", "", "hopeless"]


def test_status_is_watched_until_ctrl_c(study: LookedAtStudy, monkeypatch: pytest.MonkeyPatch):
    """It shows the study as it is each time; not together with another form."""
    study.add_trial(0.5)
    pauses = iter([lambda: study.add_trial(0.75), lambda: signal.raise_signal(signal.SIGINT)])
    monkeypatch.setattr(answers, "time", SimpleNamespace(sleep=lambda seconds: next(pauses)()))
    result = study.search("status", "--watch")
    assert result.exit_code == 0
    assert [line.split(": ")[1].split()[0] for line in result.stdout.splitlines() if line.startswith("best")] == [
        "0.5000",
        "0.7500",
    ]
    refused = study.search("status", "--watch", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_stopped_trial_is_shown_with_one_estimate(study: LookedAtStudy):
    """That of its end: a reason has the numbers that were known when it was stopped, and those go on changing."""
    study.ledger.add_trial(0, {"dropout": 0.1})
    claim = study.ledger.claim_run("test", trial=0, fold=0, lease_seconds=60)
    study.ledger.stop_trial(claim, reason="0.1% chance to beat 0.9000 of trial 3, the best one", chance=0.001)
    study.ledger.finish_trial(0, TrialState.STOPPED, estimate=0.625)
    [ended] = study.ledger.last_events([EventKind.TRIAL_FINISHED], limit=1)
    said = "trial 0 stopped: macro_f1 about 0.6250 (0.1% chance to beat 0.9000 of trial 3, the best one)"
    assert describe(ended, metric="macro_f1") == said
    assert "about 0.6250" in study.search("status").stdout


def test_a_stopped_trial_is_one_line_of_the_progress(sqlite_url: str):
    """Its fold runs stop with it, for the same reason. What a fold has reached is a line of its own."""
    study = LookedAtStudy(sqlite_url, folds={"k": 5})
    printed = Console(file=StringIO())
    with Progress(study.ledger, printed):
        study.ledger.add_trial(0, {"dropout": 0.1})
        done, begun = (study.ledger.claim_run("test", trial=0, fold=fold, lease_seconds=60) for fold in (0, 1))
        study.ledger.finish_fold(done, FoldRunState.DONE, score=0.5, best_epoch=11)
        losses = {"train_loss": 0.25, "val_loss": 0.75}
        scored = EpochScore(epoch=1, score=0.5, standing=0.5, metrics=losses, seconds=0.1)
        study.ledger.record_epoch(begun, scored, checkpoint=None)
        study.ledger.stop_trial(begun, reason="hopeless")
        study.ledger.finish_trial(0, TrialState.STOPPED, estimate=0.625)
    lines = [line.split(maxsplit=1)[1] for line in printed.file.getvalue().splitlines()]
    assert lines[-3:] == [
        "trial 0 fold 0 done: macro_f1 0.5000, best epoch 11",
        "trial 0 fold 1 epoch 1 of 10: macro_f1 0.5000 train_loss 0.2500 val_loss 0.7500 (0.1s)",
        "trial 0 stopped: macro_f1 about 0.6250 (hopeless)",
    ]
    assert sum("stopped" in line for line in lines) == 1


@pytest.mark.parametrize("look", ["trials", "fold_runs"])
def test_a_trial_that_is_added_between_two_looks_is_no_error(
    look: str, study: LookedAtStudy, monkeypatch: pytest.MonkeyPatch
):
    """Each look is a transaction of its own, and a coordinator adds trials at any time."""
    study.add_trial(0.5)
    real = getattr(Ledger, look)

    def then_one_more(ledger: Ledger, **options: Any) -> Any:
        found = real(ledger, **options)
        ledger.add_trial(1, {"dropout": 0.2})
        return found

    monkeypatch.setattr(Ledger, look, then_one_more)
    assert summarise(study.ledger).epochs_trained == 20
