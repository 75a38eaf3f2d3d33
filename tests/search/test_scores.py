"""The matrix that is kept up to date, against the one that is read anew; and the race as it is asked."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from fold_search.objectives.jobs import EpochScore
from fold_search.search.racing.live import LiveRace, Scores
from fold_search.search.racing.matrix import Matrix, RunState
from fold_search.search.racing.verdicts import Decision, Verdict
from fold_search.search.study.sections import RaceConfig
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import FoldRunState, TrialState
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import ScriptedRace

Studies = Callable[..., ScriptedStudy]


def score(epoch: int, value: float = 0.5) -> EpochScore:
    return EpochScore(epoch=epoch, score=value, standing=value, metrics={}, seconds=0.1)


def equal(found: Matrix, expected: Matrix) -> None:
    """The one may have room for more epochs."""
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_array_equal(found.states, expected.states)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_array_equal(found.params, expected.params)
    epochs = expected.scores.shape[2]
    np.testing.assert_array_equal(found.scores[:, :, :epochs], expected.scores)
    assert np.isnan(found.scores[:, :, epochs:]).all()
    assert found.sign == expected.sign


def test_after_any_history_it_is_what_a_new_look_reads(scripted_study: Studies):
    """Trials out of order and of other lengths, epochs that diverge, pauses, stops, lost leases: 300 changes."""
    ledger = scripted_study(direction="minimize").ledger
    kept, chance = Scores(ledger), random.Random(0)
    for _ in range(300):
        change(ledger, chance)
        if chance.random() < 0.5:
            equal(kept.matrix(), Scores(ledger).matrix())
    matrix = kept.matrix()
    assert len(matrix.numbers) > 16
    assert set(np.unique(matrix.states)) == set(RunState)
    assert np.isneginf(matrix.scores).any()
    assert 0 < matrix.params.min() < matrix.params.max() < 0.9


def change(ledger: Ledger, chance: random.Random) -> None:
    """Do one of the things that happen in a study."""
    if chance.random() < 0.2:
        params = {"epochs": chance.randrange(1, 6), "learning_rate": 10 ** -chance.uniform(3, 5)}
        ledger.add_trial(chance.randrange(1000), params)
        return
    runs = [run for run in ledger.fold_runs() if run.state in (FoldRunState.WAITING, FoldRunState.PAUSED)]
    if not runs:
        return
    run = chance.choice(runs)
    claim = ledger.claim_run("worker", trial=run.trial, fold=run.fold, lease_seconds=60)
    assert claim is not None
    for epoch in range(claim.num_epochs + 1, claim.num_epochs + chance.randrange(4)):
        ledger.record_epoch(claim, score(epoch, chance.choice([chance.random(), float("nan")])), checkpoint=None)
    match chance.randrange(9):
        case 0:
            ledger.release(claim, reason="leaving")
        case 1:
            ledger.release_owner("worker", reason="died", max_attempts=2)
        case 2:
            ledger.stop_trial(claim, reason="weak")
        case 3 | 4:
            ledger.finish_fold(claim, FoldRunState.PAUSED)
        case 5 | 6 | 7:
            ledger.finish_fold(claim, FoldRunState.DONE, score=0.5, best_epoch=1)
        case 8:
            ledger.audit_trial(claim, reason="weak", chance=0.1)


def test_a_later_look_reads_only_what_is_new(scripted_study: Studies):
    """Two statements: the events since, and that there are no more; none of the bulk reads."""
    ledger = scripted_study().ledger
    ledger.add_trial(0, {})
    scores = Scores(ledger)
    scores.matrix()
    claim = claim_first(ledger, "worker", lease_seconds=60)
    ledger.record_epoch(claim, score(1), checkpoint=None)
    statements: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    assert scores.matrix().num_epochs[0, 0] == 1
    selects = [statement for statement in statements if statement.startswith("SELECT")]
    assert len(selects) == 2
    assert all("FROM ledger_events" in statement for statement in selects)


def test_an_audit_by_another_process_is_known(scripted_study: Studies):
    """Whether it was there at the first look or came later."""
    ledger = scripted_study().ledger
    ledger.add_trial(0, {})
    scores = Scores(ledger)
    scores.matrix()
    ledger.audit_trial(claim_first(ledger, "worker", lease_seconds=60), reason="weak", chance=0.01)
    scores.matrix()
    late = Scores(ledger)
    late.matrix()
    assert scores.audited == late.audited == {0}
    assert scores.matrix().audited == {0}


def test_audits_are_drawn_by_the_study_s_seed_and_its_data(tmp_path):
    """Two studies with both in common draw alike, and most studies leave the seed at 0."""

    def key(name: str, **of: Any) -> str:
        study = ScriptedStudy(f"sqlite:///{tmp_path / name}.db", tmp_path, **of)
        return Scores(study.ledger).matrix().audit_key

    one = key("one", study={"seed": 1}, fingerprints={"data": "a"})
    assert key("same", study={"seed": 1}, fingerprints={"data": "a"}, budget={"trials": 9}) == one
    assert len({one, key("seed", fingerprints={"data": "a"}), key("data", fingerprints={"data": "b"})}) == 3


@pytest.mark.parametrize(("chance", "expected"), [(0.01, Decision.CONTINUE), (None, Decision.STOP)])
def test_an_audited_trial_is_stopped_only_where_it_diverged(scripted_study: Studies, chance, expected):
    """A rule that changes its mind about whom it spares does not undo an audit; a divergence has no chance."""
    study = scripted_study()
    study.policy = ScriptedRace(verdicts={(0, 0, 0): Verdict(decision=Decision.STOP, chance=chance)})
    study.ledger.add_trial(0, {})
    study.ledger.audit_trial(claim_first(study.ledger, "worker", lease_seconds=60), reason="weak", chance=0.02)
    assert study.race().verdict(trial=0, fold=0, done=False).decision is expected


def test_the_race_knows_how_many_trials_the_budget_has_left(scripted_study: Studies):
    """All that were begun count, however they ended; more than the budget are none too many."""
    study = scripted_study(budget={"trials": 2})
    race: LiveRace = study.race()
    left = []
    for number in range(3):
        left.append(race.trials_left(race.scores.matrix()))
        study.ledger.add_trial(number, {})
        study.ledger.finish_trial(number, TrialState.FAILED)
    assert left == [2, 1, 0]
    assert race.trials_left(race.scores.matrix()) == 0
    assert replace(race, settings=RaceConfig(rule="none")).next_fold_run().action == "end"
