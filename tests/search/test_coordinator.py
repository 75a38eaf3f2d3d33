"""The coordinator against a real Optuna study and a real ledger, with scripted trainings."""

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from search.coordinator import ROLE
from storage.records import FoldRunState, StudyState, TrialState
from storage.studies import open_study
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

Studies = Callable[..., ScriptedStudy]


def rising(level: float) -> list[float]:
    return [level / 3, level / 2, level]


def optuna_study(study: ScriptedStudy) -> optuna.Study:
    return open_study(study.url, name="scripted", direction="maximize")


def test_a_study_runs_to_its_budget_and_both_books_agree(scripted_study: Studies):
    """Four trials of three folds: all complete, with the same scores in the ledger and in Optuna."""
    study = scripted_study(race={"rule": "none"})
    script = Script(lambda trial, fold: rising(0.5 + trial / 10 + fold / 100))
    study.run(script)
    assert study.ledger.study().state is StudyState.FINISHED
    told = optuna_study(study).get_trials()
    assert [trial.state for trial in told] == [OptunaState.COMPLETE] * 4
    assert [trial.value for trial in told] == pytest.approx([0.51, 0.61, 0.71, 0.81])
    assert [trial.score for trial in study.ledger.trials()] == pytest.approx([trial.value for trial in told])
    assert [trial.params for trial in study.ledger.trials()] == [trial.params for trial in told]
    assert len(script.trained) == len(set(script.trained)) == 4 * 3 * 3


def test_a_stopped_trial_is_told_as_pruned_with_the_race_s_estimate(scripted_study: Studies):
    """Optuna sees an estimate of the final mean at a rising step, never the raw score of one fold."""
    study = scripted_study(budget={"trials": 2}, race={"min_trials": 1, "min_epochs": 3})
    study.run(Script(lambda trial, fold: rising((0.6, 0.5, 0.7)[fold] - 0.2 * trial)))
    stopped = optuna_study(study).get_trials()[1]
    assert stopped.state is OptunaState.PRUNED
    assert list(stopped.intermediate_values) == [1]
    assert stopped.intermediate_values[1] == pytest.approx(0.5)
    assert [run.state for run in study.ledger.fold_runs() if run.trial == 1] == [
        FoldRunState.DONE,
        FoldRunState.STOPPED,
        FoldRunState.STOPPED,
    ]
    assert "not better than 0.6000" in (study.ledger.trials()[1].reason or "")


def test_a_failed_trial_is_told_as_failed_and_the_search_goes_on(scripted_study: Studies):
    """One configuration that cannot be trained does not end the study."""
    study = scripted_study(budget={"trials": 2})
    study.run(Script(lambda trial, fold: [ValueError("no")] if trial == 0 else rising(0.5)))
    assert [trial.state for trial in optuna_study(study).get_trials()] == [OptunaState.FAIL, OptunaState.COMPLETE]


def test_the_same_seed_proposes_the_same_params_even_after_a_new_coordinator(scripted_study: Studies, tmp_path):
    """A study whose coordinator is replaced before every step asks for the same params as an undisturbed one."""
    script = Script(lambda trial, fold: rising(0.5 + (trial % 3) / 10))
    calm, shaken = scripted_study(), ScriptedStudy(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other")
    calm.run(script)

    class Replaced:
        def step(self) -> bool:
            shaken.ledger.release_role(ROLE, "coordinator")
            return shaken.coordinator().step()

    shaken.run(script, Replaced())
    assert [trial.params for trial in shaken.ledger.trials()] == [trial.params for trial in calm.ledger.trials()]


def test_a_trial_that_was_asked_for_but_never_written_down_is_asked_for_again(scripted_study: Studies):
    """The coordinator died between Optuna and the ledger: no trial is left running for ever, none is lost."""
    study = scripted_study(budget={"trials": 2}, race={"rule": "none"})
    orphan = optuna_study(study).ask()
    orphan.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    study.run(Script(lambda trial, fold: rising(0.5)))
    told = optuna_study(study).get_trials()
    assert [trial.state for trial in told] == [OptunaState.COMPLETE] * 2
    assert study.ledger.trials()[0].params == orphan.params


def test_only_the_holder_of_the_role_coordinates(scripted_study: Studies):
    """The second coordinator stands by, and takes over when the first leaves."""
    study = scripted_study()
    first, second = study.coordinator("first"), study.coordinator("second")
    assert first.step()
    assert second.step()
    assert (first.leading, second.leading) == (True, False)
    first.leave()
    second._last_renewal = float("-inf")
    second.step()
    assert second.leading


def test_one_worker_waits_for_the_sampler_and_several_have_one_fold_run_ahead(scripted_study: Studies):
    """With one worker the next trial is asked for when nothing is open, with two while fewer than three are."""
    study = scripted_study()
    coordinator = study.coordinator()
    coordinator.step()
    assert len(study.ledger.trials()) == 1
    for owner in ("one", "two"):
        study.ledger.acquire_role(f"worker/{owner}", owner, lease_seconds=60)
    study.worker(Script(lambda trial, fold: rising(0.5))).train(study.ledger.claim("one", lease_seconds=60))
    coordinator.step()
    assert len(study.ledger.trials()) == 2


def test_a_grid_tries_every_combination_once(scripted_study: Studies):
    """Conditional parameters are left out where they have no effect, and the study ends with the grid."""
    study = scripted_study(
        study={"sampler": "grid"},
        space={"loss": ["cross_entropy", "focal"], "focal_gamma": [1.0, 2.0]},
        budget={"trials": 10},
        race={"rule": "none"},
    )
    study.run(Script(lambda trial, fold: rising(0.5)))
    assert [trial.params for trial in study.ledger.trials()] == [
        {"loss": "cross_entropy"},
        {"loss": "focal", "focal_gamma": 1.0},
        {"loss": "focal", "focal_gamma": 2.0},
    ]
    assert study.ledger.study().state is StudyState.FINISHED


def test_trial_states_map_to_optuna_s(scripted_study: Studies):
    """A diverged trial has no estimate, and is still told."""
    from objectives.errors import Diverged

    study = scripted_study(budget={"trials": 2})
    study.run(Script(lambda trial, fold: [Diverged("the loss is nan")] if trial == 1 else rising(0.5)))
    assert study.ledger.trials()[1].state is TrialState.STOPPED
    assert optuna_study(study).get_trials()[1].state is OptunaState.PRUNED
