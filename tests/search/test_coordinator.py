"""The coordinator against a real Optuna study and a real ledger, with scripted trainings."""

import time
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from fold_search.search.running.coordinator import RENEWAL_SECONDS
from fold_search.search.running.proposals import make_sampler
from fold_search.search.study.attended import COORDINATOR_ROLE
from fold_search.storage.records import FoldRunState, StudyState, TrialState
from fold_search.storage.studies import open_study
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script, ScriptedRace, waits

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
    study = scripted_study(budget={"trials": 2}, race={"rule": "early_stopping_cv", "min_trials": 1, "min_epochs": 3})
    study.run(Script(lambda trial, fold: rising((0.6, 0.5, 0.7)[fold] - 0.2 * trial)))
    stopped = optuna_study(study).get_trials()[1]
    assert stopped.state is OptunaState.PRUNED
    assert list(stopped.intermediate_values) == [1]
    assert stopped.intermediate_values[1] == pytest.approx(0.4)
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


def test_a_trial_that_is_in_optunas_study_alone_holds_nothing_up(scripted_study: Studies):
    """Somebody added it, or an earlier version left it waiting behind a later one; the budget is the study's own."""
    study = scripted_study()
    optuna_study(study).add_trial(optuna.trial.create_trial(value=0.1))
    study.run(Script(lambda trial, fold: rising(0.5)))
    assert [trial.number for trial in study.ledger.trials()] == [1, 2, 3, 4]
    assert len({trial.params["learning_rate"] for trial in study.ledger.trials()}) == 4


@pytest.mark.parametrize("dies", [False, True])
def test_the_first_trial_has_the_usual_values(scripted_study: Studies, monkeypatch: pytest.MonkeyPatch, dies: bool):
    """Also if the coordinator that asked for it died before it wrote it down; without `defaults` it is random."""
    study = scripted_study(study={"sampler": "random"}, budget={"trials": 3})
    if dies:
        monkeypatch.setattr(study.ledger, "add_trial", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            study.coordinator().step()
        monkeypatch.undo()
        study.ledger.release_role(COORDINATOR_ROLE, "coordinator")
    study.run(Script(lambda trial, fold: rising(0.5)))
    rates = [trial.params["learning_rate"] for trial in study.ledger.trials()]
    assert rates[0] == pytest.approx(5e-5)
    assert 5e-5 not in rates[1:]
    assert len(optuna_study(study).get_trials()) == 3


def test_the_same_seed_proposes_the_same_params_even_after_a_new_coordinator(scripted_study: Studies, tmp_path):
    """A study whose coordinator is replaced before every step asks for the same params as an undisturbed one."""
    script = Script(lambda trial, fold: rising(0.5 + (trial % 3) / 10))
    calm, shaken = scripted_study(), ScriptedStudy(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other")
    calm.run(script)

    class Replaced:
        def step(self) -> bool:
            shaken.ledger.release_role(COORDINATOR_ROLE, "coordinator")
            return shaken.coordinator().step()

    shaken.run(script, Replaced())
    assert [trial.params for trial in shaken.ledger.trials()] == [trial.params for trial in calm.ledger.trials()]


def test_a_trial_that_was_asked_for_but_never_written_down_is_asked_for_again(scripted_study: Studies, tmp_path):
    """The coordinator died between two of its params: none is left running for ever, and the params are the same."""
    space = {name: {"low": 1e-5, "high": 1e-3, "log": True} for name in ("learning_rate", "weight_decay")}
    goal = {"sampler": "random", "defaults": False}
    sections = {"study": goal, "space": space, "budget": {"trials": 2}, "race": {"rule": "none"}}
    calm, study = ScriptedStudy(f"sqlite:///{tmp_path / 'calm.db'}", tmp_path, **sections), scripted_study(**sections)
    calm.run(Script(lambda trial, fold: rising(0.5)))
    sampler = make_sampler(study.config, 0)
    orphan = open_study(study.url, name="scripted", direction="maximize", sampler=sampler).ask()
    orphan.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    study.run(Script(lambda trial, fold: rising(0.5)))
    told = optuna_study(study).get_trials()
    assert [trial.state for trial in told] == [OptunaState.COMPLETE] * 2
    assert [trial.params for trial in told] == [trial.params for trial in study.ledger.trials()]
    assert [trial.params for trial in study.ledger.trials()] == [trial.params for trial in calm.ledger.trials()]


def test_only_the_holder_of_the_role_coordinates(scripted_study: Studies, monkeypatch: pytest.MonkeyPatch):
    """The second coordinator stands by, and takes over when the first leaves."""
    study = scripted_study()
    first, second = study.coordinator("first"), study.coordinator("second")
    assert first.step()
    assert second.step()
    assert (first.leading, second.leading) == (True, False)
    first.leave()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * RENEWAL_SECONDS)
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
    study.worker(Script(lambda trial, fold: rising(0.5))).train(claim_first(study.ledger, "one", lease_seconds=60))
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
    from fold_search.objectives.errors import Diverged

    study = scripted_study(budget={"trials": 2})
    study.run(Script(lambda trial, fold: [Diverged("the loss is nan")] if trial == 1 else rising(0.5)))
    assert study.ledger.trials()[1].state is TrialState.STOPPED
    assert optuna_study(study).get_trials()[1].state is OptunaState.PRUNED


def breadth(matrix: Matrix) -> Choice | None:
    """Every trial's first fold before any trial's second."""
    begun = matrix.states != RunState.WAITING
    fresh = np.flatnonzero(matrix.open & ~begun.any(axis=1))
    if fresh.size:
        return Choice(action=Action.RUN, trial=int(matrix.numbers[fresh[0]]), fold=0)
    return Choice(action=Action.START) if len(matrix.numbers) < 4 else None


def test_a_race_goes_breadth_first_and_one_worker_s_trials_are_asked_for_one_at_a_time(scripted_study: Studies):
    """Each is asked for when the one before it has been trained as far as the race wants."""
    study = scripted_study(race={"rule": "none"})
    study.policy = ScriptedRace(choose=breadth)
    script = Script(lambda trial, fold: rising(0.5 + trial / 10 + fold / 100))
    study.ledger.acquire_role("worker/one", "one", lease_seconds=60)
    known_at = {}
    script.on_epoch = lambda trial, fold, epoch: known_at.setdefault((trial, fold), len(study.ledger.trials()))
    study.run(script)
    assert list(known_at.items())[:4] == [((trial, 0), trial + 1) for trial in range(4)]
    assert len(script.trained) == len(set(script.trained)) == 4 * 3 * 3
    assert [trial.state for trial in optuna_study(study).get_trials()] == [OptunaState.COMPLETE] * 4


def third_only(matrix: Matrix) -> Choice | None:
    """Nothing but the third trial."""
    if len(matrix.numbers) < 3:
        return Choice(action=Action.START)
    if matrix.complete[2]:
        return Choice(action=Action.END, chances={0: 0.01, 1: 0.02})
    fold = int((matrix.states[2] == RunState.WAITING).argmax())
    return Choice(action=Action.RUN, trial=2, fold=fold)


def test_trials_that_the_race_does_not_want_are_passed_over_and_stopped_at_the_end(scripted_study: Studies):
    """One step asks for as many as it takes; what was never begun ends without a score, at the chance that was left."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 3})
    study.policy = ScriptedRace(choose=third_only)
    coordinator, script = study.coordinator(), Script(lambda trial, fold: rising(0.6))
    study.ledger.acquire_role("worker/one", "one", lease_seconds=60)
    coordinator.step()
    assert len(study.ledger.trials()) == 3
    study.run(script, coordinator)
    assert script.trained == [(2, fold, epoch) for fold in range(3) for epoch in range(1, 4)]
    passed_over, complete = study.ledger.trials()[:2], study.ledger.trials()[2]
    assert complete.state is TrialState.COMPLETE
    assert [(trial.state, trial.chance, trial.estimate) for trial in passed_over] == [
        (TrialState.STOPPED, 0.01, None),
        (TrialState.STOPPED, 0.02, None),
    ]
    told = [trial.state for trial in optuna_study(study).get_trials()]
    assert told == [OptunaState.PRUNED, OptunaState.PRUNED, OptunaState.COMPLETE]


def test_several_idle_workers_are_given_a_trial_each_and_one_is_ahead(scripted_study: Studies):
    """Two idle workers of a breadth-first race: three trials; while both train, the third is still ahead."""
    study = scripted_study(race={"rule": "none"})
    study.policy = ScriptedRace(choose=breadth)
    for owner in ("one", "two"):
        study.ledger.acquire_role(f"worker/{owner}", owner, lease_seconds=60)
    coordinator = study.coordinator()
    coordinator.step()
    assert len(study.ledger.trials()) == 3
    for trial in (0, 1):
        assert study.ledger.claim_run(f"worker-{trial}", trial=trial, fold=0, lease_seconds=60)
    coordinator.step()
    assert len(study.ledger.trials()) == 3
    assert study.ledger.claim_run("worker-0", trial=2, fold=0, lease_seconds=60)
    coordinator.step()
    assert len(study.ledger.trials()) == 4


def paused(matrix: Matrix) -> bool:
    return bool((matrix.states == RunState.PAUSED).any())


def test_a_race_that_ends_a_study_stops_what_is_open(scripted_study: Studies):
    """With its estimate, as pruned; paused fold runs lose their checkpoints; the reason says how far it got."""
    study = scripted_study(race={"rule": "none"})
    study.policy = ScriptedRace(
        verdicts={(1, 0, 2): Verdict(decision=Decision.PAUSE, reason="behind", chance=0.02)},
        choose=lambda matrix: Choice(action=Action.END, chances={1: 0.03}) if paused(matrix) else None,
    )
    study.run(Script(lambda trial, fold: rising((0.6, 0.5, 0.7)[fold] - 0.2 * trial)))
    assert study.ledger.study().state is StudyState.FINISHED
    first, second = study.ledger.trials()
    assert first.state is TrialState.COMPLETE
    assert (second.state, second.chance) == (TrialState.STOPPED, 0.03)  # at the end, not at its pause
    assert second.reason == "more training is not expected to find a better trial"
    assert {run.state for run in study.ledger.fold_runs(trials=[1])} == {FoldRunState.STOPPED}
    assert not [name for name in study.artifacts.names(study.ledger.folder) if "checkpoint" in name]
    told = optuna_study(study).get_trials()[1]
    assert (told.state, list(told.intermediate_values)) == (OptunaState.PRUNED, [1])
    assert told.intermediate_values[1] == second.estimate
    ended = study.ledger.events(after=study.ledger.last_sequence() - 1)[0].payload
    assert ended["reason"] == "2 of 4 trials: more training is not expected to find a better trial"
    assert (ended["race"]["stops"], ended["race"]["stated_chance"]) == (1, 0.03)


def test_a_study_ends_once_ten_more_trials_are_expected_to_gain_nothing(scripted_study: Studies):
    """`until: no-expected-gain`, of trials that differ by noise alone; the reason says why not all were asked for."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 30, "until": "no-expected-gain"})
    study.run(Script(lambda trial, fold: rising(0.7 + np.random.default_rng((trial, fold)).normal(0, 0.05))))
    num_trials = len(study.ledger.trials())
    assert 20 <= num_trials < 30
    ended = study.ledger.events(after=study.ledger.last_sequence() - 1)[0].payload
    why = "ten more trials are expected to improve the score by less than the noise between folds"
    assert ended["reason"] == f"{num_trials} of 30 trials: {why}"


def test_a_study_that_leaves_does_not_end_early(scripted_study: Studies):
    """Its time is over: what is paused stays so, and the next run continues it."""
    study = scripted_study(race={"rule": "none"})
    study.policy = ScriptedRace(choose=lambda matrix: Choice(action=Action.END))
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    study.ledger.finish_fold(claim_first(study.ledger, "worker", lease_seconds=60), FoldRunState.PAUSED)
    leaving = study.coordinator()
    leaving.asking = False
    assert leaving.step()
    assert study.ledger.fold_runs()[0].state is FoldRunState.PAUSED
    assert study.ledger.study().state is StudyState.RUNNING


def test_a_paused_trial_s_estimate_is_reported_and_it_stays_running(scripted_study: Studies):
    """At the number of folds that are done or paused; resumed and paused again, the estimate is a new one.

    Of the second fold's first epoch nothing is made while no other curve is known.
    """
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    pause = Verdict(decision=Decision.PAUSE, reason="later", chance=0.3)
    study.policy = ScriptedRace(verdicts={(0, 0, 1): pause, (0, 0, 2): pause, (0, 1, 1): pause}, choose=waits)
    worker, coordinator = study.worker(Script(lambda trial, fold: rising(0.6))), study.coordinator()
    seen = []
    coordinator.step()
    for fold in (0, 0, 0, 1):
        worker.train(study.ledger.claim_run("worker", trial=0, fold=fold, lease_seconds=60))
        coordinator.step()
        [trial] = optuna_study(study).get_trials()
        assert trial.state is OptunaState.RUNNING
        seen.append(dict(trial.intermediate_values))
    assert seen == [pytest.approx(values) for values in ({1: 0.2}, {1: 0.3}, {1: 0.6}, {1: 0.6, 2: 0.6})]


def test_a_paused_study_is_continued_by_a_new_coordinator(scripted_study: Studies):
    """The processes died with a trial paused and another under way: every epoch is trained once all the same."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 2})
    study.policy = ScriptedRace(verdicts={(0, 0, 1): Verdict(decision=Decision.PAUSE, chance=0.3)}, choose=later_first)
    script = Script(lambda trial, fold: rising(0.6))
    worker, coordinator = study.worker(script), study.coordinator()
    coordinator.step()
    worker.train(worker.claim())
    coordinator.step()
    study.ledger.claim_run("dead", trial=1, fold=0, lease_seconds=-1)
    coordinator.leave()
    study.run(script, study.coordinator("next"))
    assert len(script.trained) == len(set(script.trained)) == 2 * 3 * 3
    assert [trial.state for trial in optuna_study(study).get_trials()] == [OptunaState.COMPLETE] * 2


def later_first(matrix: Matrix) -> Choice | None:
    """A new trial before one that is paused."""
    paused = (matrix.states == RunState.PAUSED).any()
    return Choice(action=Action.START) if paused and len(matrix.numbers) < 2 else None
