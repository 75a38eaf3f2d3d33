"""Which artifacts of ended trials a study keeps: the trained weights that `artifacts.keep` names, no checkpoints."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from search.config import ArtifactsConfig
from search.presence import present_runs
from storage.artifacts import Artifacts
from storage.errors import StorageError
from storage.ledger import Ledger
from storage.records import Claim, Direction, FoldRun, FoldRunState, TrialRecord, TrialState
from storage.view import LedgerView

log = logging.getLogger(__name__)

PREDICTIONS = "predictions-"
WEIGHTS = "model-"
CHECKPOINT = "checkpoint-"
_UNATTENDED = (FoldRunState.WAITING, FoldRunState.PAUSED)


def fold_folder(ledger: LedgerView, run: Claim | FoldRun) -> str:
    """The folder of a fold run's artifacts."""
    return f"{_trial_folder(ledger, run.trial)}/fold-{run.fold}"


def weights_name(predictions: str) -> str:
    """The name of the weights that made a fold run's predictions, beside these."""
    folder, _, file = predictions.rpartition("/")
    token = file.removeprefix(PREDICTIONS).partition(".")[0]
    return f"{folder}/{WEIGHTS}{token}.safetensors"


def misplaced(ledger: LedgerView, artifacts: Artifacts) -> str | None:
    """What to say where nothing is that the ledger knows of: most likely the study was run in another folder."""
    runs = present_runs(ledger)
    recorded = [run.predictions for run in runs if run.predictions]
    # Those of a fold run that is being trained come and go.
    recorded += [run.checkpoint for run in runs if run.checkpoint and run.state in _UNATTENDED]
    if not recorded or any(artifacts.exists(name) for name in recorded):
        return None
    return (
        f"storage.artifacts: found nothing of study {ledger.study().name!r} in {artifacts.place}, expected the folder "
        "or URL that it was run with; go to where it was run, or say where it is: --set storage.artifacts=PLACE"
    )


def trials_kept(trials: Sequence[TrialRecord], settings: ArtifactsConfig, direction: Direction) -> set[int]:
    """Return the trials whose weights stay: open ones, and of the complete ones those that `settings` name."""
    kept = {trial.number for trial in trials if not trial.told}
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if settings.keep == "all":
        return kept | {trial.number for trial in complete}
    sign = 1 if direction == "maximize" else -1
    ranked = sorted(
        (-sign * trial.score, trial.number)
        for trial in complete
        if trial.score is not None and math.isfinite(trial.score)
    )
    most = {"best": 1, "top": settings.top, "none": 0}[settings.keep]
    return kept | {number for _, number in ranked[:most]}


@dataclass(slots=True, kw_only=True)
class Keeping:
    """Removes the checkpoints of ended trials, and the weights of those that are not to be kept.

    Several processes may do so at once: scores never change, so what falls behind once stays behind, and what an open
    trial has stored is left alone.
    """

    ledger: Ledger
    artifacts: Artifacts
    settings: ArtifactsConfig
    _without: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def prune(self) -> None:
        """Remove what is due; a place that cannot be reached is a warning, and tried again the next time."""
        trials = self.ledger.trials()
        kept = trials_kept(trials, self.settings, self.ledger.study().direction)
        for number in (trial.number for trial in trials if trial.told):
            unwanted = (CHECKPOINT,) if number in kept else (CHECKPOINT, WEIGHTS)
            if self._without.get(number) == unwanted:
                continue
            try:
                self._remove(number, unwanted)
            except StorageError as error:
                log.warning("artifacts of trial %d are not removed: %s", number, error)
                return
            self._without[number] = unwanted

    def _remove(self, trial: int, unwanted: tuple[str, ...]) -> None:
        for name in self.artifacts.names(_trial_folder(self.ledger, trial)):
            if name.rpartition("/")[2].startswith(unwanted):
                self.artifacts.delete(name)


def _trial_folder(ledger: LedgerView, trial: int) -> str:
    return f"{ledger.folder}/trial-{trial}"
