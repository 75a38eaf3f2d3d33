"""What one worker finds out about memory is in the ledger, and the next begins there: a real encoder, a real study."""

from dataclasses import replace
from pathlib import Path

import pytest

from fold_search.models.classifiers import TextClassifier
from fold_search.search.errors import ConfigError
from fold_search.search.running.objective import Objective, memory_limited
from fold_search.search.study.rows import StudyRows
from fold_search.storage.records import EventKind, FoldRunState
from tests.objectives.limited_memory import room_for
from tests.search.scripted import ScriptedRace
from tests.search.test_pauses import PARAMS, new_worker, trained


def test_what_does_not_fit_whatever_is_tried_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch):
    """A table, say, or a model's weights; what else goes wrong is told as it is."""
    monkeypatch.setattr("fold_search.search.running.objective.limit_memory", lambda limit: None)
    with pytest.raises(ConfigError, match=r"--memory-limit: 8 bytes are not enough: MemoryError$"), memory_limited(8):
        raise MemoryError
    with pytest.raises(KeyboardInterrupt), memory_limited(8):
        raise KeyboardInterrupt


def test_how_many_rows_fit_is_found_once_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is an event of the fold run that found it, no failure; the others of that shape meet no limit."""
    study = trained(tmp_path)
    study.ledger.add_trial(1, PARAMS | {"dropout": 0.1})
    monkeypatch.setattr(TextClassifier, "pooled", room_for(3, TextClassifier.pooled, training=True))
    for _ in range(3):
        worker = new_worker(study, ScriptedRace())
        rows = StudyRows(ledger=study.ledger, config=study.config)
        worker = replace(worker, objective=Objective(rows, device="cpu", ledger=study.ledger))
        worker.train(worker.claim())
    found = [event for event in study.ledger.events(limit=1000) if event.kind is EventKind.OUT_OF_MEMORY]
    assert [(event.trial, event.fold, event.payload["rows"]) for event in found] == [(1, 0, 4), (1, 0, 2)]
    assert list(study.ledger.rows_that_fit("cpu").values()) == [2]
    assert {(run.state, run.failure) for run in study.runs(1)} == {(FoldRunState.DONE, None)}
