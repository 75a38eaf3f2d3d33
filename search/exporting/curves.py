"""The scores of all folds and epochs of a study as one compact file, for replays of the race."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.data.arrays import read_arrays
from fold_search.objectives.data.sources import Quotes
from fold_search.search.errors import ConfigError
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.storage.files import whole_file
from fold_search.storage.records import FoldRun, FoldRunState, TrialRecord

FORMAT = 1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """All trials of a study whose folds are all done, by number, with their scores after each epoch.

    `standing` is in the metric's own sign: the score of the epoch that is chosen so far, NaN after a fold run's last
    epoch. The test scores are NaN where the weights were not kept or no test file was given.
    """

    numbers: NDArray[np.int64]  # (trials,)
    standing: NDArray[np.float32]  # (trials, folds, epochs)
    lengths: NDArray[np.int16]  # (trials, folds): epochs that were trained
    epochs: NDArray[np.int16]  # (trials,): epochs that a fold run of the trial has; fewer are trained by patience
    seconds: NDArray[np.float32]  # (trials, folds): of an epoch at the mean
    final: NDArray[np.float64]  # (trials,): the study's score, the mean over the folds
    test_folds: NDArray[np.float32]  # (trials, folds): each fold's model on the test file
    test_ensemble: NDArray[np.float32]  # (trials,): the mean of the folds' predictions on the test file
    params: tuple[dict[str, Any], ...]
    about: dict[str, Any]  # study, metric, direction, folds, seed, rows, classes, versions, date

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if self.about["direction"] == "maximize" else -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutFile:
    """Labelled rows that the study never saw, and how their file is read if not as `DataSpec.of_file` says."""

    path: Path
    encoding: str | None = None
    quotes: Quotes | None = None


def export_curves(
    study: OpenStudy, out: Path, *, test: HeldOutFile | None, overrides: Sequence[str] = (), say: Say
) -> Curves:
    """Write the study's curves to `out`, whole or not at all; `say` is told what is left out.

    Raises ConfigError if no trial has all its folds or `out` cannot be written, DataError, StorageError, EncoderError.
    """
    if out.suffix != ".npz":
        raise ConfigError(f"--out: found {out.name}, expected a name that ends in .npz")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)  # now: to score all models on a test file may take an hour
    except OSError as error:
        raise ConfigError(f"{out}: its folder cannot be made: {error.strerror}") from None
    config = on_this_machine(study.record, overrides)
    curves = _record(study, say=say)
    if test is not None:
        from fold_search.search.exporting.held_out_file import score_on

        scores, reasons = score_on(study, config, test, trials=curves.numbers.tolist(), say=say)
        if reasons:
            first = min(reasons)
            say(
                f"{len(reasons)} of {len(curves.numbers)} trials have no test score, such as trial {first}: "
                f"{reasons[first]}"
            )
        curves = _with_test(curves, scores, test)
    write_curves(curves, out)
    return curves


def load_curves(path: Path) -> Curves:
    """Read what `export_curves` wrote; ConfigError if it is another file, of another version or inconsistent."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        arrays = read_arrays(content)
    except ValueError:
        raise ConfigError(f"{path}: is not a curves file, expected one that `search export-curves` wrote") from None
    if "format" not in arrays:
        raise ConfigError(f"{path}: is not a curves file, expected one that `search export-curves` wrote")
    if arrays["format"].tolist() != FORMAT:
        raise ConfigError(f"{path}: found format {arrays['format'].tolist()}, expected {FORMAT}")
    try:
        words = {name: json.loads(str(arrays.pop(name))) for name in ("params", "about")}
        del arrays["format"]
        curves = Curves(**arrays, params=tuple(words["params"]), about=words["about"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is damaged: {error}") from None
    if problem := _misfit(curves):
        raise ConfigError(f"{path}: is damaged: {problem}")
    return curves


def _misfit(curves: Curves) -> str | None:
    """What is inconsistent; None if nothing is."""
    if not isinstance(curves.about, dict) or not all(isinstance(params, dict) for params in curves.params):
        return "params or about are not JSON objects"
    if curves.standing.ndim != 3 or not all(curves.standing.shape):
        return f"standing has shape {curves.standing.shape}, expected (trials, folds, epochs)"
    trials, folds, epochs = curves.standing.shape
    by_trial = ("numbers", "epochs", "final", "test_ensemble")
    expected = dict.fromkeys(by_trial, (trials,)) | dict.fromkeys(("lengths", "seconds", "test_folds"), (trials, folds))
    for name, shape in expected.items():
        if (found := getattr(curves, name).shape) != shape:
            return f"{name} has shape {found}, expected {shape}"
    if len(curves.params) != trials:
        return f"params are of {len(curves.params)} trials, expected {trials}"
    if curves.about.get("direction") not in ("maximize", "minimize"):
        return f"direction is {curves.about.get('direction')!r}, expected maximize or minimize"
    trained = np.arange(epochs) < curves.lengths[:, :, None]
    if curves.lengths.min() < 1 or (np.isfinite(curves.standing) != trained).any():
        return "standing must be finite exactly for the epochs that lengths count as trained"
    return None


def _record(study: OpenStudy, *, say: Say) -> Curves:
    ledger, num_folds = study.ledger, study.record.num_folds
    trials = {trial.number: trial for trial in ledger.trials()}
    runs: dict[int, list[FoldRun]] = {number: [] for number in trials}
    for run in ledger.fold_runs():
        if run.trial in runs and run.state is FoldRunState.DONE:
            runs[run.trial].append(run)
    most = max((run.num_epochs for done in runs.values() for run in done), default=0)
    values = np.full((len(trials), num_folds, most), np.nan, np.float32)
    rows = {number: row for row, number in enumerate(trials)}
    for number, fold, epoch, standing in ledger.standings():
        if number in rows and epoch <= most:
            values[rows[number], fold, epoch - 1] = standing
    whole = [
        number for number in trials if len(runs[number]) == num_folds and _is_whole(runs[number], values[rows[number]])
    ]
    if not whole:
        raise ConfigError(
            f"study {study.record.name!r} has no trial with all {num_folds} folds done, so there are no curves"
        )
    if left_out := len(trials) - len(whole):
        say(f"{left_out} of {len(trials)} trials are left out, because they are stopped, failed or not finished")
    done = [runs[number] for number in whole]
    return Curves(
        numbers=np.array(whole, np.int64),
        standing=values[[rows[number] for number in whole]],
        lengths=np.array([[run.num_epochs for run in folds] for folds in done], np.int16),
        epochs=np.array([_planned(trials[number], study) for number in whole], np.int16),
        seconds=np.array([[run.seconds / run.num_epochs for run in folds] for folds in done], np.float32),
        final=np.array([np.mean([run.score for run in folds]) for folds in done]),
        test_folds=np.full((len(whole), num_folds), np.nan, np.float32),
        test_ensemble=np.full(len(whole), np.nan, np.float32),
        params=tuple(trials[number].params for number in whole),
        about=_about(study),
    )


def _is_whole(runs: Sequence[FoldRun], standing: NDArray[np.float32]) -> bool:
    return all(run.num_epochs > 0 and np.isfinite(standing[run.fold, : run.num_epochs]).all() for run in runs)


def _planned(trial: TrialRecord, study: OpenStudy) -> int:
    return int(trial.params.get("epochs", study.record.config.get("training", {}).get("epochs", 1)))


def _about(study: OpenStudy) -> dict[str, Any]:
    record = study.record
    return {
        "study": record.name,
        "metric": record.metric,
        "direction": record.direction,
        "folds": record.num_folds,
        "seed": record.config.get("study", {}).get("seed"),
        "rows": record.provenance.get("rows", len(study.ledger.assignments())),
        "classes": record.provenance.get("classes"),
        "versions": record.provenance.get("packages", {}),
        "fingerprints": record.fingerprints,
        "config": record.config,
        "test": None,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _with_test(curves: Curves, scores: dict[int, tuple[NDArray[np.float32], float]], test: HeldOutFile) -> Curves:
    folds, ensemble = curves.test_folds.copy(), curves.test_ensemble.copy()
    for row, number in enumerate(curves.numbers.tolist()):
        if number in scores:
            folds[row], ensemble[row] = scores[number]
    return replace(curves, test_folds=folds, test_ensemble=ensemble, about=curves.about | {"test": test.path.name})


def write_curves(curves: Curves, out: Path) -> None:
    """Write them whole or not at all; ConfigError if that cannot be done."""
    content = io.BytesIO()
    np.savez_compressed(content, **_to_arrays(curves))
    try:
        with whole_file(out) as unfinished:
            unfinished.write_bytes(content.getbuffer())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None


def _to_arrays(curves: Curves) -> dict[str, Any]:
    """The curves as the arrays of the file; what is words is JSON."""
    words = {"params": json.dumps(curves.params), "about": json.dumps(curves.about)}
    names = ("numbers", "standing", "lengths", "epochs", "seconds", "final", "test_folds", "test_ensemble")
    arrays = {name: getattr(curves, name) for name in names}
    return {"format": np.array(FORMAT), **arrays, **{name: np.array(text) for name, text in words.items()}}
