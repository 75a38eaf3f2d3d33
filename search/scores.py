"""The ledger's rows as the race's matrix."""

from collections.abc import Sequence

from search.race import Matrix, build_matrix
from storage.ledger import Ledger
from storage.records import FoldRunState


def read_matrix(ledger: Ledger, *, also_done: Sequence[tuple[int, int]] = ()) -> Matrix:
    """Read all scores of a study; `also_done` are (trial, fold) that count as done before the ledger says so."""
    study = ledger.study()
    done = [(run.trial, run.fold) for run in ledger.fold_runs() if run.state is FoldRunState.DONE]
    return build_matrix(
        [(record.trial, record.fold, record.epoch, record.score) for record in ledger.epochs()],
        [*done, *also_done],
        num_folds=study.num_folds,
        maximize=study.direction == "maximize",
    )
