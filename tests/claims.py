"""How tests claim fold runs when it does not matter which: the first that waits, as a worker claims its choice."""

from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Claim, FoldRunState


def claim_first(ledger: Ledger, owner: str = "worker", *, lease_seconds: float = 60.0) -> Claim | None:
    """Claim the first waiting fold run of a running trial, by trial and fold; None if there is none.

    As others may be faster, the next one is tried until one is had.
    """
    waiting = [run for run in ledger.fold_runs() if run.state is FoldRunState.WAITING]
    for run in sorted(waiting, key=lambda run: (run.trial, run.fold)):
        claim = ledger.claim_run(owner, trial=run.trial, fold=run.fold, lease_seconds=lease_seconds)
        if claim is not None:
            return claim
    return None
