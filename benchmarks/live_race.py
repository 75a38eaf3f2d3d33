"""The race in the running service: the same seeded study with it, without it, and as a plain loop with MedianPruner.

`python -m benchmarks.live_race FOLDER [STUDY.yaml] [--sampler tpe]` searches on FOLDER/train.csv.gz by `search run`
without and with the race, then as users write it with Optuna: a loop over the folds in the objective, in this process,
with the same training and the same sampler. What each way chose is scored on FOLDER/test.csv.gz. Everything is kept in
--work, the encoder's states are computed before the clock starts, and CPU seconds count child processes to their end.
"""

import argparse
import math
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import torch
from optuna.pruners import MedianPruner

from benchmarks.real_data import run_search
from fold_search.models.params import Scalar
from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.errors import TrialError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.predicting.voting import predict_folds
from fold_search.objectives.scoring.metrics import METRICS
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import read_weights
from fold_search.search.exporting.curves import HeldOutFile
from fold_search.search.exporting.held_out_file import score_on
from fold_search.search.reporting.summary import find_best
from fold_search.search.running.objective import Objective, choose_device
from fold_search.search.running.proposals import make_sampler
from fold_search.search.study.config import StudyConfig, load_config
from fold_search.search.study.opened import OpenStudy, find
from fold_search.search.study.rows import StudyRows
from fold_search.search.study.space import suggest
from fold_search.storage.records import Event, EventKind

STUDY_FILE = Path(__file__).parent / "studies" / "biotools_race.yaml"
PAGE = 1000
RULES = {"none": "`search run`, no race", "paired": "`search run`, the race"}
LOOPS: dict[Literal["fold", "epoch"], str] = {
    "fold": "Optuna's loop, MedianPruner on the mean of the folds",
    "epoch": "Optuna's loop, MedianPruner on the epochs of fold 0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one way of searching cost and chose; `after` is when its choice was complete: epochs and seconds."""

    way: str
    seconds: float
    cpu_seconds: float
    epochs: int
    states: dict[str, int]
    params: dict[int, dict[str, Any]]
    complete: dict[int, float]  # the mean over the folds, by trial
    chosen: int
    after: tuple[int, float]
    test: float  # the mean of the chosen folds' predictions

    def row(self) -> str:
        """The outcome as a row of the table."""
        states = " / ".join(str(self.states.get(name, 0)) for name in ("complete", "stopped", "failed"))
        score, (epochs, seconds) = self.complete[self.chosen], self.after
        return (
            f"| {self.way} | {self.seconds:.0f} | {self.cpu_seconds:.0f} | {self.epochs} | {states} | {self.chosen} | "
            f"{100 * score:.1f} | {100 * self.test:.1f} | {epochs} epochs, {seconds:.0f} s |"
        )


def main() -> None:
    """Search in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study_file", type=Path, nargs="?", default=STUDY_FILE)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("studies/live_race"), help="a folder that is not there yet")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    work.mkdir(parents=True)
    overrides = [
        f"data.path={(arguments.folder / 'train.csv.gz').resolve()}",
        f"storage.url=sqlite:///{work}/live_race.db",
        f"storage.artifacts={work}/artifacts",
        f"study.sampler={arguments.sampler}",
    ]
    test = arguments.folder / "test.csv.gz"
    file = arguments.study_file
    run_search("warm-up", file, [*overrides, "budget.trials=1", "training.epochs=1", "race.rule=none"])
    overrides.append(f"budget.trials={arguments.trials}")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.workers))  # as the service's workers do
    outcomes = []
    for rule in RULES:
        outcomes.append(by_service(rule, file, [*overrides, f"race.rule={rule}"], test, workers=arguments.workers))
        print(outcomes[-1].row(), flush=True)
    config = load_config(file, overrides)
    rows = StudyRows(ledger=find("none", url=config.storage.url).ledger, config=config)
    for reports in LOOPS:
        outcomes.append(by_loop(Loop(config=config, rows=rows, reports=reports), test))
        print(outcomes[-1].row(), flush=True)
    print("\n" + render(outcomes))


def by_service(rule: str, file: Path, overrides: Sequence[str], test: Path, *, workers: int) -> Outcome:
    """Search by `search run`."""
    config = load_config(file, overrides)
    began, cpu = time.time(), children_seconds()
    run_search(rule, file, overrides, workers=workers)
    seconds, cpu_seconds = time.time() - began, children_seconds() - cpu
    study = find(rule, url=config.storage.url)
    trials = study.ledger.trials()
    best = find_best(study.record, trials)
    assert best is not None, f"no trial of {rule} is complete"
    epochs, after = 0, (0, math.nan)
    for event in events(study):
        epochs += event.kind is EventKind.EPOCH
        if event.kind is EventKind.TRIAL_FINISHED and event.trial == best.trial:
            after = epochs, event.at - began
    return Outcome(
        way=RULES[rule],
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        epochs=epochs,
        states=Counter(trial.state.value for trial in trials),
        params={trial.number: trial.params for trial in trials},
        complete={trial.number: trial.score for trial in trials if trial.score is not None},
        chosen=best.trial,
        after=after,
        test=score_on(study, config, HeldOutFile(path=test), trials=[best.trial], say=print)[0][best.trial][1],
    )


def events(study: OpenStudy) -> Iterator[Event]:
    """All events of a study, in order."""
    sequence = 0
    while page := study.ledger.events(after=sequence, limit=PAGE):
        yield from page
        sequence = page[-1].sequence


def children_seconds() -> float:
    """CPU seconds of all child processes that have ended, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(kw_only=True)
class Loop:
    """An objective as users write it for Optuna: all folds one after the other, pruned by what it reports.

    fold: the mean of the folds so far, after each; epoch: the score after each epoch of the first fold.
    """

    config: StudyConfig
    rows: StudyRows
    reports: Literal["fold", "epoch"]
    epochs: int = 0
    began: float = field(default_factory=time.time)
    params: dict[int, dict[str, Scalar]] = field(default_factory=dict)
    trained: dict[int, list[tuple[FoldJob, bytes]]] = field(default_factory=dict)
    after: dict[int, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._objective = Objective(self.rows, device=choose_device(0))

    def __call__(self, trial: optuna.Trial) -> float:
        """Train a trial; returns the mean over its folds, raises TrialPruned or TrialError."""
        self.params[trial.number] = sampled = suggest(trial, self.config)
        trained, scores = [], []
        for fold in range(self.config.folds.k):
            job = self._objective.job(sampled, fold)
            training = self._objective.training(job)
            for epoch in training.epochs():
                self.epochs += 1
                if self.reports == "epoch" and fold == 0:
                    report(trial, epoch.score, step=epoch.epoch)
            scores.append(training.best.score)
            trained.append((job, training.best_weights))
            if self.reports == "fold" and fold < self.config.folds.k - 1:
                report(trial, statistics.fmean(scores), step=fold + 1)
        self.trained[trial.number] = trained
        self.after[trial.number] = self.epochs, time.time() - self.began
        return statistics.fmean(scores)

    def test_score(self, number: int, file: Path) -> float:
        """Score the mean of a complete trial's folds on a file."""
        test = read_dataset(self.config.data.model_copy(update={"path": file}))
        assert test.label_names == self.rows.dataset.label_names
        jobs = [job for job, _ in self.trained[number]]
        votes = predict_folds(
            jobs,
            [read_weights(weights, job=job) for job, weights in self.trained[number]],
            inputs=prepare(
                test,
                params=jobs[0].params.model,
                max_length=self._objective.longest,
                cache=Path(self.config.storage.cache),
                device=choose_device(0),
            ),
            num_rows=len(test.labels),
            device=choose_device(0),
        )
        goal = self.rows.goal
        return METRICS[goal.metric](test.labels, votes.mean(axis=0), goal)


def report(trial: optuna.Trial, value: float, *, step: int) -> None:
    """Report, and raise TrialPruned if the pruner says so."""
    trial.report(value, step)
    if trial.should_prune():
        raise optuna.TrialPruned


def by_loop(loop: Loop, test: Path) -> Outcome:
    """Search by Optuna's own loop; the sampler is seeded for each trial as the service does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=METRICS[loop.rows.goal.metric].direction, pruner=MedianPruner())
    loop.began, cpu = time.time(), time.process_time()
    for number in range(loop.config.budget.trials):
        study.sampler = make_sampler(loop.config, number)
        study.optimize(loop, n_trials=1, catch=(TrialError,))
    seconds, cpu_seconds = time.time() - loop.began, time.process_time() - cpu
    words = {"PRUNED": "stopped", "FAIL": "failed"}
    best = study.best_trial.number
    return Outcome(
        way=LOOPS[loop.reports],
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        epochs=loop.epochs,
        states=Counter(words.get(trial.state.name, trial.state.name.lower()) for trial in study.trials),
        params=loop.params,
        complete={trial.number: trial.value for trial in study.trials if trial.value is not None},
        chosen=best,
        after=loop.after[best],
        test=loop.test_score(best, test),
    )


def render(outcomes: Sequence[Outcome]) -> str:
    """The table, and what the ways have in common."""
    head = "way, wall s, CPU s, epochs, complete / stopped / failed, chosen, CV, test, its choice was complete after"
    names = head.split(", ")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(outcome.row() for outcome in outcomes)]
    first = outcomes[0]
    lines.append("")
    for other in outcomes[1:]:
        same = sum(first.params[number] == params for number, params in other.params.items())
        both = sorted(first.complete.keys() & other.complete.keys())
        difference = np.array([abs(first.complete[number] - other.complete[number]) for number in both])
        lines.append(
            f"- {other.way}: {same} of {len(other.params)} configurations as without a race; {len(both)} complete in "
            f"both, their scores at most {difference.max(initial=0):.4f} apart; trial {other.chosen} chosen, "
            f"{first.chosen} without a race"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
