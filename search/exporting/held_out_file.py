"""Scores of trials on a file that their study never saw, from the weights that were kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Content, Labels, content_of, grouped_texts, read_labels, read_table
from fold_search.objectives.data.same_text import group_texts
from fold_search.objectives.data.tables import Chunk
from fold_search.objectives.errors import TrialError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.predicting.voting import predict_folds
from fold_search.objectives.scoring.metrics import METRICS
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.tasks.preparation import PREPARED_FOR
from fold_search.objectives.training.fold import read_weights
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.curves import HeldOutFile
from fold_search.search.running.objective import Objective, choose_device
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.opened import OpenStudy
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.stored import misplaced, weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError
from fold_search.storage.records import FoldRun

Scores = dict[int, tuple[NDArray[np.float32], float]]


def score_on(
    study: OpenStudy, config: StudyConfig, test: HeldOutFile, *, trials: Sequence[int], say: Callable[[str], None]
) -> tuple[Scores, dict[int, str]]:
    """Return each trial's score by fold, (folds,), and that of the mean of its folds' predictions; and why some lack.

    By the study's metric. A trial has none whose weights were not kept or were of another version's job, or that does
    not fit into memory with one row at a time. `say` is told how many of the file's texts are among the study's. Raises
    ConfigError if the study's data changed or nothing is stored, DataError if the file cannot be read or has a label
    that the study does not know, EncoderError.
    """
    if reason := misplaced(study.ledger, Artifacts(config.storage.artifacts)):
        raise ConfigError(reason)
    rows = StudyRows(ledger=study.ledger, config=config)
    spec = config.data.of_file(test.path, encoding=test.encoding, quotes=test.quotes)
    table = read_table(spec)
    unseen = _Unseen(
        study=study,
        rows=rows,
        objective=Objective(rows, device=choose_device(0)),
        content=content_of(table, spec),
        truth=read_labels(Chunk(table=table, first=1, share_read=1.0), spec, rows.dataset.label_names),
    )
    if repeated := _num_repeated(rows.dataset, unseen.content):
        which = f"{repeated} of {len(unseen.truth)} rows of {test.path} have the same text as a row of the study"
        say(f"{which}, so the test scores are too good")
    runs: dict[int, list[FoldRun]] = {number: [] for number in trials}
    for run in study.ledger.fold_runs():
        if run.trial in runs:
            runs[run.trial].append(run)
    params = {trial.number: trial.params for trial in study.ledger.trials()}
    found: Scores = {}
    reasons: dict[int, str] = {}
    for number in trials:
        jobs = [unseen.objective.job(params[number], run.fold) for run in runs[number]]
        try:
            found[number] = unseen.scores(jobs, unseen.weights(jobs, runs[number]))
        except (StorageError, TrialError) as error:
            reasons[number] = str(error)
    return found, reasons


def _num_repeated(seen: Content, unseen: Content) -> int:
    """Number of texts that are also in the study's rows. Images are not compared."""
    if seen.spec.kind == "image":
        return 0
    groups = group_texts(chain.from_iterable(grouped_texts(part.columns, seen.spec) for part in (seen, unseen)))
    num_seen = len(seen.texts)
    return int(np.isin(groups[num_seen:], groups[:num_seen]).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unseen:
    """The file's rows, prepared once for all trials that read them alike."""

    study: OpenStudy
    rows: StudyRows
    objective: Objective
    content: Content
    truth: Labels
    _inputs: dict[tuple[object, ...], Inputs] = field(default_factory=dict)

    def weights(self, jobs: Sequence[FoldJob], runs: Sequence[FoldRun]) -> list[dict[str, Tensor]]:
        """Return what each fold was scored with; StorageError or TrialError where that is not there."""
        artifacts = Artifacts(self.rows.config.storage.artifacts)
        names = [weights_name(run.predictions or "") for run in runs]
        return [read_weights(artifacts.get(name), job=job) for name, job in zip(names, jobs, strict=True)]

    def scores(
        self, jobs: Sequence[FoldJob], weights: Sequence[dict[str, Tensor]]
    ) -> tuple[NDArray[np.float32], float]:
        """Return each fold's score, (folds,), and their ensemble's; TrialError if the weights do not fit."""
        votes = predict_folds(
            jobs,
            weights,
            inputs=self._prepared(jobs[0].params.model),
            num_rows=len(self.truth),
            device=choose_device(0),
        )
        goal = self.rows.goal
        score = METRICS[goal.metric]
        singles = np.array([score(self.truth, predictions, goal) for predictions in votes], np.float32)
        return singles, score(self.truth, votes.mean(axis=0), goal)

    def _prepared(self, model: ModelParams) -> Inputs:
        key = tuple(getattr(model, name) for name in PREPARED_FOR)
        if key not in self._inputs:
            self._inputs[key] = self.objective.prepare(self.content, model)
        return self._inputs[key]
