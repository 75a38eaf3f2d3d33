"""The race as a pure function: what it stops, what it leaves alone, and what it tells the sampler."""

from dataclasses import replace

import numpy as np
import pytest

from fold_search.search.racing.estimates import estimates
from fold_search.search.racing.matrix import Matrix, RunState, build_matrix
from fold_search.search.racing.policy import verdict
from fold_search.search.racing.verdicts import Decision
from fold_search.search.study.sections import RaceConfig

EARLY_STOPPING = RaceConfig(rule="early_stopping_cv", min_trials=2, min_epochs=2)


def study(*trials: list[list[float]], epochs: int = 3, num_folds: int = 3) -> Matrix:
    """A matrix from trials that are lists of folds that are lists of epochs; a fold is done after `epochs` epochs."""
    scores = [
        (number, fold, epoch, score)
        for number, folds in enumerate(trials)
        for fold, curve in enumerate(folds)
        for epoch, score in enumerate(curve, start=1)
    ]
    done = [
        (n, f, RunState.DONE) for n, folds in enumerate(trials) for f, curve in enumerate(folds) if len(curve) == epochs
    ]
    return build_matrix([(n, epochs) for n in range(len(trials))], done, scores, num_folds=num_folds)


def complete(*fold_scores: float) -> list[list[float]]:
    """A trial that reached the given score at the end of each fold, rising from half of it."""
    return [[score / 2, score * 0.8, score] for score in fold_scores]


INCUMBENT = complete(0.6, 0.5, 0.7)
WEAKER = complete(0.5, 0.4, 0.6)


def decide(matrix: Matrix, fold: int, settings: RaceConfig = EARLY_STOPPING) -> Decision:
    return verdict(matrix, trial=int(matrix.numbers[-1]), fold=fold, settings=settings).decision


def test_a_trial_behind_the_incumbents_worst_of_the_same_folds_stops():
    """After folds 0 and 1 the mark is the incumbent's 0.5 on fold 1, though its worst would differ on other folds."""
    assert decide(study(INCUMBENT, WEAKER, complete(0.55, 0.44)), fold=1) is Decision.STOP
    assert decide(study(INCUMBENT, WEAKER, complete(0.55, 0.46)), fold=1) is Decision.CONTINUE


def test_equal_to_the_mark_is_not_better():
    """The rule says `not better`, so a tie with the incumbent's worst fold stops."""
    assert decide(study(INCUMBENT, WEAKER, complete(0.6)), fold=0) is Decision.STOP


def test_nothing_is_stopped_before_enough_trials_are_complete():
    """One complete trial is no field to judge by when two are asked for."""
    assert decide(study(INCUMBENT, complete(0.1)), fold=0) is Decision.CONTINUE


def test_a_finished_trial_is_left_alone():
    """All its folds are paid for."""
    assert decide(study(INCUMBENT, WEAKER, complete(0.1, 0.1, 0.1)), fold=2) is Decision.CONTINUE


def test_the_rule_none_stops_only_what_diverged():
    """Without a race every finite trial runs to its end."""
    none = RaceConfig(rule="none")
    assert decide(study(INCUMBENT, WEAKER, complete(0.1)), fold=0, settings=none) is Decision.CONTINUE
    diverged = study(INCUMBENT, WEAKER, [[0.1, float("nan")]])
    assert decide(diverged, fold=0, settings=none) is Decision.STOP


def test_within_a_fold_even_the_largest_late_gain_must_bring_it_up():
    """After two epochs the field gained at most 0.12 on fold 0: 0.47 can still pass 0.6 by no such gain, 0.49 can."""
    assert decide(study(INCUMBENT, WEAKER, [[0.3, 0.47]]), fold=0) is Decision.STOP
    assert decide(study(INCUMBENT, WEAKER, [[0.3, 0.49]]), fold=0) is Decision.CONTINUE


def test_within_a_fold_the_first_epochs_are_not_judged():
    """A slow start is no reason before min_epochs."""
    assert decide(study(INCUMBENT, WEAKER, [[0.01]]), fold=0) is Decision.CONTINUE


def test_a_minimised_metric_is_judged_the_other_way_round():
    """For a loss the larger value is behind, and the reason shows the metric's own numbers."""
    scores = [(t, f, 1, value) for t, value in enumerate((0.4, 0.5, 0.9)) for f in range(1 if t == 2 else 2)]
    done = [(trial, fold, RunState.DONE) for trial, fold, *_ in scores]
    matrix = build_matrix([(t, 1) for t in range(3)], done, scores, num_folds=2, maximize=False)
    judged = verdict(matrix, trial=2, fold=0, settings=EARLY_STOPPING)
    assert judged.decision is Decision.STOP
    assert "0.9000" in judged.reason
    assert estimates(matrix)[0] == pytest.approx(0.4)


def test_the_estimate_of_a_finished_trial_is_its_mean():
    """Nothing is shrunk once every fold is known."""
    assert estimates(study(INCUMBENT, WEAKER))[0] == pytest.approx(0.6)


def test_the_estimate_corrects_for_an_easy_fold():
    """A trial known only on the hardest fold is expected above its raw score, one only on the easiest below it."""
    field = [complete(0.6, 0.5, 0.7), complete(0.5, 0.4, 0.6), complete(0.55, 0.45, 0.65)]
    hardest = estimates(study(*field, [[], [0.2, 0.4, 0.45]]))[3]
    easiest = estimates(study(*field, [[], [], [0.3, 0.5, 0.65]]))[3]
    assert hardest == pytest.approx(0.55, abs=0.02)
    assert easiest == pytest.approx(0.55, abs=0.02)


def test_the_estimate_of_a_partial_fold_adds_the_usual_late_gain():
    """After two of three epochs the field's gain of 0.09 to 0.12 is still to come."""
    field = [complete(0.6), complete(0.55), complete(0.5), complete(0.45)]
    partial = estimates(study(*field, [[0.2, 0.44]]))[4]
    assert partial == pytest.approx(0.44 + 0.11, abs=0.04)
    assert partial > estimates(study(*field, [[0.2, 0.44, 0.44]]))[4]


def test_the_estimate_of_a_stopped_trial_is_what_its_last_epochs_said():
    """The race has no more use for them, the sampler has."""
    field = [complete(0.6), complete(0.55), complete(0.5), complete(0.45)]
    begun = study(*field, [[0.2, 0.4]], [[0.2, 0.3]])
    stopped = replace(begun, states=np.where(begun.numbers[:, None] >= 4, RunState.ENDED, begun.states))
    assert estimates(stopped) == estimates(begun)
    assert estimates(stopped)[4] > estimates(stopped)[5]


def test_without_a_finite_score_there_is_no_estimate():
    """The sampler is told no number for a trial that diverged, or of which nothing was trained."""
    assert set(estimates(study(INCUMBENT, [[float("nan")]], []))) == {0}
    assert estimates(study()) == {}


def test_the_matrix_marks_holes_and_divergence_differently():
    """NaN means not trained, -inf means not finite."""
    matrix = study([[0.5, float("inf")]])
    assert np.isnan(matrix.scores[0, 1]).all()
    assert matrix.scores[0, 0, :2].tolist() == [0.5, -np.inf]


def test_how_much_must_be_known_follows_the_rule_unless_it_is_given():
    """Four first folds are enough for the paired race; early_stopping_cv with four complete trials loses more."""
    assert [RaceConfig(rule=rule).fewest_trials for rule in ("paired", "early_stopping_cv")] == [4, 8]
    assert RaceConfig(rule="early_stopping_cv", min_trials=2).fewest_trials == 2
