"""The paired race: what it believes, whether its chances are true, and what it does with them."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from benchmarks.replay.orders import RandomOrder
from benchmarks.replay.policies import RacePolicy
from benchmarks.replay.recorded import recorded
from benchmarks.replay.simulator import replay
from benchmarks.replay.synthetic import synthetic
from fold_search.search.racing.beliefs import believe, expected_gain
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.paired import SURPRISE, is_audited
from fold_search.search.racing.policy import gain_is_within_noise, next_fold_run, verdict
from fold_search.search.racing.verdicts import Action, Choice, Decision, Verdict, percent
from fold_search.search.study.sections import RaceConfig

PAIRED = RaceConfig(rule="paired", audit=0.0)
NUM_EPOCHS = 6


def study(means: np.ndarray, *, folds: int = 5, noise: float = 0.02, seed: int = 0) -> Matrix:
    """Every trial in full: its mean, an effect of each fold, noise, and curves that rise to their ends."""
    random = np.random.default_rng(seed)
    ends = means[:, None] + 0.05 * random.standard_normal(folds) + noise * random.standard_normal((len(means), folds))
    rising = ends[:, :, None] - 0.4 * np.exp(-np.arange(1, NUM_EPOCHS + 1)) + 0.004 * random.standard_normal(NUM_EPOCHS)
    return Matrix(
        numbers=np.arange(len(means)),
        scores=np.maximum.accumulate(rising, axis=2),
        states=np.full((len(means), folds), RunState.DONE, np.int8),
        lengths=np.full(len(means), NUM_EPOCHS),
        params=np.zeros((len(means), 0)),
    )


def trained_only(full: Matrix, row: int, *epochs: int) -> Matrix:
    """The same study with only so many epochs of this trial's folds; those that are begun are paused."""
    scores, states = full.scores.copy(), full.states.copy()
    for fold in range(states.shape[1]):
        count = epochs[fold] if fold < len(epochs) else 0
        scores[row, fold, count:] = np.nan
        if count < NUM_EPOCHS:
            states[row, fold] = RunState.PAUSED if count else RunState.WAITING
    return replace(full, scores=scores, states=states)


def usual(seed: int = 0, num: int = 20) -> np.ndarray:
    """Means of trials as a search finds them: few are good."""
    return 0.7 - 0.05 * np.random.default_rng(seed).exponential(size=num)


def test_a_complete_trial_is_known_exactly():
    """Its mean is that of its folds, without doubt, and it has no chance to overtake itself."""
    full = study(usual())
    beliefs = believe(full)
    np.testing.assert_allclose(beliefs.mean, full.scores[:, :, -1].mean(axis=1))
    assert beliefs.deviation.max() == 0
    assert beliefs.chance.max() == 0
    assert beliefs.best == int(full.scores[:, :, -1].mean(axis=1).argmax())


def test_an_easy_fold_is_no_merit():
    """A trial that equals the best on one fold is expected near the best, however easy that fold is."""
    full = study(usual(), noise=0.0)
    best = int(full.scores[:, :, -1].mean(axis=1).argmax())
    for fold in (0, 3):
        scores = full.scores.copy()
        scores[:, fold] += 0.2
        easy = replace(full, scores=scores)
        mean = believe(easy).mean[best]
        row = (best + 1) % 20
        scores[row] = scores[best]
        partly = believe(trained_only(easy, row, *([0] * fold), NUM_EPOCHS))
        assert partly.mean[row] == pytest.approx(mean, abs=0.02)


def test_doubt_shrinks_with_every_fold_and_epoch():
    """From nothing known to everything."""
    full = study(usual())
    deviations = [
        believe(trained_only(full, 3, *epochs)).deviation[3]
        for epochs in ((), (1,), (3,), (6,), (6, 6), (6, 6, 6), (6, 6, 6, 6), (6, 6, 6, 6, 6))
    ]
    assert all(np.diff(deviations) < 0)
    assert deviations[-1] == 0


@pytest.mark.parametrize(("num_folds", "epochs"), [(5, (6,)), (5, (6, 6)), (5, (2,)), (10, (6, 6, 6)), (3, (6, 4))])
def test_the_chances_are_true(num_folds: int, epochs: tuple[int, ...]):
    """Over many studies no more trials overtake the best than was stated, and not many fewer: at most by half."""
    stated, overtook = [], []
    for seed in range(300):
        full = study(usual(seed, 16), folds=num_folds, seed=seed)
        row = int(np.random.default_rng(seed).integers(16))
        finals = full.scores[:, :, -1].mean(axis=1)
        stated.append(believe(trained_only(full, row, *epochs)).chance[row])
        overtook.append(finals[row] > np.delete(finals, row).max())
    hits, total = sum(overtook), len(overtook)
    low, high = beta.ppf(0.005, hits, total - hits + 1), beta.ppf(0.995, hits + 1, total - hits)
    assert low <= np.mean(stated) <= 1.5 * high


def test_a_late_learner_keeps_its_chance_however_many_workers_train_it():
    """One that learns late on every fold: five unfinished folds are as good a reason to stop it as one of them."""
    full = study(usual(num=12), noise=0.01)
    scores = full.scores.copy()
    scores[5] = 0.3 + 0.02 * np.arange(NUM_EPOCHS)
    late = replace(full, scores=scores)
    alone, everywhere = (believe(trained_only(late, 5, *epochs)) for epochs in ((2,), (2, 2, 2, 2, 2)))
    assert everywhere.deviation[5] > 0.9 * alone.deviation[5]
    # What was trained furthest counts as it would alone.
    further, alone = (believe(trained_only(late, 5, *epochs)) for epochs in ((5, 1, 1, 1, 1), (5,)))
    assert further.deviation[5] == pytest.approx(alone.deviation[5], rel=0.2)


def test_a_curve_unlike_all_others_which_are_alike_is_believed_something_of():
    """Small data sets give equal scores: no spread to measure a distance by."""
    scores = np.tile(np.array([0.2, 0.3, 0.4, 0.5, 0.5, 0.5]), (6, 2, 1))
    scores[5, 0] = [0.1, 0.45, 0.45, 0.46, 0.46, 0.46]
    alike = Matrix(
        numbers=np.arange(6),
        scores=scores,
        states=np.full((6, 2), RunState.DONE, np.int8),
        lengths=np.full(6, NUM_EPOCHS),
        params=np.zeros((6, 0)),
    )
    for epochs in range(1, NUM_EPOCHS):
        beliefs = believe(trained_only(alike, 5, epochs))
        assert np.isfinite(beliefs.mean).all()
        assert 0 <= beliefs.chance[5] <= 1


def test_while_none_is_complete_the_likeliest_is_trained_through():
    """Not the earliest: of three trials with one fold each the best goes on."""
    full = study(np.array([0.3, 0.7, 0.4]), noise=0.0)
    begun = trained_only(trained_only(trained_only(full, 0, NUM_EPOCHS), 1, NUM_EPOCHS), 2, NUM_EPOCHS)
    assert next_fold_run(begun, settings=PAIRED, trials_left=0).trial == 1
    chance = believe(begun).chance
    assert chance.argmax() == 1
    assert chance[1] > 0.5 > chance[2] > chance[0]


def test_idle_workers_spread_over_the_trials_that_promise_about_as_much():
    """Of two trials that are equally likely the one that nobody trains; a far likelier one is trained by several."""
    full = study(usual(), noise=0.01)
    best = int(full.scores[:, :, -1].mean(axis=1).argmax())
    rows = [row for row in range(20) if row != best][:2]
    for ahead, expected in ((0.0, rows[1]), (0.08, rows[0])):
        scores = full.scores.copy()
        scores[rows] = scores[best] - 0.01
        scores[rows[0]] += ahead
        twins = replace(full, scores=scores)
        for row in rows:
            twins = trained_only(twins, row, NUM_EPOCHS)
        busy = twins.with_state(rows[0], 1, RunState.RUNNING)
        assert next_fold_run(busy, settings=PAIRED, trials_left=0).trial == expected


def test_a_hopeless_trial_is_stopped_with_its_chance_and_a_promising_one_is_not():
    """One far below the best after a fold, one above it."""
    full = study(np.concatenate([usual(), [0.2, 0.75]]))
    bad, good = (trained_only(full, row, NUM_EPOCHS) for row in (20, 21))
    stopped = verdict(bad, trial=20, fold=0, settings=PAIRED, trials_left=10)
    assert stopped.decision is Decision.STOP
    assert stopped.chance is not None
    assert stopped.chance < 0.05 / 60
    best = f"{believe(bad).mean[21]:.4f} of trial 21, the best one"
    assert stopped.reason == f"{percent(stopped.chance)} chance to beat {best}"
    assert verdict(good, trial=21, fold=0, settings=PAIRED, trials_left=10).decision is Decision.CONTINUE


@pytest.mark.parametrize(
    ("epochs", "decision"),
    [((6, 6, 6, 4), Decision.STOP), ((6, 6, 6, 6), Decision.CONTINUE), ((6, 6, 6, 6, 2), Decision.CONTINUE)],
)
def test_what_is_nearly_done_is_trained_through(epochs: tuple[int, ...], decision: Decision):
    """However hopeless it looks: what is left of it costs little."""
    matrix = trained_only(study(np.concatenate([usual(), [0.2]])), 20, *epochs)
    assert verdict(matrix, trial=20, fold=len(epochs) - 1, settings=PAIRED, trials_left=10).decision is decision


def test_a_nearly_done_trial_with_a_failed_fold_is_stopped():
    """It can never be complete."""
    matrix = trained_only(study(usual()), 19, 6, 6, 6, 6, 2).with_state(19, 0, RunState.FAILED)
    assert verdict(matrix, trial=19, fold=4, settings=PAIRED, trials_left=10).decision is Decision.STOP


def test_an_audited_trial_is_kept():
    """With a share of 1 every trial that would be stopped is marked and kept."""
    full = study(np.concatenate([usual(), [0.2]]))
    kept = verdict(trained_only(full, 20, NUM_EPOCHS), trial=20, fold=0, settings=RaceConfig(audit=1.0), trials_left=10)
    assert (kept.decision, kept.audited) == (Decision.PAUSE, True)


def test_an_audited_trial_that_runs_when_nothing_else_does_is_not_paused():
    """However much more others promise: nothing would run instead of it."""
    matrix = study(np.concatenate([usual(num=12), [0.5, 0.63]]), noise=0.03)
    weak, better = 12, 13
    matrix = trained_only(trained_only(matrix, better, NUM_EPOCHS), weak, 3).with_state(weak, 0, RunState.RUNNING)
    beliefs = believe(matrix)
    chance = beliefs.chance + SURPRISE / 14 * (1 - beliefs.trained)
    careful, bold = (RaceConfig(risk=share * (chance[weak] + chance[better]), audit=1.0) for share in (0.9, 1.1))
    assert bold.risk / 14 < chance[weak] < 0.4 * chance[better]
    assert verdict(matrix, trial=weak, fold=0, settings=careful, trials_left=0).decision is Decision.PAUSE
    assert verdict(matrix, trial=weak, fold=0, settings=bold, trials_left=0).decision is Decision.CONTINUE


def test_the_audited_share_of_studies_is_the_share():
    """Of many studies of 30 trials, and no study audits the trials of another: their numbers spread as lots do."""
    few = study(usual(num=3))
    matrices = [replace(few, audit_key=f"{seed}/data") for seed in range(2000)]
    drawn = np.array([[is_audited(matrix, trial, share=0.05) for trial in range(30)] for matrix in matrices])
    assert drawn.mean() == pytest.approx(0.05, abs=0.003)  # three standard errors
    assert drawn.sum(axis=1).var() == pytest.approx(30 * 0.05 * 0.95, abs=0.15)
    np.testing.assert_allclose(drawn.mean(axis=0), 0.05, atol=0.02)


def test_races_audit_the_share_of_what_they_would_stop():
    """Whole races over studies with other seeds, from the first trial to the end."""
    told: Counter[str] = Counter()
    for seed in range(8):
        found = replay(
            recorded(synthetic(kind="plain", num_trials=20, num_folds=2, num_epochs=3, seed=seed), name="plain"),
            policy=Keyed(RacePolicy(RaceConfig(audit=0.5)), key=f"{seed}/data"),
            order=RandomOrder(20, seed),
        )
        told.update(stated.kind for stated in found.stated)
    assert told["audited"] / told.total() == pytest.approx(0.5, abs=3 * (0.25 / told.total()) ** 0.5)


@dataclass(frozen=True)
class Keyed:
    """The race of a study that is called `key` in the draw of audits."""

    race: RacePolicy
    key: str
    every_epoch: bool = True

    def verdict(self, matrix: Matrix, **asked: Any) -> Verdict:
        return self.race.verdict(replace(matrix, audit_key=self.key), **asked)

    def next_fold_run(self, matrix: Matrix, **asked: Any) -> Choice:
        return self.race.next_fold_run(replace(matrix, audit_key=self.key), **asked)


def test_a_trial_that_is_audited_is_trained_to_its_end_whatever_the_lots_say():
    """As in a study that an older version began, whose lots were others."""
    full = study(np.concatenate([usual(), [0.2]]))
    matrix = replace(trained_only(full, 20, NUM_EPOCHS), audited={20})
    kept = verdict(matrix, trial=20, fold=0, settings=PAIRED, trials_left=10)
    assert (kept.decision, kept.audited) == (Decision.PAUSE, True)
    last = next_fold_run(matrix, settings=RaceConfig(audit=0.0, risk=0.9), trials_left=0)
    assert (last.action, last.trial) == (Action.RUN, 20)


def test_nothing_is_stopped_before_enough_is_known():
    """Three first folds are too few for four."""
    full = study(np.concatenate([usual(num=3), [0.1]]))
    matrix = trained_only(full, 3, 3)
    assert verdict(matrix, trial=3, fold=0, settings=PAIRED, trials_left=10).decision is Decision.CONTINUE


def test_a_weak_fold_run_is_paused_for_a_new_trial_and_goes_on_when_there_is_none():
    """A trial below the best, but not out of the question, waits while there are new ones."""
    full = study(np.concatenate([usual(num=12), [0.63]]), noise=0.03)
    matrix = trained_only(full, 12, 3)
    running = matrix.with_state(12, 0, RunState.RUNNING)
    beliefs = believe(matrix)
    chance = beliefs.chance[12] + SURPRISE / 13 * (1 - beliefs.trained[12])
    assert 0.003 < chance < 0.2
    assert verdict(running, trial=12, fold=0, settings=PAIRED, trials_left=50).decision is Decision.PAUSE
    assert next_fold_run(matrix, settings=PAIRED, trials_left=50).action is Action.START
    careful = RaceConfig(risk=float(chance) / 2)
    last = next_fold_run(matrix, settings=careful, trials_left=0)
    assert (last.action, last.trial, last.fold) == (Action.RUN, 12, 0)
    bold = RaceConfig(risk=min(0.99, float(chance) * 2), audit=0.0)
    end = next_fold_run(matrix, settings=bold, trials_left=0)
    assert (end.action, end.chances) == (Action.END, {12: pytest.approx(chance)})


def test_a_risk_below_that_of_a_surprise_is_kept_by_training_on():
    """However hopeless all others look, they are the best together with the chance that the beliefs are wrong."""
    matrix = study(np.concatenate([usual(num=10), np.full(10, 0.1)]))
    for trial in range(10, 20):
        matrix = trained_only(matrix, trial, NUM_EPOCHS)  # one fold of five
    assert believe(matrix).chance.sum() < 1e-3
    surprise = SURPRISE * 0.8 * 10 / 20
    end = next_fold_run(matrix, settings=RaceConfig(risk=1.1 * surprise, audit=0.0), trials_left=0)
    assert end.action is Action.END
    assert sum(end.chances.values()) == pytest.approx(surprise, rel=0.1)
    assert next_fold_run(matrix, settings=RaceConfig(risk=0.9 * surprise), trials_left=0).action is Action.RUN


def test_breadth_first_begins_new_trials_before_any_second_fold():
    """Even beside a trial that looks like the new best."""
    matrix = trained_only(study(np.concatenate([usual(), [0.8]])), 20, NUM_EPOCHS)
    assert next_fold_run(matrix, settings=PAIRED, trials_left=5).action is Action.RUN
    assert next_fold_run(matrix, settings=RaceConfig(order="breadth"), trials_left=5).action is Action.START


def with_params(full: Matrix, *, of_last: float) -> Matrix:
    """Trials whose only parameter, from 0 to 0.9, says exactly how good they are; the last one is not begun."""
    means = full.scores[:, :, -1].mean(axis=1)
    places = 0.9 * (means - means.min()) / np.ptp(means)
    places[-1] = of_last
    return trained_only(replace(full, params=places[:, None]), len(means) - 1)


def test_rather_than_one_whose_params_speak_against_it_another_trial_is_drawn():
    """It is begun when none is left to draw; one whose params speak for it is begun at once."""
    full = study(usual(num=30))
    last = len(full.numbers) - 1
    hopeful, hopeless = (with_params(full, of_last=place) for place in (0.9, 0.0))
    choice = next_fold_run(hopeful, settings=PAIRED, trials_left=10)
    assert (choice.action, choice.trial, choice.fold) == (Action.RUN, last, 0)
    assert next_fold_run(hopeless, settings=PAIRED, trials_left=10).action is Action.START
    assert next_fold_run(hopeless, settings=RaceConfig(risk=0.001), trials_left=0).trial == last
    chance, low = believe(hopeful).chance[last], believe(hopeless).chance[last]
    assert chance > 0.1 > 0.01 > low
    breadth = next_fold_run(hopeless, settings=RaceConfig(order="breadth"), trials_left=10)
    assert (breadth.action, breadth.trial) == (Action.RUN, last)


def test_params_sharpen_what_is_believed_of_a_trial_that_was_begun():
    """After one epoch less is doubtful of it, and it is expected where trials like it ended."""
    full = study(usual(num=30), noise=0.01)
    end = full.scores[12, :, -1].mean()
    blind = believe(trained_only(full, 12, 1))
    means = full.scores[:, :, -1].mean(axis=1)
    knowing = believe(trained_only(replace(full, params=0.9 * (means - means.min())[:, None] / np.ptp(means)), 12, 1))
    assert knowing.deviation[12] < blind.deviation[12]
    assert abs(knowing.mean[12] - end) < 3 * knowing.deviation[12]


def test_a_smaller_metric_is_the_mirror_image():
    """The matrix holds the metric times its sign; the words show the metric's own numbers."""
    full = study(np.concatenate([usual(), [0.2]]))
    matrix = trained_only(full, 20, NUM_EPOCHS)
    mirrored = replace(matrix, sign=-1.0)
    judged = verdict(mirrored, trial=20, fold=0, settings=PAIRED, trials_left=10)
    assert judged.decision is Decision.STOP
    assert "-0.6" in judged.reason or "-0.7" in judged.reason


def test_ten_more_trials_are_expected_to_gain_what_they_gain():
    """Against the mean gain of ten more draws of an exponential tail, and less with every trial."""
    random = np.random.default_rng(0)
    stated, gained = [], []
    for _ in range(200):
        draws = 0.05 * random.exponential(size=(2, 30))
        first, more = draws[0], draws[1, :10]
        stated.append(expected_gain(believe(study(first, noise=0.0)), num_new=10))
        gained.append(max(0.0, more.max() - first.max()))
    assert np.mean(stated) == pytest.approx(np.mean(gained), rel=0.35)


def test_a_search_that_gains_nothing_ends_early():
    """Twenty equal trials leave nothing to gain beyond the noise; widely spread ones do; nineteen are too few."""
    assert gain_is_within_noise(study(np.full(20, 0.7), noise=0.05))
    assert not gain_is_within_noise(study(np.linspace(0.1, 0.9, 20), noise=0.005))
    assert not gain_is_within_noise(study(np.full(19, 0.7), noise=0.05))


def test_a_trial_that_failed_keeps_no_race_from_ending():
    """It was the best by far on four folds and cannot be chosen; stopped there, it could have been."""
    full = study(np.array([0.9, *usual()]))
    ends = {}
    for state in (RunState.ENDED, RunState.FAILED):
        matrix = trained_only(trained_only(full, 0, *[NUM_EPOCHS] * 4), 5, NUM_EPOCHS)
        matrix = matrix.with_state(0, 4, state)
        ends[state] = next_fold_run(matrix, settings=PAIRED, trials_left=0).action
    assert ends == {RunState.ENDED: Action.RUN, RunState.FAILED: Action.END}


def test_trials_that_ended_long_ago_do_not_count():
    """Of 320 stopped trials the first 20 have no say; what is believed of the others is as without them."""
    full = study(usual(num=340))
    states = full.states.copy()
    states[:320, 1:] = RunState.ENDED
    scores = full.scores.copy()
    scores[:320, 1:] = np.nan
    late = replace(full, scores=scores, states=states)
    matrix = trained_only(late, 339, 3)
    beliefs, without = believe(matrix), believe(matrix.take(np.arange(20, 340)))
    np.testing.assert_array_equal(beliefs.chance[20:], without.chance)
    np.testing.assert_array_equal(beliefs.mean[20:], without.mean)
    assert beliefs.chance[:20].max() == 0
    assert beliefs.best == int(without.best or 0) + 20


SCORES = st.one_of(st.floats(0, 1), st.sampled_from([-np.inf, np.nan]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_matrix_holds_the_answer_can_be_done(data: st.DataObject):
    """Holes, ended folds, infinite scores: the choice is a fold run that may run, and the same again."""
    trials, folds = data.draw(st.integers(0, 12)), data.draw(st.integers(2, 4))
    shape = (trials, folds, 3)
    flat = data.draw(st.lists(SCORES, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    scores = np.array(flat, float).reshape(shape)
    # An epoch is trained after the one before it.
    scores[np.isnan(scores).cumsum(axis=2) > 0] = np.nan
    states = np.array(
        data.draw(st.lists(st.integers(0, 5), min_size=trials * folds, max_size=trials * folds)), np.int8
    ).reshape(trials, folds)
    states[(states == RunState.DONE) & np.isnan(scores[:, :, 0])] = RunState.WAITING
    params = np.random.default_rng(0).random((trials, data.draw(st.integers(0, 2))))
    numbers, lengths = np.arange(trials), np.full(trials, 3)
    matrix = Matrix(numbers=numbers, scores=scores, states=states, lengths=lengths, params=params)
    left = data.draw(st.integers(0, 3))
    choice = next_fold_run(matrix, settings=RaceConfig(min_trials=1), trials_left=left)
    assert choice == next_fold_run(matrix, settings=RaceConfig(min_trials=1), trials_left=left)
    if choice.action is Action.RUN:
        assert states[choice.trial, choice.fold] in (RunState.WAITING, RunState.PAUSED)
        assert matrix.open[choice.trial]
    assert choice.action is not Action.START or left
    for trial in range(trials):
        judged = verdict(matrix, trial=trial, fold=0, settings=RaceConfig(min_trials=1), trials_left=left)
        assert judged.chance is None or 0 <= judged.chance <= 1
