"""Which parameters matter, on studies whose scores are known functions of their params."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fold_search.search.racing.importance import Importance, importance
from fold_search.search.racing.matrix import Matrix, RunState, build_matrix
from fold_search.search.racing.surrogate import fit_surface
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.parameters import Choices
from fold_search.search.study.space import position

NUM_FOLDS, NUM_EPOCHS = 3, 4
CONFIG = StudyConfig.model_validate(
    {
        "data": {"path": "none.csv", "label": "label", "text": "text"},
        "model": {"encoder": "none"},
        "space": {
            "dropout": {"low": 0.0, "high": 0.5},
            "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
            "loss": ["cross_entropy", "focal"],
            "focal_gamma": {"low": 0.5, "high": 4.0},
        },
    }
)


def sampled(num: int, seed: int = 0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    trials: list[dict[str, object]] = []
    for loss in rng.choice(["cross_entropy", "focal"], num).tolist():
        gamma = {"focal_gamma": float(rng.uniform(0.5, 4.0))} if loss == "focal" else {}
        rate = float(10 ** rng.uniform(-5, -2))
        trials.append({"dropout": float(rng.uniform(0, 0.5)), "learning_rate": rate, "loss": loss, **gamma})
    return trials


def study(trials: list[dict[str, object]], levels: NDArray[np.float64], *, complete: NDArray[np.bool_]) -> Matrix:
    """The trials' scores; those that are not complete were stopped after two epochs of the first fold."""
    rng = np.random.default_rng(1)
    runs, scores = [], []
    for number, level in enumerate(levels.tolist()):
        for fold in range(NUM_FOLDS):
            final = level + 0.02 * fold + rng.normal(0, 0.003)
            num_epochs = NUM_EPOCHS if complete[number] else 2 * (fold == 0)
            runs.append((number, fold, RunState.DONE if complete[number] else RunState.ENDED))
            scores += [(number, fold, epoch, final - 0.1 / epoch) for epoch in range(1, num_epochs + 1)]
    numbers = [(number, NUM_EPOCHS) for number in range(len(trials))]
    matrix = build_matrix(numbers, runs, scores, num_folds=NUM_FOLDS)
    return replace(matrix, params=np.array([position(CONFIG.space, params) for params in trials]))


def by_rate(trials: list[dict[str, object]]) -> NDArray[np.float64]:
    """Scores with their peak at a learning rate of 1e-3."""
    return np.array([0.7 - 0.1 * (np.log10(float(str(params["learning_rate"]))) + 3) ** 2 for params in trials])


def found(matrix: Matrix) -> Importance:
    result = importance(matrix, CONFIG)
    assert result is not None
    return result


def test_the_parameter_that_makes_the_scores_is_first_and_its_effect_is_theirs():
    """Nearly the whole variance is its own, and the best value is where it was put."""
    trials = sampled(40)
    result = found(study(trials, by_rate(trials), complete=np.ones(40, bool)))
    first, *others = result.shares
    assert first.name == "learning_rate"
    assert first.low > 0.8
    assert max(share.share for share in others) < 0.1
    best = max(first.effects, key=lambda effect: effect.mean)
    assert 3e-4 < float(str(best.value)) < 3e-3
    # 0.02 is the mean of what the folds add, 0.1 / 4 what the last epoch lacks.
    assert best.low < 0.7 + 0.02 - 0.025 < best.high
    assert result.explained > 0.8


def test_params_of_one_value_each_cause_nothing():
    trials = sampled(20)
    matrix = study(trials, by_rate(trials), complete=np.ones(20, bool))
    only = {"loss": Choices(choices=["focal"])}
    matrix = replace(matrix, params=np.array([position(only, {"loss": "focal"}) for _ in trials]))
    result = importance(matrix, CONFIG.model_copy(update={"space": only}))
    assert result is None or [share.share for share in result.shares] == [0.0]


def test_stopped_trials_count():
    """The complete ones alone, all of them near the best rate, would say that it does not matter."""
    trials = sampled(60)
    levels = by_rate(trials)
    complete = levels > 0.66
    result = found(study(trials, levels, complete=complete))
    assert (result.num_trials, result.num_partial) == (60, int((~complete).sum()))
    assert result.shares[0].name == "learning_rate"
    assert result.shares[0].low > 0.6


def test_a_choice_that_makes_a_difference_is_told_from_a_number_that_makes_none():
    """One value of it is better than the other by what was put in."""
    trials = sampled(40)
    levels = np.array([0.6 + 0.1 * (params["loss"] == "focal") for params in trials])
    first = found(study(trials, levels, complete=np.ones(40, bool))).shares[0]
    assert first.name == "loss"
    means = {effect.value: effect.mean for effect in first.effects}
    assert means["focal"] - means["cross_entropy"] == pytest.approx(0.1, abs=0.02)


def test_a_parameter_counts_where_it_has_an_effect():
    """Where focal_gamma makes all the difference, the loss that switches it on matters too."""
    trials = sampled(60)
    levels = np.array([0.6 + 0.05 * float(str(params.get("focal_gamma", 0.5))) for params in trials])
    shares = {share.name: share for share in found(study(trials, levels, complete=np.ones(60, bool))).shares}
    assert {share.name for share in list(shares.values())[:2]} == {"loss", "focal_gamma"}
    effects = [effect.mean for effect in shares["focal_gamma"].effects]
    assert effects[-1] - effects[0] == pytest.approx(0.05 * 3.5, rel=0.25)


def test_a_smaller_score_that_is_better_keeps_its_sign():
    """The matrix has it turned around; what is shown is the metric."""
    trials = sampled(40)
    matrix = replace(study(trials, -by_rate(trials), complete=np.ones(40, bool)), sign=-1.0)
    first = found(matrix).shares[0]
    assert first.name == "learning_rate"
    assert min(first.effects, key=lambda effect: -effect.mean).mean == pytest.approx(0.7, abs=0.05)


def test_the_same_scores_give_the_same_answer():
    """Surfaces are drawn with the study's seed."""
    trials = sampled(20)
    matrix = study(trials, by_rate(trials), complete=np.ones(20, bool))
    assert importance(matrix, CONFIG) == importance(matrix, CONFIG)


@pytest.mark.parametrize("num", [0, 1, 7])
def test_few_trials_say_nothing(num: int):
    """Below eight."""
    trials = sampled(num)
    matrix = study(trials, by_rate(trials), complete=np.ones(num, bool))
    assert importance(matrix, CONFIG) is None


def test_scores_that_are_not_finite_are_the_worst_and_break_nothing():
    """A diverged trial is as bad as the floor."""
    trials = sampled(20)
    levels = by_rate(trials)
    levels[3] = -np.inf
    assert all(np.isfinite(share.share) for share in found(study(trials, levels, complete=np.ones(20, bool))).shares)


def test_equal_scores_say_nothing():
    """There is no difference to explain."""
    assert fit_surface(np.random.default_rng(0).random((20, 2)), np.full(20, 0.5), np.full(20, 1e-4)) is None


def test_surfaces_pass_through_the_trials():
    """Their mean at the trials is what the process predicts there, and near scores that are surely known."""
    random = np.random.default_rng(0)
    params = 0.9 * random.random((30, 2))
    levels = np.sin(4 * params[:, 0])
    surface = fit_surface(params, levels, np.full(30, 1e-6))
    assert surface is not None
    predicted = (surface.kernel(params) + 1) @ surface.pulls(surface.levels)
    assert surface.center + surface.scale * predicted == pytest.approx(levels, abs=0.1)
    assert surface.explained > 0.9
