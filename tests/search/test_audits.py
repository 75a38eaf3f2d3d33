"""What the race is said to have done, from the records of trials and fold runs."""

from typing import Any

import pytest
from scipy.stats import binomtest

from fold_search.search.racing.audits import race_figures, race_line
from fold_search.search.racing.verdicts import percent
from fold_search.storage.records import Failure, FoldRun, FoldRunState, TrialRecord, TrialState


def trial(number: int, state: TrialState, **values: Any) -> TrialRecord:
    missing = dict.fromkeys(("score", "std", "pooled", "estimate", "reason", "chance", "failure"))
    known = {"params": {}, "told": True, "audited": False, "fold_scores": ()}
    return TrialRecord(number=number, state=state, **{**missing, **known, **values})


def run(number: int, state: FoldRunState, *, num_epochs: int = 1) -> FoldRun:
    missing = dict.fromkeys(
        ("owner", "expires_at", "reason", "score", "best_epoch", "checkpoint", "predictions", "sample", "failure")
    )
    numbers = {"id": number, "trial": number, "fold": 0, "token": 0, "attempt": 1, "seconds": 0.0}
    return FoldRun(state=state, num_epochs=num_epochs, **missing, **numbers)


def audited(number: int, score: float | None, chance: float = 0.02) -> TrialRecord:
    state = TrialState.RUNNING if score is None else TrialState.COMPLETE
    return trial(number, state, score=score, chance=chance, audited=True)


def test_stops_and_their_stated_chances_are_counted():
    """One was stopped without a chance; those that diverged, failed or are complete were not stopped by the race."""
    trials = [trial(0, TrialState.STOPPED, chance=0.25), trial(1, TrialState.STOPPED, chance=0.125)]
    trials += [trial(5, TrialState.STOPPED, chance=0.5, failure=Failure.DIVERGED)]
    trials += [trial(2, TrialState.STOPPED), trial(3, TrialState.FAILED), trial(4, TrialState.COMPLETE, score=0.5)]
    figures = race_figures(trials, [], "maximize")
    assert (figures.stops, figures.stated_chance) == (3, 0.375)
    assert race_figures(trials[3:], [], "maximize").stated_chance is None


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_false_stop_became_better_than_all_that_were_not_audited(direction):
    """Three audits, one under way: of the two complete ones the better would have been lost; not one that ties."""
    sign = 1 if direction == "maximize" else -1
    trials = [trial(0, TrialState.COMPLETE, score=sign * 0.7), audited(1, sign * 0.8), audited(2, sign * 0.7)]
    figures = race_figures([*trials, audited(3, None)], [], direction)
    assert (figures.audited, figures.audits_complete, figures.false_stops) == (3, 2, 1)
    assert figures.audited_chance == 0.04
    expected = binomtest(1, 2).proportion_ci(0.95, method="exact")
    assert (figures.false_stop_low, figures.false_stop_high) == pytest.approx(tuple(expected))


def test_a_paused_trial_was_begun_and_is_trained_by_nobody():
    """Not one that waits for its first epoch, is trained, or has ended."""
    states = [FoldRunState.PAUSED, FoldRunState.LEASED, FoldRunState.WAITING, FoldRunState.DONE]
    trials = [trial(number, TrialState.RUNNING) for number in range(4)] + [trial(4, TrialState.STOPPED)]
    runs = [run(number, state, num_epochs=0 if number == 2 else 1) for number, state in enumerate(states)]
    figures = race_figures(trials, [*runs, run(4, FoldRunState.STOPPED)], "maximize")
    assert figures.paused == 2
    assert race_line(figures) == "race: 1 trial stopped early, 2 paused"


@pytest.mark.parametrize(
    ("audits", "line"),
    [
        ([audited(2, None)], "training on 1 trial that the race would have stopped, as a check"),
        (
            [audited(2, 0.6)],
            "1 trial that the race would have stopped was trained to the end as a check; stopping it would have been "
            "right",
        ),
        (
            [audited(2, 0.8)],
            "1 trial that the race would have stopped was trained to the end as a check; stopping it would have been "
            "wrong",
        ),
        (
            [audited(2, 0.6, 0.01), audited(3, 0.8, 0.02), audited(4, None)],
            "2 trials that the race would have stopped were trained to the end as a check; 1 of these stops would have "
            "been wrong (95% interval: 1% to 99%; the race estimated 1.5%)",
        ),
    ],
)
def test_the_lines_say_what_was_risked_and_how_often_a_stop_would_have_been_wrong(audits: list[TrialRecord], line: str):
    """Of several audits with the interval, and what the race expected."""
    trials = [trial(0, TrialState.COMPLETE, score=0.7), trial(1, TrialState.STOPPED, chance=0.014)]
    assert race_line(race_figures([*trials, *audits], [], "maximize")).splitlines() == [
        "race: 1 trial stopped early, 0 paused; estimated risk that it was the best: 1.4%",
        f"audit: {line}",
    ]


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100%"), (0.996, "100%"), (0.14, "14%"), (0.0144, "1.4%"), (2.4e-5, "0.0024%")]
)
def test_a_chance_is_shown_with_two_digits(share: float, shown: str):
    """However small."""
    assert percent(share) == shown
