"""The ledger's rows as the race's matrix."""

from collections.abc import Sequence

from search.race import Matrix, build_matrix
from storage.ledger import Ledger


def read_matrix(ledger: Ledger, *, also_done: Sequence[tuple[int, int]] = ()) -> Matrix:
    """Read all scores of a study; `also_done` are (trial, fold) that count as done before the ledger says so."""
    study = ledger.study()
    return build_matrix(
        ledger.standings(),
        [*ledger.done(), *also_done],
        num_folds=study.num_folds,
        maximize=study.direction == "maximize",
    )
