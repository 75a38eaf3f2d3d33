"""The ledger's rows as the race's matrix."""

from collections.abc import Sequence

from search.racing.matrix import Matrix, RunState, build_matrix
from storage.ledger import Ledger
from storage.records import FoldRunState

STATES = {
    FoldRunState.WAITING: RunState.WAITING,
    FoldRunState.LEASED: RunState.RUNNING,
    FoldRunState.PAUSED: RunState.PAUSED,
    FoldRunState.DONE: RunState.DONE,
    FoldRunState.STOPPED: RunState.ENDED,
    FoldRunState.FAILED: RunState.ENDED,
}


def read_matrix(ledger: Ledger, *, also_done: Sequence[tuple[int, int]] = ()) -> Matrix:
    """Read all scores of a study; `also_done` are (trial, fold) that count as done before the ledger says so."""
    study = ledger.study()
    num_epochs = study.config.get("training", {}).get("epochs", 1)
    runs = [(run.trial, run.fold, STATES[run.state]) for run in ledger.fold_runs()]
    return build_matrix(
        [(trial.number, trial.params.get("epochs", num_epochs)) for trial in ledger.trials()],
        [*runs, *((trial, fold, RunState.DONE) for trial, fold in also_done)],
        ledger.standings(),
        num_folds=study.num_folds,
        maximize=study.direction == "maximize",
    )
