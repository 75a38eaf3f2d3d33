"""Which artifacts of ended trials a study keeps: the trained weights that `artifacts.keep` names, no checkpoints."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fold_search.search.study.sections import ArtifactsConfig
from fold_search.search.study.stored import CHECKPOINT, WEIGHTS, trial_folder
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Direction, TrialRecord, TrialState

log = logging.getLogger(__name__)


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
class Pruning:
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
        for name in self.artifacts.names(trial_folder(self.ledger, trial)):
            if name.rpartition("/")[2].startswith(unwanted):
                self.artifacts.delete(name)
