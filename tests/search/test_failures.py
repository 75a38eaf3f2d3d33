"""Kinds of failure: what the worker records, what the sampler is told, what people see, and when a study gives up."""

import math
from collections.abc import Callable
from itertools import product

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from rich.console import Console

from fold_search.models.errors import EncoderError
from fold_search.objectives.errors import DataError, Diverged, OutOfMemory, TrialError
from fold_search.search.errors import failure_of
from fold_search.search.reporting.lines import counts_line
from fold_search.search.reporting.summary import summarise
from fold_search.search.reporting.tables import render_status
from fold_search.search.running.proposals import make_sampler
from fold_search.storage.errors import StorageError
from fold_search.storage.records import Failure, FoldRunState, StudyState, TrialState
from fold_search.storage.studies import open_study
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

Studies = Callable[..., ScriptedStudy]
DIVERGED = "epoch 2, step 1 of 5: loss nan"


def told(study: ScriptedStudy) -> list[optuna.trial.FrozenTrial]:
    return open_study(study.url, name="scripted", direction="maximize").get_trials()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (Diverged("loss nan"), Failure.DIVERGED, "diverged: loss nan"),
        (OutOfMemory("out of memory on cuda:0: 9 GiB"), Failure.OUT_OF_MEMORY, "out of memory on cuda:0: 9 GiB"),
        (MemoryError("9 GiB"), Failure.OUT_OF_MEMORY, "out of memory: 9 GiB"),
        (TrialError("no row left"), Failure.CONFIGURATION, "configuration: no row left"),
        (DataError("data.csv: no label"), Failure.DATA_ERROR, "data error: data.csv: no label"),
        (EncoderError("no such encoder"), Failure.MODEL_ERROR, "model error: no such encoder"),
        (StorageError("the disk is full"), Failure.STORAGE_ERROR, "storage error: the disk is full"),
        (KeyError("x"), Failure.CODE_ERROR, "code error: KeyError: 'x'"),
    ],
)
def test_every_error_is_of_one_kind(error: Exception, kind: Failure, reason: str):
    """Its reason begins with the kind, so that it is seen wherever the reason is shown."""
    assert failure_of(error) == (kind, reason)


@pytest.mark.parametrize("error", [OutOfMemory("9 GiB"), TrialError("no row left"), KeyError("a bug")])
def test_a_failure_is_seen_in_ledger_optuna_and_status(scripted_study: Studies, error: Exception):
    """With its kind and its message; the search goes on."""
    study = scripted_study(budget={"trials": 2}, race={"rule": "none"})
    study.run(Script(lambda trial, fold: [error] if trial == 0 else [0.5]))
    kind, reason = failure_of(error)
    failed = study.ledger.trials()[0]
    assert (failed.state, failed.failure, failed.reason) == (TrialState.FAILED, kind, reason)
    assert study.ledger.fold_runs()[0].failure is kind
    assert (told(study)[0].state, told(study)[1].state) == (OptunaState.FAIL, OptunaState.COMPLETE)
    assert told(study)[0].user_attrs == {"fold_scores": [], "failure": kind.value, "reason": reason}
    assert counts_line(summarise(study.ledger)).endswith(f"failures: 1 {kind.words}")
    console = Console(width=200, record=True)
    console.print(render_status(study.ledger, width=200, reasons=True))
    assert reason in console.export_text()


def test_what_is_not_the_trial_s_fault_is_given_back_with_its_kind(scripted_study: Studies):
    """Status shows it while nobody has taken the fold run up again."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    with pytest.raises(DataError):
        study.worker(Script(lambda *_: [DataError("fox.jpg: no image")])).train(
            claim_first(study.ledger, "worker", lease_seconds=60)
        )
    run = study.ledger.fold_runs()[0]
    assert (run.state, run.failure) == (FoldRunState.WAITING, Failure.DATA_ERROR)
    console = Console(width=200, record=True)
    console.print(render_status(study.ledger, width=200, reasons=True))
    assert "fold 0 will be tried again: data error: fox.jpg: no image" in console.export_text()


@pytest.mark.parametrize(("metric", "worst"), [("macro_f1", 0.0), ("mcc", -1.0), ("r2", None)])
def test_a_diverged_trial_has_the_worst_score_of_the_metric(scripted_study: Studies, metric: str, worst: float | None):
    """Whatever it had reached in the fold before; without a bound it has none, in Optuna NaN."""
    study = scripted_study(study={"metric": metric}, budget={"trials": 2}, race={"rule": "none"})
    study.run(Script(lambda trial, fold: [0.9] if (trial, fold) != (1, 1) else [0.95, Diverged(DIVERGED)]))
    trial = study.ledger.trials()[1]
    assert (trial.state, trial.failure, trial.estimate) == (TrialState.STOPPED, Failure.DIVERGED, worst)
    assert trial.reason == f"diverged: {DIVERGED}"
    stopped = told(study)[1]
    assert (stopped.state, stopped.user_attrs["failure"]) == (OptunaState.PRUNED, "diverged")
    assert stopped.intermediate_values[2] == pytest.approx(math.nan if worst is None else worst, nan_ok=True)
    assert summarise(study.ledger).race.stops == summarise(study.ledger).work_saved == 0


def test_a_score_that_is_not_finite_is_divergence_too(scripted_study: Studies):
    """The epoch is recorded as it was; the other folds are not tried."""
    study = scripted_study(budget={"trials": 1})
    study.run(Script(lambda trial, fold: [math.nan, 0.5]))
    [trial] = study.ledger.trials()
    assert (trial.failure, trial.reason) == (Failure.DIVERGED, "diverged: the score is not finite")


def test_a_diverged_trial_fails_where_the_study_says_so(scripted_study: Studies):
    """Optuna's samplers leave failed trials out."""
    study = scripted_study(study={"diverged": "failed"}, budget={"trials": 1})
    study.run(Script(lambda *_: [Diverged(DIVERGED)]))
    [trial] = study.ledger.trials()
    assert (trial.state, trial.failure) == (TrialState.FAILED, Failure.DIVERGED)
    assert told(study)[0].state is OptunaState.FAIL


def test_the_sampler_is_steered_away_from_what_diverged(scripted_study: Studies):
    """Large learning rates score best in the first fold and diverge in the second: they are proposed no more."""

    def curve(trial: int, fold: int) -> list[float | Exception]:
        if study.ledger.params()[trial]["learning_rate"] < 1e-4:
            return [0.5 + fold / 100]
        return [Diverged(DIVERGED)] if fold else [0.9]

    study = scripted_study(budget={"trials": 30}, race={"rule": "none"})
    study.run(Script(curve))
    rates = [params["learning_rate"] for params in study.ledger.params().values()]
    assert sum(rate > 1e-4 for rate in rates[:10]) >= 3  # at random
    assert sum(rate > 1e-4 for rate in rates[15:]) <= 3


def test_no_estimate_of_a_diverged_trial_is_believed(scripted_study: Studies):
    """The race's own, of the folds before, would put it among the best."""
    study = scripted_study(budget={"trials": 12}, race={"rule": "none"})
    study.run(Script(lambda trial, fold: [0.9] if trial else [Diverged(DIVERGED)]))
    proposals: dict[bool, list[float]] = {False: [], True: []}
    optuna_study = open_study(study.url, name="scripted", direction="maximize")
    for seed, believed in product(range(12, 17), (False, True)):
        optuna_study.sampler = make_sampler(study.config, seed, estimates={0: 1.0} if believed else {})
        trial = optuna_study.ask()
        proposals[believed].append(trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True))
        optuna_study.tell(trial, state=OptunaState.FAIL)
    assert proposals[True] == proposals[False]


def test_a_study_whose_trials_all_fail_ends_with_the_reason_and_can_go_on(scripted_study: Studies):
    """Three in a row are enough; the rest of the budget is there once the cause is mended."""
    study = scripted_study(budget={"trials": 6, "max_failures": 3}, race={"rule": "none"})
    study.run(Script(lambda *_: [KeyError("a bug")]))
    assert study.ledger.study().state is StudyState.FAILED
    ended = study.ledger.events(after=study.ledger.last_sequence() - 1)[0].payload
    expected = "3 trials failed in a row; the last was trial 2: code error: KeyError: 'a bug'"
    assert ended == {"state": "failed", "reason": expected, "race": {}}
    study.ledger.reopen_study()
    study.run(Script(lambda *_: [0.5]), study.coordinator("next"))
    assert study.ledger.study().state is StudyState.FINISHED
    assert [trial.state for trial in study.ledger.trials()] == [TrialState.FAILED] * 3 + [TrialState.COMPLETE] * 3


def test_a_study_gives_up_however_often_its_coordinator_is_replaced(scripted_study: Studies):
    """The row is in the ledger: three fail, each under another coordinator, and a reopened study begins a new row."""
    study = scripted_study(budget={"trials": 9, "max_failures": 3}, race={"rule": "none"})
    for row in range(2):
        worker = study.worker(Script(lambda *_: [KeyError("a bug")]))
        for number in range(3):
            coordinator = study.coordinator(f"{row}-{number}")
            assert coordinator.step()
            worker.train(worker.claim())
            coordinator.leave()
        assert not study.coordinator("last").step()
        assert study.ledger.study().state is StudyState.FAILED
        assert len(study.ledger.trials()) == 3 * (row + 1)
        study.ledger.release_role("coordinator", "last")
        study.ledger.reopen_study()


@pytest.mark.parametrize("other", [0.5, Diverged(DIVERGED)])
def test_failures_that_are_not_in_a_row_do_not_end_a_study(scripted_study: Studies, other: float | Exception):
    """A trial that ends otherwise shows that trials can be trained, also one that diverges."""
    study = scripted_study(budget={"trials": 6, "max_failures": 3}, race={"rule": "none"})
    study.run(Script(lambda trial, fold: [other if trial == 2 else KeyError("a bug")]))
    assert [trial.failure for trial in study.ledger.trials()].count(Failure.CODE_ERROR) == 5
    assert study.ledger.study().state is StudyState.FAILED  # trials 3, 4 and 5
