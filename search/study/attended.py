"""Whether a process works on a study: each holds a role in the ledger, and a worker the lease of its fold run."""

from dataclasses import replace

from fold_search.storage.records import FoldRun, FoldRunState
from fold_search.storage.view import LedgerView

COORDINATOR_ROLE = "coordinator"
WORKER_ROLE = "worker/"
RUN_ROLE = "run/"


def is_attended(ledger: LedgerView) -> bool:
    """Whether any process, on any machine, works on the study by its role or by a fold run's lease."""
    roles = (COORDINATOR_ROLE, WORKER_ROLE, RUN_ROLE)
    return any(map(ledger.live_roles, roles)) or bool(ledger.live_leases())


def present_runs(ledger: LedgerView) -> list[FoldRun]:
    """All fold runs by trial and fold. One whose lease has lapsed counts as waiting, because its worker has died."""
    runs, live = ledger.fold_runs(), ledger.live_leases()
    return [
        replace(run, state=FoldRunState.WAITING) if run.state is FoldRunState.LEASED and run.id not in live else run
        for run in runs
    ]
