"""The simulator on curves small enough to know the answer by hand."""

import numpy as np
import optuna
import pytest
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights

from benchmarks.replay.orders import NUM_STARTUP, Pool, RandomOrder, TpeOrder, log_density, pool_of
from benchmarks.replay.outcomes import Setting, Studies, compare, no_race, outcome
from benchmarks.replay.recorded import recorded
from benchmarks.replay.simulator import Stated, replay
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict
from tests.benchmarks.hand_made import CONTINUE, Listed, Scripted, curves_of

STOP = Verdict(decision=Decision.STOP, chance=0.25)
PAUSE = Verdict(decision=Decision.PAUSE, chance=0.125)
SETTING = Setting(set_name="hand", folds=2, order="random", workers=1, seed=0)

# Three trials of two folds of two epochs; the second is the best.
THREE = curves_of([[[0.1, 0.5], [0.2, 0.6]], [[0.4, 0.8], [0.3, 0.7]], [[0.1, 0.2], [0.2, 0.3]]])


def test_without_a_race_everything_is_trained_in_order():
    """One worker: each trial's end is the sum of the epochs before it; every epoch is asked about."""
    policy = Scripted()
    found = replay(recorded(THREE, name="hand"), policy=policy, order=Listed())
    assert found.completed.tolist() == [4.0, 8.0, 12.0]
    assert (found.end, found.work, found.epochs, found.chosen) == (12.0, 12.0, 12, 1)
    assert policy.asked[:3] == [(0, 0, 1), (0, 0, 2), (0, 1, 1)]
    assert policy.left == [2] * 4 + [1] * 4 + [0] * 4
    assert found.stated == ()


def test_two_workers_take_two_folds_at_once():
    """Twice as many workers need half the time and the same work."""
    found = replay(recorded(THREE, name="hand"), policy=no_race(), order=Listed(), workers=2)
    assert (found.completed.tolist(), found.end, found.work) == ([2.0, 4.0, 6.0], 6.0, 12.0)


def test_a_stopped_trial_ends_with_its_epoch():
    """What was not trained is saved, and what was stated is kept."""
    policy = Scripted(rule=lambda matrix, trial, fold: STOP if trial == 0 else CONTINUE)
    found = replay(recorded(THREE, name="hand"), policy=policy, order=Listed())
    assert found.completed.tolist() == [np.inf, 5.0, 9.0]
    assert found.stated == (Stated(trial=0, chance=0.25, kind="stopped"),)


def test_the_other_fold_of_a_stopped_trial_ends_with_its_epoch_too():
    """Two workers on one trial: the second learns of the stop after the epoch that it was in."""
    policy = Scripted(rule=lambda matrix, trial, fold: STOP if trial == 0 and fold == 0 else CONTINUE)
    found = replay(recorded(THREE, name="hand"), policy=policy, order=Listed(), workers=2)
    assert found.work == 2 + 8
    assert found.end == 5.0


def test_a_paused_fold_run_goes_on_where_it_was():
    """Nothing is trained twice."""
    policy = Scripted(
        rule=lambda matrix, trial, fold: PAUSE if (trial, matrix.num_epochs[0, 0]) == (0, 1) else CONTINUE
    )
    found = replay(recorded(THREE, name="hand"), policy=policy, order=Listed())
    assert found.work == 12.0
    assert (0, 0, 2) in policy.asked


def test_the_matrix_holds_only_what_was_trained():
    """The states and scores at a verdict are those of that moment."""
    seen = []

    def rule(matrix: Matrix, trial: int, fold: int) -> Verdict:
        seen.append((matrix.scores.copy(), matrix.states.copy()))
        return CONTINUE

    replay(recorded(THREE, name="hand"), policy=Scripted(rule=rule), order=Listed())
    scores, states = seen[1]
    assert scores.shape == (1, 2, 2)
    assert np.isnan(scores[0, 1]).all()
    assert scores[0, 0].tolist() == pytest.approx([0.1, 0.5])
    assert states.tolist() == [[RunState.DONE, RunState.WAITING]]


def test_smaller_is_better_where_the_metric_says_so():
    """The matrix is turned round, and the chosen trial has the smallest final mean."""
    curves = curves_of([[[3.0], [5.0]], [[1.0], [2.0]]], direction="minimize")
    of = recorded(curves, name="hand")
    assert of.scores[0, 0, 0] == -3.0
    assert replay(of, policy=no_race(), order=Listed()).chosen == 1


def test_fold_runs_may_differ_in_length_and_in_cost():
    """By patience a fold run ends sooner; with the unit second an epoch costs what it took."""
    curves = curves_of([[[0.1], [0.2, 0.3, 0.4]], [[0.5], [0.6]]], seconds=2.0)
    found = replay(recorded(curves, name="hand", unit="second"), policy=no_race(), order=Listed())
    assert (found.end, found.epochs) == (12.0, 6)


def test_an_end_leaves_trials_unfinished():
    """What was said last of a trial that the policy never came back to is kept, and the best was lost."""

    class Ends(Scripted):
        def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
            if (matrix.states == RunState.PAUSED).any():
                return Choice(action=Action.END)
            return super().next_fold_run(matrix, trials_left=trials_left)

    of = recorded(THREE, name="hand")
    reference = replay(of, policy=no_race(), order=Listed())
    found = replay(of, policy=Ends(rule=lambda matrix, trial, fold: PAUSE if trial else CONTINUE), order=Listed())
    assert found.stated == (Stated(trial=1, chance=0.125, kind="left"),)
    result = outcome(found, reference, of=of, rule="ends", setting=SETTING)
    assert (result.lost, result.censored, result.speedup) == (True, True, 8 / 12)
    assert [claim.best for claim in result.claims] == [True]
    assert result.validation_regret == pytest.approx(0.75 - 0.55)
    assert result.test_regret == pytest.approx(0.75 - 0.55)


def test_of_a_trial_that_was_never_begun_the_chance_is_what_the_study_ended_with():
    """A loss of it counts like any other."""

    class PassesOver(Scripted):
        def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
            if len(matrix.numbers) < 2:
                return Choice(action=Action.START)
            if matrix.complete[0]:
                return Choice(action=Action.END, chances={1: 0.25})
            return Choice(action=Action.RUN, trial=0, fold=int(matrix.done[0].sum()))

    found = replay(recorded(THREE, name="hand"), policy=PassesOver(rule=lambda *_: CONTINUE), order=Listed())
    assert found.stated == (Stated(trial=1, chance=0.25, kind="left"),)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(action=Action.WAIT), "waits, and nothing is running"),
        (Choice(action=Action.RUN, trial=0, fold=0), "runs a trial that it has stopped|what is not to be run"),
        (Choice(action=Action.START), "starts a trial that the study does not have"),
    ],
)
def test_a_policy_that_asks_for_what_there_is_not_is_caught(choice: Choice, words: str):
    """Waiting for nothing, running what has ended, and more trials than there are."""

    class Wrong(Scripted):
        def next_fold_run(self, matrix: Matrix, *, trials_left: int) -> Choice:
            return choice if len(matrix.numbers) == 3 else super().next_fold_run(matrix, trials_left=trials_left)

    policy = Wrong(rule=lambda matrix, trial, fold: STOP)
    with pytest.raises(AssertionError, match=words):
        replay(recorded(THREE, name="hand"), policy=policy, order=Listed())


def test_speed_up_is_the_time_to_the_best_against_no_race():
    """Stopping the first trial after one epoch brings the best trial's end from 8 to 5."""
    of = recorded(THREE, name="hand")
    reference = replay(of, policy=no_race(), order=Listed())
    policy = Scripted(rule=lambda matrix, trial, fold: STOP if trial == 0 else CONTINUE)
    result = outcome(replay(of, policy=policy, order=Listed()), reference, of=of, rule="stop", setting=SETTING)
    assert (result.speedup, result.share, result.lost, result.censored) == (8 / 5, 9 / 12, False, False)
    assert [(claim.chance, claim.best) for claim in result.claims] == [(0.25, False)]


def test_neither_study_is_favoured_by_what_it_drew():
    """One draws the best of three trials first, the other not at all: twice as fast, or half as fast."""
    of = recorded(THREE, name="hand")
    lucky, unlucky = (replay(of, policy=no_race(), order=Listed(rows=rows), num_trials=2) for rows in ((1, 0), (2, 0)))
    one = outcome(lucky, unlucky, of=of, rule="none", setting=SETTING)
    other = outcome(unlucky, lucky, of=of, rule="none", setting=SETTING)
    assert (one.speedup, one.censored, other.speedup, other.censored) == (8 / 4, False, 4 / 8, True)


def test_a_tie_with_the_best_is_the_best():
    """Of two trials with the same final mean one is enough."""
    of = recorded(curves_of([[[0.5], [0.5]], [[0.5], [0.5]]]), name="hand")
    reference = replay(of, policy=no_race(), order=Listed())
    policy = Scripted(rule=lambda matrix, trial, fold: STOP if trial == 0 else CONTINUE)
    assert not outcome(replay(of, policy=policy, order=Listed()), reference, of=of, rule="", setting=SETTING).lost


def test_of_a_tie_the_first_that_was_drawn_is_chosen():
    """Two trials tie on the folds and not on the test file: who trains both in full regrets nothing."""
    curves = curves_of([[[0.5], [0.5]], [[0.5], [0.5]]])
    curves.test_folds[1] = 0.9
    of = recorded(curves, name="hand")
    for rows in ((0, 1), (1, 0)):
        found = replay(of, policy=no_race(), order=Listed(rows=rows))
        assert outcome(found, found, of=of, rule="none", setting=SETTING).test_regret == 0


def test_the_first_folds_are_taken():
    """K = 2 of K = 3 are the first two folds, with their own means."""
    curves = curves_of([[[0.1], [0.3], [0.9]]])
    assert recorded(curves, name="hand", num_folds=2).final.tolist() == pytest.approx([0.2])
    means = {recorded(curves, name="hand", num_folds=2, seed=seed).final.item() for seed in range(20)}
    assert sorted(means) == pytest.approx([0.2, 0.5, 0.6])
    with pytest.raises(ValueError, match="found 4 folds, expected 2 to 3"):
        recorded(curves, name="hand", num_folds=4)


def test_an_order_that_learns_is_told_a_ranking():
    """By their means, those of stopped trials as far as they are known; ones that have not begun nowhere."""
    order = Listed(learns=True)
    curves = curves_of([[[0.9, 0.9]] * 2, [[0.1, 0.5]] * 2, [[0.4, 0.8]] * 2, [[0.3, 0.3]] * 2, [[0.1, 0.2]] * 2])
    policy = Scripted(
        rule=lambda matrix, trial, fold: STOP if (trial, fold) in ((0, 0), (3, 1)) else CONTINUE,
    )
    replay(recorded(curves, name="hand"), policy=policy, order=order)
    assert order.seen == [[], [0], [0, 1], [0, 2, 1], [0, 2, 1, 3]]


def test_studies_differ_by_seed_and_repeat():
    """The same comparison twice is the same, in one process and in two; every setting has an outcome a rule."""
    studies = Studies(sets={"hand": [THREE]}, folds=[2, 3], orders=["random", "tpe"], num_studies=3)
    one = list(compare(studies, {"none": no_race}, processes=1))
    assert one == list(compare(studies, {"none": no_race}, processes=2))
    assert len(one) == 6
    assert all(result.speedup == 1 and result.share == 1 and not result.lost for result in one)
    assert len({tuple(RandomOrder(3, seed).draw([0] * n, []) for n in range(3)) for seed in range(9)}) > 1


def test_parameters_become_points():
    """Numbers over decades by their logarithm, others in proportion; names, and what may be missing, as choices."""
    pool = pool_of(
        [
            {"rate": 1e-4, "drop": 0.0, "loss": "ce", "fixed": 1},
            {"rate": 1e-3, "drop": 0.1, "loss": "focal", "gamma": 2.0, "fixed": 1},
            {"rate": 1e-2, "drop": 0.4, "loss": "ce", "fixed": 1},
        ]
    )
    assert pool.numbers.T.tolist() == [pytest.approx([0, 0.25, 1]), pytest.approx([0, 0.5, 1])]
    assert sorted(pool.choices.T.tolist()) == [[0, 1, 0], [1, 0, 1]]


def test_the_parzen_density_is_optunas():
    """The same points give the same density as Optuna's own estimator, for few and for many of them."""
    random = np.random.default_rng(0)
    numbers, choices = random.random((60, 2)), random.integers(3, size=(60, 1))
    pool = Pool(numbers=numbers, choices=choices, num_choices=np.array([3]))
    space = {
        "a": optuna.distributions.FloatDistribution(0, 1),
        "b": optuna.distributions.FloatDistribution(0, 1),
        "c": optuna.distributions.CategoricalDistribution([0, 1, 2]),
    }
    settings = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)
    for num_points in (1, 2, 7, 40):
        columns = dict(zip(space, [*numbers.T, choices[:, 0]], strict=True))
        observed = {name: column[:num_points] for name, column in columns.items()}
        expected = _ParzenEstimator(observed, space, settings).log_pdf(columns)
        assert log_density(pool, np.arange(num_points), np.arange(60)) == pytest.approx(expected)


def test_it_proposes_where_optuna_would():
    """After 30 trials of a hill both propose points around its top, about as far from it, and nobody draws twice."""
    points = np.random.default_rng(1).random(300)
    values = -((points - 0.7) ** 2)
    pool = pool_of([{"x": float(x)} for x in points])
    drawn, ranking = list(range(30)), np.argsort(-values[:30]).tolist()
    mine = [points[TpeOrder(pool, seed).draw(drawn, ranking)] for seed in range(60)]
    theirs = []
    for seed in range(60):
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}
        study.add_trials(
            optuna.trial.create_trial(params={"x": x}, distributions=distributions, value=value)
            for x, value in zip(points[:30].tolist(), values[:30].tolist(), strict=True)
        )
        theirs.append(study.ask().suggest_float("x", 0, 1))
    away = [np.abs(np.array(proposed) - 0.7).mean() for proposed in (mine, theirs)]
    assert away[0] == pytest.approx(away[1], rel=0.5)
    assert away[0] < np.abs(points - 0.7).mean() / 2
    assert not set(mine) & set(points[:30])
    assert TpeOrder(pool, 0).draw(drawn, ranking[: NUM_STARTUP - 1]) >= len(drawn)
