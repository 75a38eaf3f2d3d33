"""What every tracker promises: it shows what the ledger says, whatever happens on the way there, and nothing twice."""

import math

import pytest

from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import publish_pending
from fold_search.storage.records import BaselineRecord, TrialState
from tests.trackers.looks import Look, MlflowLook
from tests.trackers.scripted import (
    BASELINE,
    SECRET,
    curve_of,
    fail_trial,
    record_epochs,
    run_trial,
    score_of,
    start_trial,
    stop_trial,
)


class TrackerContract:
    """Inherited by one class for each tracker, which says where it looks."""

    def test_every_fold_s_curve_arrives_in_the_run_of_its_trial(self, look: Look, ledger: Ledger):
        """One run per trial, one for the study, and each point of each fold once."""
        run_trial(ledger, 0)
        run_trial(ledger, 1)
        publish_pending(ledger, look.open())
        assert sorted(look.runs()) == ["spam", "trial 0", "trial 1"]
        assert [look.curve(1, fold) for fold in (0, 1)] == [curve_of(1, 0), curve_of(1, 1)]

    def test_a_complete_trial_has_its_params_score_and_state(self, look: Look, ledger: Ledger):
        """The mean over the folds is the trial's score, there and in the study's run."""
        run_trial(ledger, 1)
        publish_pending(ledger, look.open())
        mean = (score_of(1, 0, 3) + score_of(1, 1, 3)) / 2
        assert look.outcome(1) == {"learning_rate": 2e-4, "state": "complete", "score": pytest.approx(mean)}
        assert look.trial_scores() == [(1, pytest.approx(mean))]

    def test_a_stopped_and_a_failed_trial_say_why(self, look: Look, ledger: Ledger):
        """Their folds' curves stay; they have no score."""
        stop_trial(ledger, 0)
        fail_trial(ledger, 1)
        publish_pending(ledger, look.open())
        assert look.outcome(0) == {"learning_rate": 1e-4, "state": "stopped", "reason": "worse than trial 0"}
        assert look.curve(0, 0) == curve_of(0, 0)
        failed = {"learning_rate": 2e-4, "state": "failed", "reason": "no answer from http://***@host"}
        failed |= {"failure": "code_error", "rows_at_once": pytest.approx(4)}
        assert {**look.outcome(1), "rows_at_once": float(look.outcome(1)["rows_at_once"])} == failed

    def test_events_one_by_one_amount_to_the_same(self, look: Look, ledger: Ledger):
        """A trial's run is continued over many batches."""
        run_trial(ledger, 0)
        tracker = look.open()
        while publish_pending(ledger, tracker, limit=1):
            pass
        assert sorted(look.runs()) == ["spam", "trial 0"]
        assert look.curve(0, 1) == curve_of(0, 1)

    def test_another_process_continues_the_runs(self, look: Look, ledger: Ledger):
        """It knows them from the tracker, not from the process before."""
        start_trial(ledger, 0)
        record_epochs(ledger)
        publish_pending(ledger, look.open())
        record_epochs(ledger)
        publish_pending(ledger, look.open())
        assert sorted(look.runs()) == ["spam", "trial 0"]
        assert [look.curve(0, fold) for fold in (0, 1)] == [curve_of(0, 0), curve_of(0, 1)]

    def test_a_crash_before_the_cursor_moved_duplicates_nothing(self, look: Look, ledger: Ledger):
        """The tracker has the events, the ledger does not know it, and another process publishes them again."""
        run_trial(ledger, 0)
        look.open().publish(ledger.study(), ledger.events(after=0, limit=500))
        run_trial(ledger, 1)
        assert ledger.cursor(look.open().name) == 0
        publish_pending(ledger, look.open())
        assert sorted(look.runs()) == ["spam", "trial 0", "trial 1"]
        assert [look.curve(trial, 1) for trial in (0, 1)] == [curve_of(0, 1), curve_of(1, 1)]
        assert [trial for trial, _ in look.trial_scores()] == [0, 1]

    def test_a_crash_in_the_middle_of_a_batch_loses_nothing(self, look: Look, ledger: Ledger):
        """Half of the events were written when the process died."""
        run_trial(ledger, 0)
        events = ledger.events(after=0, limit=500)
        look.open().publish(ledger.study(), events[: len(events) // 2])
        publish_pending(ledger, look.open())
        assert [look.curve(0, fold) for fold in (0, 1)] == [curve_of(0, 0), curve_of(0, 1)]

    def test_the_same_process_publishes_everything_again_without_effect(self, look: Look, ledger: Ledger):
        """A rebuild of a tracker that has lost nothing."""
        run_trial(ledger, 0)
        tracker = look.open()
        for _ in range(2):
            ledger.set_cursor(tracker.name, 0)
            publish_pending(ledger, tracker)
        assert sorted(look.runs()) == ["spam", "trial 0"]
        assert look.curve(0, 0) == curve_of(0, 0)
        assert len(look.trial_scores()) == 1

    def test_a_baseline_is_shown_once_and_is_no_trial(self, look: Look, ledger: Ledger):
        """Published twice, by two processes; one that failed has no score and does no harm."""
        ledger.record_baseline(BASELINE)
        ledger.record_baseline(BaselineRecord(name="majority", label="majority class", reason="no memory"))
        run_trial(ledger, 0)
        for _ in range(2):
            look.open().publish(ledger.study(), ledger.events(after=0, limit=500))
        assert look.baselines() == {"tf-idf": 0.5}
        assert [trial for trial, _ in look.trial_scores()] == [0]

    def test_losses_that_are_no_numbers_do_no_harm(self, look: Look, ledger: Ledger):
        """Diverged epochs are published, or left out where the tracker has no such points; once."""
        start_trial(ledger, 0)
        record_epochs(ledger, math.nan, math.inf, 0.5)
        ledger.finish_trial(0, TrialState.FAILED, score=math.nan, reason="diverged")
        for _ in range(2):
            look.open().publish(ledger.study(), ledger.events(after=0, limit=500))
        assert look.curve(0, 0)[-1] == (3, 0.5)
        assert len(look.curve(0, 0)) == (3 if isinstance(look, MlflowLook) else 1)
        assert look.outcome(0)["state"] == "failed"

    def test_the_study_s_run_follows_its_state(self, look: Look, ledger: Ledger):
        """Running, finished, and running again when the study is reopened."""
        tracker, states = look.open(), []
        for change in (
            lambda: run_trial(ledger, 0),
            lambda: ledger.finish_study("all trials done"),
            ledger.reopen_study,
        ):
            change()
            publish_pending(ledger, tracker)
            states.append(look.study_state())
        assert states == ["running", "finished", "running"]

    def test_no_secret_is_recorded(self, look: Look, ledger: Ledger):
        """Neither from the study file nor from a trial's reason."""
        fail_trial(ledger, 0)
        publish_pending(ledger, look.open())
        assert SECRET not in look.everything()
        assert "***@db/search" in look.everything()


class TestMlflow(TrackerContract):
    @pytest.fixture
    def look(self, mlflow_look: Look) -> Look:
        return mlflow_look


class TestNeptuneOffline(TrackerContract):
    @pytest.fixture
    def look(self, offline_look: Look) -> Look:
        return offline_look


class TestNeptuneServer(TrackerContract):
    @pytest.fixture
    def look(self, server_look: Look) -> Look:
        return server_look
