"""How the artifacts of a study are named, and a line if they are missing."""

from fold_search.search.study.attended import present_runs
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.records import Claim, FoldRun, FoldRunState
from fold_search.storage.view import LedgerView

PREDICTIONS = "predictions-"
WEIGHTS = "model-"
CHECKPOINT = "checkpoint-"
_UNATTENDED = (FoldRunState.WAITING, FoldRunState.PAUSED)


def trial_folder(ledger: LedgerView, trial: int) -> str:
    """The folder of a trial's artifacts."""
    return f"{ledger.folder}/trial-{trial}"


def fold_folder(ledger: LedgerView, run: Claim | FoldRun) -> str:
    """The folder of a fold run's artifacts."""
    return f"{trial_folder(ledger, run.trial)}/fold-{run.fold}"


def weights_name(predictions: str) -> str:
    """The name of the weights that made a fold run's predictions, beside these."""
    folder, _, file = predictions.rpartition("/")
    token = file.removeprefix(PREDICTIONS).partition(".")[0]
    return f"{folder}/{WEIGHTS}{token}.safetensors"


def misplaced(ledger: LedgerView, artifacts: Artifacts) -> str | None:
    """A line if none of the files that the ledger names exists: most likely the study was run in another folder."""
    runs = present_runs(ledger)
    recorded = [run.predictions for run in runs if run.predictions]
    # Those of a fold run that is being trained come and go.
    recorded += [run.checkpoint for run in runs if run.checkpoint and run.state in _UNATTENDED]
    if not recorded or any(artifacts.exists(name) for name in recorded):
        return None
    return (
        f"storage.artifacts: found no files of study {ledger.study().name!r} in {artifacts.place}, expected the folder "
        "or URL that it was run with; change to the directory where it was run, or use --set storage.artifacts=PLACE"
    )
