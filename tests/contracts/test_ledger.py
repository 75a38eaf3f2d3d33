"""What everybody relies on about a ledger, on SQLite and on PostgreSQL."""

import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from sqlalchemy import Engine, event

from fold_search.storage.catalog import find_study, list_studies
from fold_search.storage.errors import LeaseLost, StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import BaselineRecord, Claim, EventKind, Failure, FoldRunState, StudyState, TrialState
from tests.claims import claim_first
from tests.contracts.ledger_processes import (
    Crowd,
    Epoch,
    claim_all,
    claim_one,
    create,
    die_inside_a_change,
    new_study,
    work,
)
from tests.warm import warm_context

CLOCKS_APART = 5  # seconds: of the database's machine and of this one


def epoch(number: int, score: float = 0.5, **metrics: float) -> Epoch:
    return Epoch(epoch=number, score=score, standing=score, metrics=metrics)


def claimed(ledger: Ledger, owner: str = "worker", lease_seconds: float = 60) -> Claim:
    claim = claim_first(ledger, owner, lease_seconds=lease_seconds)
    assert claim is not None
    return claim


def states(ledger: Ledger) -> list[FoldRunState]:
    return [run.state for run in ledger.fold_runs()]


def kinds(ledger: Ledger) -> list[EventKind]:
    return [event.kind for event in ledger.events(after=0, limit=10_000)]


class TestStudies:
    def test_a_study_is_read_back_as_it_was_created(self, engine: Engine) -> None:
        """The record holds what was given, the state and the database's time."""
        before = time.time()
        study = new_study(engine)
        assert (study.name, study.state, study.num_folds) == ("study", StudyState.RUNNING, 3)
        assert study.config == {"model": {"encoder": "tiny"}}
        assert study.fingerprints == {"data": "d1", "folds": "f1"}
        assert before - CLOCKS_APART <= study.created_at <= time.time() + CLOCKS_APART
        assert find_study(engine, "study") == study == Ledger(engine, study.id).study()

    def test_the_manifest_is_kept_row_by_row(self, ledger: Ledger) -> None:
        """The assignments come back equal and as int16."""
        expected = np.array([0, 1, 2] * 3, dtype=np.int16)
        assert ledger.assignments().dtype == np.int16
        np.testing.assert_array_equal(ledger.assignments(), expected)

    def test_creating_a_study_again_changes_nothing(self, engine: Engine) -> None:
        """The second creator gets the first one's record, and only one study_created is written."""
        first, second = new_study(engine), new_study(engine, direction="minimize")
        assert first == second
        assert kinds(Ledger(engine, first.id)) == [EventKind.STUDY_CREATED]

    def test_processes_that_create_the_same_study_at_once_share_it(self, database_url: str, crowd: Crowd) -> None:
        """Eight processes start on an empty database: one schema, one study, no error."""
        assert crowd.call(create, database_url) == [1] * 8

    def test_studies_are_found_by_name_and_listed_by_age(self, engine: Engine) -> None:
        """An unknown name is None, and a study does not see another's trials."""
        first, second = new_study(engine, name="b"), new_study(engine, name="a")
        Ledger(engine, first.id).add_trial(0, {})
        assert list_studies(engine) == [first, second]
        assert find_study(engine, "c") is None
        assert Ledger(engine, second.id).trials() == []

    def test_a_study_that_is_not_there_is_an_error(self, engine: Engine) -> None:
        """Reading and writing both say which study is missing."""
        with pytest.raises(StorageError, match="no study with id 7"):
            Ledger(engine, 7).study()
        with pytest.raises(StorageError, match="no study with id 7"):
            Ledger(engine, 7).add_trial(0, {})

    def test_a_study_ends_and_is_reopened_once(self, ledger: Ledger) -> None:
        """Repeating either changes nothing and writes no event."""
        ledger.reopen_study()
        ledger.finish_study("budget")
        ledger.finish_study("budget")
        assert ledger.study().state is StudyState.FINISHED
        ledger.reopen_study()
        assert ledger.study().state is StudyState.RUNNING
        assert kinds(ledger)[1:] == [EventKind.STUDY_FINISHED, EventKind.STUDY_REOPENED]

    def test_a_study_that_failed_is_reopened_too(self, ledger: Ledger) -> None:
        """Its end says so; what comes after the first end changes nothing."""
        ledger.finish_study("3 trials failed", state=StudyState.FAILED)
        ledger.finish_study("budget")
        assert ledger.study().state is StudyState.FAILED
        assert ledger.events(after=1)[0].payload == {"state": "failed", "reason": "3 trials failed", "race": {}}
        ledger.reopen_study()
        assert ledger.study().state is StudyState.RUNNING

    def test_the_recorded_configuration_can_be_replaced(self, ledger: Ledger) -> None:
        """The study then has the new one."""
        ledger.update_config({"budget": {"trials": 9}})
        assert ledger.study().config == {"budget": {"trials": 9}}


class TestClaims:
    def test_the_fold_run_that_is_chosen_is_claimed(self, ledger: Ledger) -> None:
        """In any order, with its trial's params, and once."""
        ledger.add_trial(1, {"lr": 0.1})
        ledger.add_trial(0, {"lr": 0.2})
        chosen = [(1, 2), (0, 1), (1, 0), (0, 2), (0, 0), (1, 1)]
        for trial, fold in chosen:
            claim = ledger.claim_run("worker", trial=trial, fold=fold, lease_seconds=60)
            assert claim is not None
            assert (claim.trial, claim.fold, claim.owner, claim.params) == (
                trial,
                fold,
                "worker",
                {"lr": [0.2, 0.1][trial]},
            )
            assert ledger.claim_run("other", trial=trial, fold=fold, lease_seconds=60) is None
        assert [(run.trial, run.fold) for run in ledger.fold_runs() if run.state is FoldRunState.LEASED] == sorted(
            chosen
        )
        assert kinds(ledger).count(EventKind.FOLD_STARTED) == len(chosen)

    def test_every_claim_has_a_larger_token(self, ledger: Ledger) -> None:
        """Also a claim of the same fold run again."""
        ledger.add_trial(0, {})
        tokens = []
        for _ in range(4):
            claim = claimed(ledger)
            tokens.append(claim.token)
            ledger.release(claim, reason="leaving")
        assert tokens == sorted(set(tokens))

    def test_a_trial_is_added_once(self, ledger: Ledger) -> None:
        """A coordinator that died after adding it may add it again: nothing changes."""
        assert ledger.add_trial(0, {"lr": 0.1})
        assert not ledger.add_trial(0, {"lr": 0.9})
        assert ledger.trials()[0].params == {"lr": 0.1}
        assert len(ledger.fold_runs()) == 3
        assert kinds(ledger).count(EventKind.TRIAL_STARTED) == 1

    def test_processes_claim_every_fold_run_once(self, ledger: Ledger, ledger_url: str, crowd: Crowd) -> None:
        """Eight processes at once on 201 fold runs: each is claimed, none twice."""
        for number in range(67):
            ledger.add_trial(number, {})
        claims = chain.from_iterable(crowd.call(claim_all, ledger_url, ledger.study_id))
        assert sorted(claims) == [(trial, fold) for trial in range(67) for fold in range(3)]
        assert ledger.counts() == {state: 201 * (state is FoldRunState.DONE) for state in FoldRunState}

    def test_one_of_many_processes_gets_a_chosen_fold_run(self, ledger: Ledger, ledger_url: str, crowd: Crowd) -> None:
        """The others are told None, and write nothing."""
        ledger.add_trial(0, {})
        tokens = crowd.call(claim_one, ledger_url, ledger.study_id)
        assert [token for token in tokens if token] == [ledger.fold_runs()[1].token]
        assert states(ledger) == [FoldRunState.WAITING, FoldRunState.LEASED, FoldRunState.WAITING]
        assert kinds(ledger).count(EventKind.FOLD_STARTED) == 1

    def test_a_paused_fold_run_is_continued_where_it_was(self, ledger: Ledger) -> None:
        """By whoever chooses it, and by nobody else; pausing is no attempt, and the chance stays with the trial."""
        ledger.add_trial(0, {})
        claim = claimed(ledger)
        ledger.record_epoch(claim, epoch(1), checkpoint="checkpoint-1")
        ledger.finish_fold(claim, FoldRunState.PAUSED, reason="behind", chance=0.125)
        assert (ledger.fold_runs()[0].reason, ledger.trials()[0].chance) == ("behind", 0.125)
        assert claimed(ledger).fold == 1
        again = ledger.claim_run("other", trial=0, fold=0, lease_seconds=60)
        assert again is not None
        assert (again.num_epochs, again.checkpoint, again.attempt) == (1, "checkpoint-1", 1)
        assert ledger.record_epoch(again, epoch(2), checkpoint="checkpoint-2") is TrialState.RUNNING
        released = next(event for event in ledger.events() if event.kind is EventKind.FOLD_RELEASED)
        assert released.payload == {"state": "paused", "reason": "behind", "failure": None, "owner": "worker"}

    @pytest.mark.parametrize("taken", ["leased", "done", "ended", "unknown"])
    def test_what_is_not_free_is_not_claimed(self, ledger: Ledger, taken: str) -> None:
        """A fold run that somebody trains or has trained, that of an ended trial, one that is not there."""
        ledger.add_trial(0, {})
        if taken != "unknown":
            claim = claimed(ledger)
        if taken == "done":
            ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)
        if taken == "ended":
            ledger.finish_fold(claim, FoldRunState.PAUSED)
            ledger.finish_trial(0, TrialState.STOPPED)
        before = kinds(ledger)
        assert ledger.claim_run("other", trial=0, fold=3 if taken == "unknown" else 0, lease_seconds=60) is None
        assert kinds(ledger) == before

    def test_a_paused_fold_run_is_nobodys(self, ledger: Ledger) -> None:
        """No lease of it expires, and its last owner's end does not touch it."""
        ledger.add_trial(0, {})
        ledger.finish_fold(claimed(ledger, lease_seconds=-1), FoldRunState.PAUSED)
        assert ledger.expire_leases(max_attempts=1) == ledger.release_owner("worker", reason="died") == 0
        assert states(ledger)[0] is FoldRunState.PAUSED

    def test_a_late_writer_is_refused(self, ledger: Ledger) -> None:
        """Whatever it tries with its old token raises LeaseLost and changes nothing."""
        ledger.add_trial(0, {})
        late = claimed(ledger, "late", lease_seconds=-1)
        ledger.expire_leases(max_attempts=3)
        claimed(ledger, "next")
        before = ledger.fold_runs(), ledger.trials(), kinds(ledger)
        for attempt in (
            lambda: ledger.renew(late, lease_seconds=60),
            lambda: ledger.record_epoch(late, epoch(1), checkpoint="late"),
            lambda: ledger.finish_fold(late, FoldRunState.DONE, score=1.0, best_epoch=1),
            lambda: ledger.finish_fold(late, FoldRunState.FAILED, reason="late"),
            lambda: ledger.stop_trial(late, reason="late", chance=0.1),
            lambda: ledger.audit_trial(late, reason="late", chance=0.1),
            lambda: ledger.finish_fold(late, FoldRunState.PAUSED, reason="late", chance=0.1),
            lambda: ledger.release(late, reason="late"),
        ):
            with pytest.raises(LeaseLost, match="trial 0, fold 0: the lease of late was lost"):
                attempt()
        assert before == (ledger.fold_runs(), ledger.trials(), kinds(ledger))

    def test_an_expired_lease_is_taken_over_where_it_stood(self, ledger: Ledger) -> None:
        """The next claim continues after the recorded epoch, from its checkpoint, as the second attempt."""
        ledger.add_trial(0, {})
        lost = claimed(ledger, lease_seconds=-1)
        ledger.record_epoch(lost, epoch(1), checkpoint="checkpoint-1")
        assert ledger.expire_leases(max_attempts=3) == 1
        again = claimed(ledger, "next")
        assert (again.fold_run, again.attempt) == (lost.fold_run, 2)
        assert (again.num_epochs, again.checkpoint) == (1, "checkpoint-1")

    def test_a_renewed_lease_does_not_expire(self, ledger: Ledger) -> None:
        """The renewal counts from the database's present."""
        ledger.add_trial(0, {})
        claim = claimed(ledger, lease_seconds=-1)
        before = time.time()
        ledger.renew(claim, lease_seconds=60)
        after = time.time()
        assert ledger.expire_leases(max_attempts=3) == 0
        [run] = [run for run in ledger.fold_runs() if run.state is FoldRunState.LEASED]
        assert run.expires_at is not None
        assert before + 60 - CLOCKS_APART <= run.expires_at <= after + 60 + CLOCKS_APART

    def test_a_fold_run_fails_after_its_last_attempt(self, ledger: Ledger) -> None:
        """And its trial with it, so that a configuration that kills workers is not tried for ever."""
        ledger.add_trial(0, {})
        for attempt in (1, 2):
            assert claimed(ledger, lease_seconds=-1).attempt == attempt
            ledger.expire_leases(max_attempts=2)
        assert states(ledger) == [FoldRunState.FAILED, FoldRunState.STOPPED, FoldRunState.STOPPED]
        assert ledger.trials()[0].state is TrialState.FAILED
        run, trial = ledger.fold_runs()[0], ledger.trials()[0]
        assert run.reason == trial.reason == "lost worker: lease expired, 2 times"
        assert run.failure is trial.failure is Failure.LOST_WORKER
        assert claim_first(ledger, "worker", lease_seconds=60) is None

    def test_giving_back_is_no_attempt(self, ledger: Ledger) -> None:
        """A worker that leaves by itself may do so any number of times."""
        ledger.add_trial(0, {})
        for _ in range(5):
            claim = claimed(ledger)
            ledger.release(claim, reason="leaving")
        assert (claim.attempt, ledger.fold_runs()[0].state) == (1, FoldRunState.WAITING)

    def test_the_leases_of_an_owner_are_taken_by_its_prefix(self, ledger: Ledger) -> None:
        """The name is taken literally; other owners keep theirs; with max_attempts they count as lost."""
        ledger.add_trial(0, {})
        claimed(ledger, "host_1:1")
        claimed(ledger, "host_1:2")
        other = claimed(ledger, "hostX1:1")
        assert ledger.release_owner("host_1:", reason="its worker died", max_attempts=3) == 2
        assert [run.attempt for run in ledger.fold_runs()] == [2, 2, 1]
        assert [run.failure for run in ledger.fold_runs()] == [Failure.LOST_WORKER] * 2 + [None]
        ledger.renew(other, lease_seconds=60)
        assert ledger.release_owner("hostX", reason="the run ended") == 1
        assert {run.owner for run in ledger.fold_runs()} == {None}


class TestSamples:
    def test_what_resampling_did_is_recorded_once(self, ledger: Ledger) -> None:
        """Before the first epoch, with an event; whoever continues the fold run changes nothing."""
        ledger.add_trial(0, {})
        ledger.record_sample(claimed(ledger), {"num_rows_out": 8})
        ledger.release_owner("worker", reason="left")
        ledger.record_sample(claimed(ledger), {"num_rows_out": 9})
        assert ledger.fold_runs()[0].sample == {"num_rows_out": 8}
        assert [event.payload for event in ledger.events() if event.kind is EventKind.FOLD_SAMPLED] == [
            {"num_rows_out": 8}
        ]

    def test_a_late_writer_records_none(self, ledger: Ledger) -> None:
        """Its lease is somebody else's by now."""
        ledger.add_trial(0, {})
        late = claimed(ledger)
        ledger.release_owner("worker", reason="left")
        with pytest.raises(LeaseLost):
            ledger.record_sample(late, {"num_rows_out": 8})
        assert ledger.fold_runs()[0].sample is None


class TestEpochs:
    def test_an_epoch_is_recorded_with_its_checkpoint(self, ledger: Ledger) -> None:
        """Score, metrics, number of epochs, time and checkpoint are there together."""
        ledger.add_trial(0, {})
        claim = claimed(ledger)
        assert ledger.record_epoch(claim, epoch(1, 0.5, loss=2.0), checkpoint="a") is TrialState.RUNNING
        ledger.record_epoch(claim, epoch(2, 0.6, loss=1.0), checkpoint="b")
        run = ledger.fold_runs()[0]
        assert (run.num_epochs, run.checkpoint, run.seconds) == (2, "b", 3.0)
        assert [(e.epoch, e.score, e.metrics) for e in ledger.epochs(trial=0)] == [
            (1, 0.5, {"loss": 2.0}),
            (2, 0.6, {"loss": 1.0}),
        ]
        assert ledger.epochs(trial=1) == []

    def test_an_epoch_is_recorded_once(self, ledger: Ledger) -> None:
        """A repeated epoch is refused and its checkpoint is not taken."""
        ledger.add_trial(0, {})
        claim = claimed(ledger)
        ledger.record_epoch(claim, epoch(1), checkpoint="a")
        with pytest.raises(LeaseLost, match="found epoch 1, expected 2"):
            ledger.record_epoch(claim, epoch(1), checkpoint="b")
        assert (len(ledger.epochs()), ledger.fold_runs()[0].checkpoint) == (1, "a")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, 5e-324])
    def test_every_float_survives(self, ledger: Ledger, value: float) -> None:
        """Scores, metrics, params and event payloads come back bit by bit, whatever went wrong in the training."""
        ledger.add_trial(0, {"value": value})
        claim = claimed(ledger)
        ledger.record_epoch(claim, epoch(1, value, loss=value), checkpoint=None)
        ledger.finish_fold(claim, FoldRunState.DONE, score=value, best_epoch=1)
        ledger.finish_trial(0, TrialState.COMPLETE, score=value, std=value, estimate=value)
        [record], [trial] = ledger.epochs(), ledger.trials()
        payload = ledger.events(after=3, limit=1)[0].payload
        found = [record.score, record.metrics["loss"], trial.params["value"], trial.score, trial.std, trial.estimate]
        found += [trial.fold_scores[0], payload["score"], payload["metrics"]["loss"]]
        np.testing.assert_array_equal(np.array(found, dtype=float), np.full(9, value))


class TestEnds:
    def test_a_worker_learns_that_its_trial_has_ended(self, ledger: Ledger) -> None:
        """Stopping ends the waiting fold runs at once; another worker's one ends when it has heard of it."""
        ledger.add_trial(0, {})
        first, second = claimed(ledger), claimed(ledger)
        ledger.stop_trial(first, reason="weak")
        assert states(ledger) == [FoldRunState.STOPPED, FoldRunState.LEASED, FoldRunState.STOPPED]
        assert ledger.record_epoch(second, epoch(1), checkpoint=None) is TrialState.STOPPED
        ledger.stop_trial(second, reason="its trial has ended")
        assert set(states(ledger)) == {FoldRunState.STOPPED}
        assert ledger.trials()[0].reason == "weak"

    def test_a_failed_fold_ends_its_trial(self, ledger: Ledger) -> None:
        """Waiting and paused fold runs stop, other trials go on."""
        ledger.add_trial(0, {})
        ledger.add_trial(1, {})
        ledger.finish_fold(claimed(ledger), FoldRunState.PAUSED, reason="later")
        ledger.finish_fold(claimed(ledger), FoldRunState.FAILED, reason="diverged")
        assert states(ledger)[:3] == [FoldRunState.STOPPED, FoldRunState.FAILED, FoldRunState.STOPPED]
        assert [trial.state for trial in ledger.trials()] == [TrialState.FAILED, TrialState.RUNNING]
        assert claimed(ledger).trial == 1

    def test_a_done_fold_can_end_its_trial(self, ledger: Ledger) -> None:
        """The race's verdict on the trial is committed with the fold's score."""
        ledger.add_trial(0, {})
        claim = claimed(ledger)
        ledger.finish_fold(claim, FoldRunState.DONE, score=0.1, best_epoch=1, stop_reason="weak")
        assert states(ledger) == [FoldRunState.DONE, FoldRunState.STOPPED, FoldRunState.STOPPED]
        assert ledger.trials()[0].state is TrialState.STOPPED

    @pytest.mark.parametrize("end", ["release", "pause", "expire"])
    def test_nothing_of_an_ended_trial_waits_again(self, ledger: Ledger, end: str) -> None:
        """A fold run that is given back after its trial's end stops."""
        ledger.add_trial(0, {})
        first, second = claimed(ledger), claimed(ledger, lease_seconds=-1)
        ledger.stop_trial(first, reason="weak")
        match end:
            case "release":
                ledger.release(second, reason="leaving")
            case "pause":
                ledger.finish_fold(second, FoldRunState.PAUSED)
            case "expire":
                ledger.expire_leases(max_attempts=3)
        assert set(states(ledger)) == {FoldRunState.STOPPED}

    def test_a_trial_is_finished_once(self, ledger: Ledger) -> None:
        """A coordinator that died after finishing it may finish it again: the first result stays."""
        ledger.add_trial(0, {})
        ledger.stop_trial(claimed(ledger), reason="weak")
        for estimate in (0.4, 0.3):
            ledger.finish_trial(0, TrialState.STOPPED, estimate=estimate)
        trial = ledger.trials()[0]
        assert (trial.state, trial.estimate, trial.reason, trial.told) == (TrialState.STOPPED, 0.4, "weak", False)
        assert kinds(ledger).count(EventKind.TRIAL_FINISHED) == 1
        ledger.mark_told(0)
        assert ledger.trials()[0].told

    def test_trials_of_which_the_sampler_does_not_know_are_few(self, ledger: Ledger) -> None:
        """They and their fold runs are read without the others."""
        for number in range(3):
            ledger.add_trial(number, {})
        ledger.finish_trial(1, TrialState.STOPPED)
        ledger.mark_told(1)
        assert [trial.number for trial in ledger.trials(told=False)] == [0, 2]
        assert [trial.number for trial in ledger.trials(told=True)] == [1]
        assert {run.trial for run in ledger.fold_runs(trials=[0, 2])} == {0, 2}

    def test_finishing_stops_what_is_open(self, ledger: Ledger) -> None:
        """Waiting, paused and leased fold runs stop; each fold run has one fold_finished; a worker is refused."""
        ledger.add_trial(0, {})
        ledger.finish_fold(claimed(ledger), FoldRunState.PAUSED)
        claim = claimed(ledger)
        ledger.finish_trial(0, TrialState.STOPPED, reason="budget")
        finished = [e for e in ledger.events(after=0, limit=100) if e.kind is EventKind.FOLD_FINISHED]
        assert [(e.fold, e.payload["state"]) for e in finished] == [(0, "stopped"), (1, "stopped"), (2, "stopped")]
        with pytest.raises(LeaseLost):
            ledger.record_epoch(claim, epoch(1), checkpoint=None)

    @pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 2)])
    def test_a_finished_trial_names_the_best_so_far(self, engine: Engine, direction: str, best: int) -> None:
        """By the study's direction, among complete trials with a score, the earlier of equals."""
        ledger = Ledger(engine, new_study(engine, direction=direction).id)
        scores = [math.nan, 0.8, 0.2, 0.8, 0.2]
        for number, score in enumerate(scores):
            ledger.add_trial(number, {})
            ledger.finish_trial(number, TrialState.COMPLETE, score=score)
        ledger.add_trial(5, {})
        ledger.finish_trial(5, TrialState.STOPPED, score=0.9 if direction == "maximize" else 0.1)
        found = [e.payload["best"] for e in ledger.events(after=0, limit=100) if e.kind is EventKind.TRIAL_FINISHED]
        assert found[0] is None
        assert found[1] == {"trial": 1, "score": 0.8}
        assert found[-1] == {"trial": best, "score": scores[best]}

    def test_a_trial_has_one_score_per_fold(self, ledger: Ledger) -> None:
        """None for the folds that are not done, in the record and in the event."""
        ledger.add_trial(0, {"lr": 0.1})
        claimed(ledger)
        ledger.finish_fold(claimed(ledger), FoldRunState.DONE, score=0.7, best_epoch=2, predictions="p")
        ledger.finish_trial(0, TrialState.STOPPED, estimate=0.6)
        assert ledger.trials()[0].fold_scores == (None, 0.7, None)
        payload = ledger.events(after=0, limit=100)[-1].payload
        assert (payload["fold_scores"], payload["params"]) == ([None, 0.7, None], {"lr": 0.1})

    def test_a_trial_that_is_not_there_cannot_be_finished(self, ledger: Ledger) -> None:
        """The error names it."""
        with pytest.raises(StorageError, match="no trial 3"):
            ledger.finish_trial(3, TrialState.STOPPED)


class TestChances:
    def test_the_race_s_last_chance_is_kept(self, ledger: Ledger) -> None:
        """Of a trial that is paused and later stopped, the one it was stopped at; also in its end's event."""
        ledger.add_trial(0, {})
        ledger.finish_fold(claimed(ledger), FoldRunState.PAUSED, chance=0.25)
        ledger.stop_trial(claimed(ledger), reason="behind", chance=0.0625)
        ledger.finish_trial(0, TrialState.STOPPED)
        assert (ledger.trials()[0].chance, ledger.trials()[0].audited) == (0.0625, False)
        payload = ledger.events()[-1].payload
        assert (payload["chance"], payload["audited"]) == (0.0625, False)

    def test_a_done_fold_s_verdict_has_its_chance(self, ledger: Ledger) -> None:
        """In the same transaction."""
        ledger.add_trial(0, {})
        end = {"score": 0.5, "best_epoch": 1, "stop_reason": "behind", "chance": 0.03125}
        ledger.finish_fold(claimed(ledger), FoldRunState.DONE, **end)
        assert ledger.trials()[0].chance == 0.03125

    def test_a_trial_is_audited_once(self, ledger: Ledger) -> None:
        """It goes on; the chance of the stop that it was spared stays, whatever is stated later."""
        ledger.add_trial(0, {})
        claim = claimed(ledger)
        ledger.audit_trial(claim, reason="behind", chance=0.03125)
        ledger.audit_trial(claim, reason="behind still", chance=0.015625)
        ledger.finish_fold(claim, FoldRunState.PAUSED, chance=0.5)
        trial = ledger.trials()[0]
        assert (trial.state, trial.audited, trial.chance) == (TrialState.RUNNING, True, 0.03125)
        assert ledger.audited() == {0}
        audits = [event for event in ledger.events() if event.kind is EventKind.TRIAL_AUDITED]
        assert [(audit.trial, audit.fold, audit.payload) for audit in audits] == [
            (0, 0, {"reason": "behind", "chance": 0.03125})
        ]


class TestFailures:
    def test_a_failure_s_kind_is_that_of_its_fold_run_and_of_the_trial(self, ledger: Ledger) -> None:
        """The other folds did not fail; trackers get it with the end of both."""
        ledger.add_trial(0, {})
        ledger.finish_fold(claimed(ledger), FoldRunState.FAILED, reason="no", failure=Failure.CODE_ERROR)
        ledger.finish_trial(0, TrialState.FAILED)
        assert [run.failure for run in ledger.fold_runs()] == [Failure.CODE_ERROR, None, None]
        assert ledger.trials()[0].failure is Failure.CODE_ERROR
        ends = [event.payload["failure"] for event in ledger.events() if event.kind.endswith("_finished")]
        assert ends == ["code_error", None, None, "code_error"]

    def test_what_was_given_back_for_a_failure_is_forgiven_when_it_is_claimed(self, ledger: Ledger) -> None:
        """What is wrong with the data may have been mended."""
        ledger.add_trial(0, {})
        ledger.release(claimed(ledger), reason="no label", failure=Failure.DATA_ERROR)
        assert ledger.fold_runs()[0].failure is Failure.DATA_ERROR
        claimed(ledger)
        assert ledger.fold_runs()[0].failure is None

    def test_the_fewest_rows_that_fit_are_remembered_by_their_shape(self, ledger: Ledger) -> None:
        """Of two workers that met the same limit the smaller number counts; a lost lease notes nothing."""
        ledger.add_trial(0, {})
        first, second = claimed(ledger), claimed(ledger)
        for claim, shape, rows in ((first, "long", 8), (first, "long", 4), (second, "long", 6), (second, "short", 16)):
            ledger.note_rows(claim, device="small", shape=shape, rows=rows)
        ledger.release(second, reason="leaving")
        with pytest.raises(LeaseLost):
            ledger.note_rows(second, device="small", shape="short", rows=1)
        assert ledger.rows_that_fit("small") == {"long": 4, "short": 16}
        assert ledger.rows_that_fit("large") == {}
        assert kinds(ledger).count(EventKind.OUT_OF_MEMORY) == 4


class TestBaselines:
    def test_a_baseline_is_recorded_once(self, ledger: Ledger) -> None:
        """The first record stays, with one event; a baseline without a score says why."""
        found = BaselineRecord(
            name="tf-idf", label="TF-IDF", score=0.5, std=0.1, pooled=0.4, fold_scores=(0.4, 0.6), seconds=2.0
        )
        failed = BaselineRecord(name="majority", label="majority class", reason="no words", seconds=1.0)
        for each in (found, failed, replace(found, score=0.9)):
            ledger.record_baseline(each)
        assert ledger.baselines() == [failed, found]
        payloads = [event.payload for event in ledger.events() if event.kind is EventKind.BASELINE]
        assert [payload["score"] for payload in payloads] == [0.5, None]
        assert payloads[0]["fold_scores"] == [0.4, 0.6]
        assert not ledger.trials()

    def test_only_the_holder_of_the_role_records_one(self, ledger: Ledger) -> None:
        """A process that slept past its lease is refused."""
        ledger.acquire_role("baselines", "first", lease_seconds=-1)
        assert ledger.acquire_role("baselines", "second", lease_seconds=60)
        with pytest.raises(LeaseLost):
            ledger.fenced("baselines", "first").record_baseline(BaselineRecord(name="majority", label="majority"))
        assert not ledger.baselines()


class TestEvents:
    def test_a_fold_run_tells_its_story(self, ledger: Ledger) -> None:
        """Kinds, places and payloads, in order."""
        ledger.add_trial(0, {"lr": 0.1})
        claim = claimed(ledger, "me")
        ledger.record_epoch(claim, epoch(1, 0.5, loss=2.0), checkpoint="a")
        ledger.release(claim, reason="leaving")
        claim = claimed(ledger, "you")
        ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)
        found = [(e.kind, e.trial, e.fold, e.epoch, e.payload) for e in ledger.events(after=1, limit=100)]
        finished = {"state": "done", "score": 0.5, "best_epoch": 1, "reason": None, "failure": None, "seconds": 1.5}
        released = {"state": "waiting", "reason": "leaving", "failure": None, "owner": "me"}
        assert found == [
            (EventKind.TRIAL_STARTED, 0, None, None, {"params": {"lr": 0.1}}),
            (EventKind.FOLD_STARTED, 0, 0, None, {"owner": "me", "attempt": 1, "num_epochs": 0}),
            (EventKind.EPOCH, 0, 0, 1, {"score": 0.5, "standing": 0.5, "metrics": {"loss": 2.0}, "seconds": 1.5}),
            (EventKind.FOLD_RELEASED, 0, 0, None, released),
            (EventKind.FOLD_STARTED, 0, 0, None, {"owner": "you", "attempt": 1, "num_epochs": 1}),
            (EventKind.FOLD_FINISHED, 0, 0, None, finished),
        ]

    def test_events_are_read_in_batches(self, ledger: Ledger) -> None:
        """`after` and `limit` walk through all of them once."""
        for number in range(5):
            ledger.add_trial(number, {})
        sequences: list[int] = []
        while batch := ledger.events(after=sequences[-1] if sequences else 0, limit=2):
            sequences += [event.sequence for event in batch]
        assert sequences == [1, 2, 3, 4, 5, 6]
        assert ledger.last_sequence() == 6

    def test_writers_at_once_leave_no_gap_at_any_time(self, ledger: Ledger, ledger_url: str, crowd: Crowd) -> None:
        """While eight processes write, a reader never sees a number before all smaller ones, nor time run back."""
        events = []
        with ThreadPoolExecutor(1) as executor:
            working = executor.submit(crowd.call, work, ledger_url, ledger.study_id)
            while not working.done():
                events += ledger.events(after=len(events), limit=10)
                assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            working.result()
        events = ledger.events(after=0, limit=10_000)
        assert [event.sequence for event in events] == list(range(1, ledger.last_sequence() + 1))
        assert [event.at for event in events] == sorted(event.at for event in events)
        finished = [(e.trial, e.fold) for e in events if e.kind is EventKind.FOLD_FINISHED]
        assert sorted(finished) == [(trial, fold) for trial in range(32) for fold in range(3)]

    def test_a_writer_that_dies_leaves_nothing(self, ledger: Ledger, ledger_url: str) -> None:
        """Neither its change nor its lock: the next event takes the number."""
        process = warm_context().Process(target=die_inside_a_change, args=(ledger_url, ledger.study_id))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        ledger.add_trial(0, {})
        assert kinds(ledger) == [EventKind.STUDY_CREATED, EventKind.TRIAL_STARTED]

    def test_each_tracker_has_its_cursor(self, ledger: Ledger) -> None:
        """It starts at 0 and is where it was last set."""
        ledger.set_cursor("mlflow", 3)
        ledger.set_cursor("mlflow", 5)
        assert (ledger.cursor("mlflow"), ledger.cursor("neptune")) == (5, 0)


class TestRoles:
    def test_one_owner_holds_a_role(self, ledger: Ledger) -> None:
        """The holder renews it, others have to wait, other roles are free."""
        assert ledger.acquire_role("coordinator", "a", lease_seconds=60)
        assert ledger.acquire_role("coordinator", "a", lease_seconds=60)
        assert not ledger.acquire_role("coordinator", "b", lease_seconds=60)
        assert ledger.acquire_role("publisher", "b", lease_seconds=60)

    def test_a_lapsed_role_is_taken_over(self, ledger: Ledger) -> None:
        """Its last holder then has to wait."""
        ledger.acquire_role("coordinator", "a", lease_seconds=-1)
        assert ledger.acquire_role("coordinator", "b", lease_seconds=60)
        assert not ledger.acquire_role("coordinator", "a", lease_seconds=60)

    def test_a_role_is_given_up_by_its_holder_only(self, ledger: Ledger) -> None:
        """Giving up somebody else's role changes nothing."""
        ledger.acquire_role("coordinator", "a", lease_seconds=60)
        ledger.release_role("coordinator", "b")
        assert not ledger.acquire_role("coordinator", "b", lease_seconds=60)
        ledger.release_role("coordinator", "a")
        assert ledger.acquire_role("coordinator", "b", lease_seconds=60)

    def test_live_roles_are_those_that_are_held(self, ledger: Ledger) -> None:
        """By prefix, without those that lapsed."""
        ledger.acquire_role("worker/1", "a", lease_seconds=60)
        ledger.acquire_role("worker/2", "b", lease_seconds=-1)
        ledger.acquire_role("coordinator", "c", lease_seconds=60)
        assert ledger.live_roles("worker/") == ["worker/1"]

    def test_live_leases_are_those_of_fold_runs_that_somebody_holds(self, ledger: Ledger) -> None:
        """Not of one that waits, whose lease lapsed or was given back."""
        ledger.add_trial(0, {})
        for fold, seconds in enumerate((60, -1)):
            assert ledger.claim_run("worker", trial=0, fold=fold, lease_seconds=seconds)
        held = [run.id for run in ledger.fold_runs() if run.fold == 0]
        assert ledger.live_leases() == set(held)
        ledger.release_owner("worker", reason="left")
        assert ledger.live_leases() == set()


class TestUsage:
    def test_usage_is_set_and_goes_on_while_the_worker_lives(self, ledger: Ledger) -> None:
        """By its share of the device; without its role only what it wrote counts."""
        ledger.record_usage("worker/a", device="GPU", share=0.5, seconds=5.0)
        [usage] = ledger.usage()
        assert (usage.role, usage.device, usage.share, usage.live, usage.seconds) == (
            "worker/a",
            "GPU",
            0.5,
            False,
            5.0,
        )
        assert abs(usage.at - time.time()) < 60
        ledger.acquire_role("worker/a", "a", lease_seconds=60)
        time.sleep(0.5)
        [usage] = ledger.usage()
        assert usage.live
        assert 5.25 <= usage.seconds < 8
        ledger.record_usage("worker/a", device="GPU", share=0.5, seconds=6.0)
        ledger.record_usage("worker/a", device="GPU", share=0.5, seconds=6.0)
        [usage] = ledger.usage()
        assert 6.0 <= usage.seconds < 8

    def test_what_a_worker_used_until_its_role_ended_stays(self, ledger: Ledger) -> None:
        """Of one whose role lapsed only what it wrote: nobody knows when it died. Other roles have no usage."""
        for name, lease in (("left", 60.0), ("dead", 0.2)):
            ledger.record_usage(f"worker/{name}", device="CPU", share=1.0, seconds=5.0)
            ledger.acquire_role(f"worker/{name}", name, lease_seconds=lease)
        ledger.acquire_role("coordinator", "a", lease_seconds=60)
        time.sleep(0.5)
        ledger.release_role("worker/left", "somebody else")
        for name in ("left", "dead", "left"):
            ledger.release_role(f"worker/{name}", name)
        ledger.release_role("coordinator", "a")
        used = {usage.role: usage.seconds for usage in ledger.usage()}
        assert used.keys() == {"worker/left", "worker/dead"}
        assert 5.5 <= used["worker/left"] < 8
        assert used["worker/dead"] == 5.0
        assert not any(usage.live for usage in ledger.usage())

    def test_each_study_has_its_own_usage(self, engine: Engine, ledger: Ledger) -> None:
        """By the order in which it was written, the latest last."""
        other = Ledger(engine, new_study(engine, name="other").id)
        other.record_usage("worker/a", device="CPU", share=1.0, seconds=1.0)
        for name in ("b", "a", "b"):
            ledger.record_usage(f"worker/{name}", device="CPU", share=1.0, seconds=2.0)
            time.sleep(0.01)
        assert [usage.role for usage in ledger.usage()] == ["worker/a", "worker/b"]
        assert [usage.seconds for usage in other.usage()] == [1.0]


def test_reading_costs_the_same_number_of_statements_however_much_there_is(ledger: Ledger) -> None:
    """Trials take two statements, also some of them, all other bulk reads one."""
    for number in range(20):
        ledger.add_trial(number, {})
    statements: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    counts = []
    reads = (ledger.trials, lambda: ledger.trials(told=False), ledger.fold_runs, ledger.epochs, ledger.counts)
    reads += (ledger.events, ledger.run_states, ledger.standings, ledger.params, ledger.audited, ledger.usage)
    for read in reads:
        statements.clear()
        read()
        counts.append(sum(statement.startswith("SELECT") for statement in statements))
    assert counts == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
