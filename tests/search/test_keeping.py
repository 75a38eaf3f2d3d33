"""Which trained weights stay, with a real ledger, real files and scripted trainings."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fold_search.search.study.stored import misplaced, weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import LeaseLost, StorageError
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

Studies = Callable[..., ScriptedStudy]
SCORES = (0.5, 0.8, 0.6, 0.7)


def scripted(trial: int, fold: int) -> list[float | Exception]:
    return [SCORES[trial] / 2, SCORES[trial]]


def weights(study: ScriptedStudy) -> list[str]:
    return [name for name in study.artifacts.names(study.ledger.folder) if "/model-" in name]


def stored(study: ScriptedStudy) -> set[int]:
    """The trials that have weights; each has those of all three folds, under the names that the ledger tells."""
    runs = study.ledger.fold_runs()
    done = [run for run in runs if run.predictions]
    found = {run.trial for run in done if study.artifacts.exists(weights_name(run.predictions))}
    names = weights(study)
    assert len(names) == 3 * len(found)
    return found


@pytest.mark.parametrize(
    ("artifacts", "kept"),
    [
        ({}, {1}),
        ({"keep": "top", "top": 2}, {1, 3}),
        ({"keep": "all"}, {0, 1, 2, 3}),
        ({"keep": "none"}, set[int]()),
    ],
)
def test_the_weights_of_the_best_trials_stay(scripted_study: Studies, artifacts: dict, kept: Iterable[int]):
    """As many as the study file says; predictions stay whatever it says."""
    study = scripted_study(race={"rule": "none"}, artifacts=artifacts)
    study.run(Script(scripted))
    assert stored(study) == kept
    assert all(study.artifacts.exists(run.predictions or "") for run in study.ledger.fold_runs())


def test_a_minimised_metric_keeps_the_smallest(scripted_study: Studies):
    """The best is what the study's direction says."""
    study = scripted_study(race={"rule": "none"}, direction="minimize")
    study.run(Script(scripted))
    assert stored(study) == {0}


def test_a_stopped_trial_keeps_nothing(scripted_study: Studies):
    """Not even of the fold that it finished."""
    study = scripted_study(budget={"trials": 2}, race={"rule": "early_stopping_cv", "min_trials": 1, "min_epochs": 3})
    study.run(Script(lambda trial, fold: [0.2, (0.6, 0.5, 0.7)[fold] - 0.2 * trial]))
    assert any(run.trial == 1 and run.predictions for run in study.ledger.fold_runs())
    assert stored(study) == {0}


def test_what_an_open_trial_has_stored_stays(scripted_study: Studies):
    """A better trial elsewhere does not take the weights of one that is not through."""
    study = scripted_study(race={"rule": "none"}, budget={"trials": 1})
    study.run(Script(scripted))
    study.ledger.add_trial(1, {"learning_rate": 1e-4})
    claim = claim_first(study.ledger, "worker", lease_seconds=60)
    assert claim is not None
    study.worker(Script(lambda *_: [0.1])).train(claim)
    before = weights(study)
    study.pruning().prune()
    assert weights(study) == before
    assert [name for name in before if "/trial-1/fold-0/" in name]


def test_two_prunings_at_once_keep_the_same(scripted_study: Studies, monkeypatch: pytest.MonkeyPatch):
    """One that decided before a better trial ended, and removes after it, takes nothing that the other keeps."""
    study = scripted_study(race={"rule": "none"}, artifacts={"keep": "all"})
    study.run(Script(scripted))
    object.__setattr__(study.config.artifacts, "keep", "best")
    early, late = study.pruning(), study.pruning()
    trials = study.ledger.trials()
    with monkeypatch.context() as then:
        then.setattr(study.ledger, "trials", lambda: trials[:1])  # only trial 0 has ended
        early.prune()
    late.prune()
    early.prune()
    assert stored(study) == {1}


def test_a_worker_that_lost_its_lease_leaves_no_weights(scripted_study: Studies, monkeypatch: pytest.MonkeyPatch):
    """They were stored before the ledger refused the fold's end."""
    study = scripted_study()
    study.ledger.add_trial(0, {"learning_rate": 1e-4})
    claim = claim_first(study.ledger, "worker", lease_seconds=60)
    assert claim is not None

    def lost(*_: object, **__: object) -> None:
        assert weights(study)
        raise LeaseLost("another has it")

    monkeypatch.setattr(study.ledger, "finish_fold", lost)
    study.worker(Script(scripted)).train(claim)
    assert not weights(study)


def test_a_place_that_cannot_be_reached_is_a_warning(scripted_study: Studies, monkeypatch: pytest.MonkeyPatch, caplog):
    """The search goes on, and the next pruning removes what this one could not."""
    study = scripted_study(race={"rule": "none"}, artifacts={"keep": "all"})
    study.run(Script(scripted))
    object.__setattr__(study.config.artifacts, "keep", "best")
    keeping = study.pruning()

    def unreachable(name: str) -> None:
        raise StorageError("the place is away")

    with monkeypatch.context() as then:
        then.setattr(study.artifacts, "delete", unreachable)
        keeping.prune()
    assert "artifacts of trial 0 are not removed: the place is away" in caplog.text
    keeping.prune()
    assert stored(study) == {1}


@pytest.mark.parametrize("epochs", [1, 2])
def test_who_continues_in_another_folder_is_told_so(scripted_study: Studies, tmp_path: Path, epochs: int):
    """Also where the study was left before a fold was done: all that is stored are checkpoints."""
    study = scripted_study()
    script = Script(scripted)
    script.on_epoch = lambda trial, fold, epoch: study.stop.set() if epoch == epochs else None
    study.coordinator().step()
    study.worker(script).train(claim_first(study.ledger))
    assert misplaced(study.ledger, study.artifacts) is None
    said = misplaced(study.ledger, Artifacts(str(tmp_path / "elsewhere")))
    assert said is not None
    assert said.startswith("storage.artifacts: found no files of study")
