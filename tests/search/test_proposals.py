"""What the sampler makes of trials that the race has only begun, in real Optuna studies."""

import hashlib
import random
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from fold_search.search.running.proposals import Estimates, make_sampler
from fold_search.search.study.config import StudyConfig

NUM_TRIALS = 12


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def config() -> StudyConfig:
    return StudyConfig.model_validate(
        {"data": {"path": "none.csv", "label": "label", "text": "text"}, "model": {"encoder": "none"}}
    )


def study(state: TrialState, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Twelve trials in that state, the smaller x the better, each reported at its first fold and told as that."""
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(NUM_TRIALS):
        trial = made.ask()
        score = -propose(trial)["x"]
        trial.report(score, step=1)
        if state is not TrialState.RUNNING:
            made.tell(trial, score if state is TrialState.COMPLETE else None, state=state)
        assert trial.number == number
    made.sampler = sampler
    return made


def propose(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1), "y": trial.suggest_float("y", 0, 1)}


def estimates(made: optuna.Study) -> Estimates:
    return {trial.number: trial.intermediate_values[1] for trial in made.get_trials()}


def plain(seed_of: int) -> optuna.samplers.TPESampler:
    seed = int.from_bytes(hashlib.sha256(f"{config().study.seed}/trial/{seed_of}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.PRUNED])
def test_a_trial_that_is_paused_or_stopped_teaches_as_much_as_a_complete_one(state: TrialState):
    """The same proposal as TPE's own where the twelve trials were complete with these scores."""
    begun = study(state, plain(NUM_TRIALS))
    begun.sampler = make_sampler(config(), NUM_TRIALS, estimates=estimates(begun))
    assert propose(begun.ask()) == propose(study(TrialState.COMPLETE, plain(NUM_TRIALS)).ask())


def test_without_estimates_the_sampler_learns_nothing_of_open_trials():
    """TPE draws at random until ten trials have ended, whatever they reported; with estimates it does not."""
    paused = study(TrialState.RUNNING, make_sampler(config(), NUM_TRIALS))
    found = propose(paused.ask())
    assert found == propose(study(TrialState.RUNNING, plain(NUM_TRIALS)).ask())
    paused = study(TrialState.RUNNING, plain(NUM_TRIALS))
    paused.sampler = make_sampler(config(), NUM_TRIALS, estimates=estimates(paused))
    assert propose(paused.ask()) != found


def test_the_study_itself_is_as_it_was():
    """No state is written; only the trial that was asked for is new."""
    paused = study(TrialState.RUNNING, plain(NUM_TRIALS))
    before = paused.get_trials()
    paused.sampler = make_sampler(config(), NUM_TRIALS, estimates=estimates(paused))
    propose(paused.ask())
    assert paused.get_trials()[:NUM_TRIALS] == before


def test_estimates_move_the_proposals():
    """Over twenty trials' seeds, those of a study whose small x are good are smaller than of one where they are bad."""
    chance = random.Random(0)
    means = []
    for sign in (1, -1):
        found = []
        for number in range(20):
            paused = study(TrialState.RUNNING, plain(number))
            known = {trial: sign * value for trial, value in estimates(paused).items()}
            paused.sampler = make_sampler(config(), chance.randrange(10_000), estimates=known)
            found.append(propose(paused.ask())["x"])
        means.append(sum(found) / len(found))
    assert means[0] < means[1] - 0.2
