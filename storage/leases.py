"""What happens to fold runs inside a change: leased, given back, ended.

::

    WAITING, PAUSED  -- claimed -->  LEASED  -- trained, stopped, failed -->  DONE, STOPPED, FAILED
                     <- released, expired, paused --

Only the database's clock counts, since the clocks of the machines differ. A lease that has run out is not lost yet: its
owner keeps it, and may renew it, until `expire_leases` takes it away. So a worker whose database was away for a while
usually goes on where it was.

Each claim has a token that is larger than all before it, and every write shows it. A worker that slept past its lease
and wakes up shows an old token, and its write is refused (LeaseLost).
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, select, update

from fold_search.storage.changes import Change
from fold_search.storage.errors import LeaseLost
from fold_search.storage.records import Claim, EventKind, Failure, FoldRun, FoldRunState, TrialState
from fold_search.storage.tables import FoldRunRow, TrialRow

COLUMNS = [column for column in FoldRunRow.__table__.columns if column.name != "study_id"]


def fold_runs(change: Change, *conditions: ColumnElement[bool]) -> list[FoldRun]:
    """The study's fold runs that meet the conditions, by trial and fold."""
    return _fold_runs(change, _select(change, *conditions))


def expired(change: Change) -> list[FoldRun]:
    """The fold runs whose lease has run out, except those that are being renewed at this moment."""
    overdue = _select(change, FoldRunRow.state == FoldRunState.LEASED, FoldRunRow.expires_at < change.now)
    # A renewal does not lock the study's counter, so it may hold such a row now. Then its worker lives, and keeps it.
    return _fold_runs(change, overdue.with_for_update(skip_locked=True))


def _select(change: Change, *conditions: ColumnElement[bool]) -> Select[Any]:
    runs = select(*COLUMNS).where(FoldRunRow.study_id == change.study_id, *conditions)
    return runs.order_by(FoldRunRow.trial, FoldRunRow.fold)


def _fold_runs(change: Change, statement: Select[Any]) -> list[FoldRun]:
    return [FoldRun(**row) for row in change.connection.execute(statement).mappings()]


def claimable(change: Change, *, trial: int, fold: int) -> RowMapping | None:
    """The fold run and its trial's params. None unless it is waiting or paused, and its trial is running."""
    free = FoldRunRow.state.in_((FoldRunState.WAITING, FoldRunState.PAUSED))
    chosen = (
        select(*COLUMNS, TrialRow.params)
        .join(TrialRow, (TrialRow.study_id == FoldRunRow.study_id) & (TrialRow.number == FoldRunRow.trial))
        .where(FoldRunRow.study_id == change.study_id, FoldRunRow.trial == trial, FoldRunRow.fold == fold)
        .where(TrialRow.state == TrialState.RUNNING, free)
    )
    return change.connection.execute(chosen).mappings().one_or_none()


def lease(change: Change, found: RowMapping, *, owner: str, lease_seconds: float) -> Claim:
    """Lease what `claimable` found to the owner.

    The token is the event's sequence: no other claim of the study has it, and every later one has a larger one.
    """
    values = dict(found)
    params = values.pop("params")
    run = FoldRun(**values)
    payload = {"owner": owner, "attempt": run.attempt, "num_epochs": run.num_epochs}
    token = change.event(EventKind.FOLD_STARTED, payload, trial=run.trial, fold=run.fold)
    expires_at = change.now + lease_seconds
    leased = {"state": FoldRunState.LEASED, "owner": owner, "token": token, "expires_at": expires_at}
    set_values(change, run, **leased, reason=None, failure=None)
    return Claim(
        fold_run=run.id,
        trial=run.trial,
        fold=run.fold,
        token=token,
        attempt=run.attempt,
        owner=owner,
        params=params,
        checkpoint=run.checkpoint,
        num_epochs=run.num_epochs,
    )


def held(change: Change, claim: Claim) -> FoldRun:
    """The claimed fold run; raises LeaseLost if somebody has taken the lease away."""
    [run] = fold_runs(change, FoldRunRow.id == claim.fold_run)
    if run.state is not FoldRunState.LEASED or run.token != claim.token:
        raise lost(claim)
    return run


def lost(claim: Claim) -> LeaseLost:
    """What to raise when a claim is no longer held."""
    return LeaseLost(f"trial {claim.trial}, fold {claim.fold}: the lease of {claim.owner} was lost")


def set_values(change: Change, run: FoldRun, **values: Any) -> None:
    """Update one fold run's row."""
    change.connection.execute(update(FoldRunRow).where(FoldRunRow.id == run.id).values(**values))


def end(
    change: Change,
    run: FoldRun,
    state: FoldRunState,
    *,
    reason: str | None,
    failure: Failure | None = None,
    **result: Any,
) -> None:
    """Bring a fold run into a state it never leaves; the only place that writes fold_finished."""
    set_values(change, run, state=state, expires_at=None, reason=reason, failure=failure, **result)
    payload = {
        "state": state,
        "score": result.get("score"),
        "best_epoch": result.get("best_epoch"),
        "reason": reason,
        "failure": failure,
        "seconds": run.seconds,
    }
    change.event(EventKind.FOLD_FINISHED, payload, trial=run.trial, fold=run.fold)


def give_back(
    change: Change,
    run: FoldRun,
    state: FoldRunState,
    *,
    reason: str | None,
    attempt: int,
    failure: Failure | None = None,
) -> None:
    """Take a lease away and leave the fold run WAITING or PAUSED; STOPPED if its trial has ended meanwhile."""
    if trial_state(change, run.trial) is not TrialState.RUNNING:
        end(change, run, FoldRunState.STOPPED, reason=reason, failure=failure)
        return
    free = {"state": state, "owner": None, "expires_at": None}
    set_values(change, run, **free, reason=reason, failure=failure, attempt=attempt)
    payload = {"state": state, "reason": reason, "failure": failure, "owner": run.owner}
    change.event(EventKind.FOLD_RELEASED, payload, trial=run.trial, fold=run.fold)


def give_back_lost(change: Change, runs: Iterable[FoldRun], *, reason: str, max_attempts: int) -> None:
    """Count a lost attempt for each of the runs. One that has none left fails, and its trial with it."""
    failure = Failure.LOST_WORKER
    reason = f"{failure.words}: {reason}"
    for run in runs:
        if run.attempt < max_attempts:
            waiting, attempt = FoldRunState.WAITING, run.attempt + 1
            give_back(change, run, waiting, reason=reason, attempt=attempt, failure=failure)
        else:
            often = f"{reason}, {run.attempt} times"
            end_with_trial(change, run, FoldRunState.FAILED, reason=often, failure=failure)


def end_with_trial(
    change: Change, run: FoldRun, state: FoldRunState, *, reason: str | None, failure: Failure | None = None
) -> None:
    """End a fold run as STOPPED or FAILED, and its trial with it."""
    end(change, run, state, reason=reason, failure=failure)
    end_trial(change, run.trial, TrialState(state), reason=reason, failure=failure)


def end_trial(
    change: Change, number: int, state: TrialState, *, reason: str | None, failure: Failure | None = None
) -> None:
    """Decide how a trial ends, unless that is decided already, and stop its fold runs that wait or are paused."""
    trial = update(TrialRow).where(
        TrialRow.study_id == change.study_id, TrialRow.number == number, TrialRow.state == TrialState.RUNNING
    )
    change.connection.execute(trial.values(state=state, reason=reason, failure=failure))
    end_open(change, number, {FoldRunState.WAITING, FoldRunState.PAUSED}, reason=reason)


def end_open(change: Change, trial: int, states: Iterable[FoldRunState], *, reason: str | None) -> None:
    """Stop the trial's fold runs that are in one of the states."""
    for run in fold_runs(change, FoldRunRow.trial == trial, FoldRunRow.state.in_(states)):
        end(change, run, FoldRunState.STOPPED, reason=reason)


def state_chance(change: Change, number: int, chance: float | None) -> None:
    """Record the race's chance for a trial, if it has one. An audited trial keeps the chance it was audited at."""
    if chance is not None:
        trial = update(TrialRow).where(TrialRow.study_id == change.study_id, TrialRow.number == number)
        change.connection.execute(trial.where(TrialRow.audited.is_(False)).values(chance=chance))


def trial_state(change: Change, number: int) -> TrialState:
    """The trial's state by now."""
    found = select(TrialRow.state).where(TrialRow.study_id == change.study_id, TrialRow.number == number)
    return change.connection.execute(found).scalar_one()
