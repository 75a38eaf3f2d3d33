"""Each baseline on a case small enough to know its answer by hand; Optuna's pruners against a plain Optuna loop."""

import warnings

import numpy as np
import optuna
import pytest

from benchmarks.replay.baselines import BASELINES
from benchmarks.replay.orders import RandomOrder
from benchmarks.replay.recorded import recorded
from benchmarks.replay.rules import rule_of
from benchmarks.replay.simulator import Replay, replay
from benchmarks.replay.synthetic import synthetic
from fold_search.search.exporting.curves import Curves
from tests.benchmarks.hand_made import Listed, curves_of

# A mean of 0.5, and a worst fold of 0.25.
INCUMBENT = [[0.5, 0.75], [0.3, 0.5], [0.2, 0.25]]


def run(name: str, curves: Curves, **settings: int) -> Replay:
    return replay(recorded(curves, name="hand"), policy=BASELINES[name](**settings), order=Listed())


@pytest.mark.parametrize(
    ("name", "first_fold", "stopped"),
    [
        ("bergman-aggressive", 0.50, True),
        ("bergman-aggressive", 0.51, False),
        ("bergman-forgiving", 0.25, True),
        ("bergman-forgiving", 0.26, False),
        ("intensification", 0.74, True),
        ("intensification", 0.75, False),
    ],
)
def test_a_trial_is_compared_with_the_incumbent(name: str, first_fold: float, stopped: bool):
    """The bar after one fold: the incumbent's mean, its worst fold, or its own score on that fold."""
    curves = curves_of([INCUMBENT, [[0.1, first_fold], [0.9, 0.9], [0.9, 0.9]]])
    found = run(name, curves)
    assert np.isinf(found.completed[1]) == stopped
    assert found.epochs == (8 if stopped else 12)


def test_intensification_looks_after_1_2_4_folds():
    """Behind after three folds is not noticed before the fourth."""
    best = [[0.5]] * 5
    behind = [[0.6], [0.6], [0.1], [0.1], [0.9]]
    assert run("intensification", curves_of([best, behind])).epochs == 5 + 4


def test_an_epoch_cut_trains_all_a_little_and_the_best_to_their_end():
    """After one epoch of both folds of each trial the best by then goes on; the cheapest first look may be wrong."""
    curves = curves_of([[[0.1, 0.9], [0.1, 0.9]], [[0.4, 0.5], [0.4, 0.5]], [[0.2, 0.3], [0.2, 0.3]]])
    found = run("epoch-cut", curves, epochs=1, finish=1)
    assert found.completed.tolist() == [np.inf, 8.0, np.inf]
    assert (found.epochs, found.end, found.chosen) == (8, 8.0, 1)
    assert len(found.stated) == 2


def plain_loop(curves: Curves, pruner: optuna.pruners.BasePruner, reports: str) -> list[float]:
    """A user's loop over trials and folds; the number of epochs of each trial that is pruned, 0 where it is not."""
    study = optuna.create_study(study_name="replay", direction="maximize", pruner=pruner)
    ended = []
    for folds in curves.standing.astype(float):
        trial = study.ask()
        epochs, pruned = 0, False
        for fold, curve in enumerate(folds):
            for epoch, standing in enumerate(curve, start=1):
                epochs += 1
                if reports == "epoch" and fold == 0:
                    trial.report(standing, epoch)
                    if pruned := trial.should_prune():
                        break
            if reports == "fold" and not pruned:
                is_wilcoxon = isinstance(pruner, optuna.pruners.WilcoxonPruner)
                value, step = (curve[-1], fold) if is_wilcoxon else (folds[: fold + 1, -1].mean(), fold + 1)
                trial.report(value, step)
                pruned = fold + 1 < len(folds) and trial.should_prune()
            if pruned:
                break
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, folds[:, -1].mean())
        ended.append(epochs if pruned else 0)
    return ended


@pytest.mark.parametrize("reports", ["fold", "epoch"])
@pytest.mark.parametrize("name", ["median", "percentile", "halving", "hyperband", "wilcoxon"])
def test_optunas_pruners_prune_what_a_users_loop_would(name: str, reports: str):
    """The same trials end after the same epochs as with trial.report and trial.should_prune."""
    if (name, reports) == ("wilcoxon", "epoch"):
        return
    pruners = {
        "median": optuna.pruners.MedianPruner,
        "percentile": lambda: optuna.pruners.PercentilePruner(25.0),
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "wilcoxon": optuna.pruners.WilcoxonPruner,
    }
    curves = synthetic(num_trials=40, num_folds=8, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        expected = plain_loop(curves, pruners[name](), reports)
    found = run(name if reports == "fold" else f"{name}-epochs", curves)
    assert sum(expected) > 0
    assert found.epochs == sum(epochs or 80 for epochs in expected)
    assert np.isinf(found.completed).tolist() == [epochs > 0 for epochs in expected]


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("name", [*BASELINES, "early_stopping_cv", "none"])
def test_every_rule_ends_every_study(name: str, workers: int):
    """With one worker and with eight a study ends with a chosen trial and no more work than there is."""
    of = recorded(synthetic(num_trials=15, num_folds=3, num_epochs=4), name="synthetic")
    found = replay(of, policy=rule_of(name)(), order=RandomOrder(15, 0), workers=workers)
    assert 0 < found.work <= of.work.sum()
    assert found.end >= found.work / workers
    assert 0 <= found.chosen < len(found.drawn)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("medain", "no such rule, expected one of .*early_stopping_cv"),
        ("early_stopping_cv:min_trials=0", "min_trials"),
        ("early_stopping_cv:min_trials", "expected KEY=VALUE"),
        ("epoch-cut:epoch=1", "unexpected keyword"),
        ("median:trials=1", "unexpected keyword"),
    ],
)
def test_an_unknown_rule_or_setting_is_refused(text: str, expected: str):
    """One line says which, and what was expected."""
    with pytest.raises(ValueError, match=expected):
        rule_of(text)
    assert rule_of("epoch-cut:epochs=4,finish=2")() == BASELINES["epoch-cut"](epochs=4, finish=2)
