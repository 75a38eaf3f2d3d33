"""The ledger of a study: its trials, fold runs, leases, epochs and events, shared by all processes that work on it."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update

from fold_search.storage import leases
from fold_search.storage.catalog import create_study, find_study, list_studies
from fold_search.storage.changes import Change, changing
from fold_search.storage.database import clock, reading, writing
from fold_search.storage.errors import LeaseLost, StorageError
from fold_search.storage.records import (
    OPEN_STATES,
    BaselineRecord,
    Claim,
    EventKind,
    Failure,
    FoldRunState,
    ScoredEpoch,
    StudyState,
    TrialState,
)
from fold_search.storage.tables import (
    BaselineRow,
    CursorRow,
    EpochRow,
    FoldRunRow,
    MemoryRow,
    RoleRow,
    StudyRow,
    TrialRow,
    UsageRow,
)
from fold_search.storage.view import SECONDS_BY_NOW, LedgerView

__all__ = ["Ledger", "create_study", "find_study", "list_studies"]


class Ledger(LedgerView):
    """One study's ledger; every writing method is one transaction (see storage.changes) and may raise StorageError.

    A write with a claim that is no longer held raises LeaseLost and changes nothing.
    """

    _fence: tuple[str, str] | None = None

    def fenced(self, role: str, owner: str) -> Self:
        """The same ledger for the holder of a role: once somebody else has it, every change raises LeaseLost."""
        ledger = copy.copy(self)
        ledger._fence = role, owner
        return ledger

    def add_trial(self, number: int, params: dict[str, Any]) -> bool:
        """Add a trial and its waiting fold runs; False if it is there already."""
        with self._changing() as change:
            if change.connection.scalar(select(TrialRow.number).where(*self._trial(number))) is not None:
                return False
            trial = {"study_id": self.study_id, "number": number, "state": TrialState.RUNNING}
            change.connection.execute(insert(TrialRow), trial | {"params": params, "told": False})
            study = select(StudyRow.num_folds).where(StudyRow.id == self.study_id)
            num_folds = change.connection.execute(study).scalar_one()
            run = {"study_id": self.study_id, "trial": number, "state": FoldRunState.WAITING}
            run |= {"token": 0, "attempt": 1, "num_epochs": 0, "seconds": 0.0}
            change.connection.execute(insert(FoldRunRow), [run | {"fold": fold} for fold in range(num_folds)])
            change.event(EventKind.TRIAL_STARTED, {"params": params}, trial=number)
            return True

    def claim_run(self, owner: str, *, trial: int, fold: int, lease_seconds: float) -> Claim | None:
        """Lease this fold run. None if it is not waiting or paused any more, or its trial has ended."""
        with self._changing() as change:
            found = leases.claimable(change, trial=trial, fold=fold)
            return None if found is None else leases.lease(change, found, owner=owner, lease_seconds=lease_seconds)

    def renew(self, claim: Claim, *, lease_seconds: float) -> None:
        """Move the lease's end to `lease_seconds` from now."""
        held = update(FoldRunRow).where(
            FoldRunRow.id == claim.fold_run,
            FoldRunRow.token == claim.token,
            FoldRunRow.state == FoldRunState.LEASED,
        )
        # A renewal writes no event. So it need not wait for the counter, which could make it late.
        with writing(self.engine) as connection:
            if connection.execute(held.values(expires_at=clock() + lease_seconds)).rowcount == 0:
                raise leases.lost(claim)

    def record_sample(self, claim: Claim, sample: dict[str, Any]) -> None:
        """Record what resampling made of the fold run's training rows; does nothing if that is recorded already."""
        with self._changing() as change:
            run = leases.held(change, claim)
            if run.sample is None:
                leases.set_values(change, run, sample=sample)
                change.event(EventKind.FOLD_SAMPLED, sample, trial=run.trial, fold=run.fold)

    def record_epoch(self, claim: Claim, score: ScoredEpoch, *, checkpoint: str | None) -> TrialState:
        """Record the next epoch, with the checkpoint that was written after it, if any; return the trial's state.

        Without a new checkpoint the fold run keeps its earlier one. Attempts count from 1 again, since a fold run that
        gets further does not kill its workers. The same call twice records the epoch once. Any other epoch than the
        next one raises LeaseLost: another process is ahead.
        """
        with self._changing() as change:
            run = leases.held(change, claim)
            written = checkpoint or run.checkpoint
            if (score.epoch, written) == (run.num_epochs, run.checkpoint):
                return leases.trial_state(change, run.trial)
            if score.epoch != run.num_epochs + 1:
                raise LeaseLost(
                    f"trial {run.trial}, fold {run.fold}: found epoch {score.epoch}, expected {run.num_epochs + 1}"
                )
            result: dict[str, Any] = {"score": score.score, "standing": score.standing}
            result |= {"metrics": dict(score.metrics), "seconds": score.seconds}
            where = {"trial": run.trial, "fold": run.fold, "epoch": score.epoch}
            change.connection.execute(insert(EpochRow), {"study_id": self.study_id} | where | result)
            seconds = run.seconds + score.seconds
            further = {"num_epochs": score.epoch, "checkpoint": written, "seconds": seconds}
            leases.set_values(change, run, **further, attempt=1)
            change.event(EventKind.EPOCH, result, **where)
            return leases.trial_state(change, run.trial)

    def record_checkpoint(self, claim: Claim, checkpoint: str) -> None:
        """Record a checkpoint that was written after the last recorded epoch, or in the middle of the next one."""
        with self._changing() as change:
            leases.set_values(change, leases.held(change, claim), checkpoint=checkpoint)

    def finish_fold(
        self,
        claim: Claim,
        state: FoldRunState,
        *,
        score: float | None = None,
        best_epoch: int | None = None,
        predictions: str | None = None,
        reason: str | None = None,
        failure: Failure | None = None,
        stop_reason: str | None = None,
        chance: float | None = None,
    ) -> None:
        """End the lease. The fold run is then DONE (score, best epoch, predictions), PAUSED or FAILED (`failure`).

        FAILED ends the trial too, and its fold runs that are waiting or paused; so does DONE with a `stop_reason`.
        `chance` is the race's estimate that the trial becomes the best.
        """
        with self._changing() as change:
            run = leases.held(change, claim)
            leases.state_chance(change, run.trial, chance)
            match state:
                case FoldRunState.DONE:
                    result: dict[str, Any] = {"score": score, "best_epoch": best_epoch, "predictions": predictions}
                    leases.end(change, run, state, reason=reason, **result)
                    if stop_reason is not None:
                        leases.end_trial(change, run.trial, TrialState.STOPPED, reason=stop_reason)
                case FoldRunState.PAUSED:
                    leases.give_back(change, run, state, reason=reason, attempt=run.attempt)
                case FoldRunState.FAILED:
                    leases.end_with_trial(change, run, state, reason=reason, failure=failure)
                case _:
                    raise ValueError(f"found {state}, expected done, paused or failed")

    def stop_trial(
        self, claim: Claim, *, reason: str, failure: Failure | None = None, chance: float | None = None
    ) -> None:
        """Stop this fold run, its trial, and the trial's fold runs that wait or are paused; `chance` as above."""
        with self._changing() as change:
            run = leases.held(change, claim)
            leases.state_chance(change, run.trial, chance)
            leases.end_with_trial(change, run, FoldRunState.STOPPED, reason=reason, failure=failure)

    def audit_trial(self, claim: Claim, *, reason: str, chance: float | None) -> None:
        """Note that the race would have stopped the trial, and lets it run on as a check; does nothing if noted."""
        with self._changing() as change:
            run = leases.held(change, claim)
            audit = update(TrialRow).where(*self._trial(run.trial), TrialRow.audited.is_(False))
            if change.connection.execute(audit.values(audited=True, chance=chance)).rowcount:
                payload = {"reason": reason, "chance": chance}
                change.event(EventKind.TRIAL_AUDITED, payload, trial=run.trial, fold=run.fold)

    def note_rows(self, claim: Claim, *, device: str, shape: str, rows: int) -> None:
        """Note that more than `rows` of a shape do not fit into the device's memory; later trials begin with these."""
        where = {"study_id": self.study_id, "device": device, "shape": shape}
        known = [getattr(MemoryRow, name) == value for name, value in where.items()]
        with self._changing() as change:
            run = leases.held(change, claim)
            found = change.connection.scalar(select(MemoryRow.rows).where(*known))
            if found is None:
                change.connection.execute(insert(MemoryRow), where | {"rows": rows})
            elif rows < found:
                change.connection.execute(update(MemoryRow).where(*known).values(rows=rows))
            payload = {"device": device, "shape": shape, "rows": rows}
            change.event(EventKind.OUT_OF_MEMORY, payload, trial=run.trial, fold=run.fold)

    def forget_checkpoints(self, *, keep: int) -> list[str]:
        """Keep the checkpoints of `keep` paused fold runs, those trained longest; return the names of the others.

        A fold run without its checkpoint has to train its recorded epochs again when it is continued.
        """
        holding = (FoldRunRow.state == FoldRunState.PAUSED, FoldRunRow.checkpoint.is_not(None))
        # Nearly always there are fewer. Looking first makes no writer wait.
        with reading(self.engine) as connection:
            count = select(func.count()).where(FoldRunRow.study_id == self.study_id, *holding)
            if connection.execute(count).scalar_one() <= keep:
                return []
        with self._changing() as change:
            runs = sorted(leases.fold_runs(change, *holding), key=lambda run: run.seconds)
            forgotten = runs[: max(0, len(runs) - keep)]
            for run in forgotten:
                leases.set_values(change, run, checkpoint=None)
        return [run.checkpoint for run in forgotten if run.checkpoint]

    def release(self, claim: Claim, *, reason: str, failure: Failure | None = None) -> None:
        """Give a fold run back: any worker may continue it from its checkpoint. This does not count as an attempt."""
        with self._changing() as change:
            run = leases.held(change, claim)
            waiting, attempt = FoldRunState.WAITING, run.attempt
            leases.give_back(change, run, waiting, reason=reason, attempt=attempt, failure=failure)

    def release_owner(self, owner_prefix: str, *, reason: str, max_attempts: int | None = None) -> int:
        """Take the leases of all owners whose names begin with this; return how many.

        With `max_attempts` each counts as a lost attempt, as in `expire_leases`: for an owner that died.
        """
        with self._changing() as change:
            owned = FoldRunRow.owner.startswith(owner_prefix, autoescape=True)
            runs = leases.fold_runs(change, FoldRunRow.state == FoldRunState.LEASED, owned)
            if max_attempts is not None:
                leases.give_back_lost(change, runs, reason=reason, max_attempts=max_attempts)
                return len(runs)
            for run in runs:
                leases.give_back(change, run, FoldRunState.WAITING, reason=reason, attempt=run.attempt)
            return len(runs)

    def expire_leases(self, *, max_attempts: int) -> int:
        """Take the leases that have run out; return how many. At `max_attempts` the fold run and its trial fail."""
        with self._changing() as change:
            runs = leases.expired(change)
            leases.give_back_lost(change, runs, reason="lease expired", max_attempts=max_attempts)
            return len(runs)

    def finish_trial(
        self,
        number: int,
        state: TrialState,
        *,
        score: float | None = None,
        std: float | None = None,
        pooled: float | None = None,
        estimate: float | None = None,
        reason: str | None = None,
        chance: float | None = None,
    ) -> None:
        """End a trial with its result and stop its open fold runs; does nothing if the trial has ended before.

        A `chance` replaces the race's last estimate for the trial.
        """
        with self._changing() as change:
            columns = (TrialRow.params, TrialRow.reason, TrialRow.failure, TrialRow.chance, TrialRow.audited)
            trial = select(*columns, TrialRow.finished_at).where(*self._trial(number))
            found = change.connection.execute(trial).one_or_none()
            if found is None:
                raise StorageError(f"the study has no trial {number}")
            if found.finished_at is not None:
                return
            reason = reason or found.reason
            result: dict[str, Any] = {"state": state, "score": score, "std": std, "pooled": pooled}
            result |= {"estimate": estimate, "reason": reason, "chance": found.chance if chance is None else chance}
            leases.end_open(change, number, OPEN_STATES, reason=reason)
            finished = update(TrialRow).where(*self._trial(number))
            change.connection.execute(finished.values(**result, finished_at=change.now))
            runs = leases.fold_runs(change, FoldRunRow.trial == number)
            payload = result | {
                "audited": found.audited,
                "failure": found.failure,
                "params": found.params,
                "fold_scores": [run.score for run in runs],
                "best": _best(change),
            }
            change.event(EventKind.TRIAL_FINISHED, payload, trial=number)

    def mark_told(self, number: int) -> None:
        """Note that the sampler knows the trial's result."""
        with self._changing() as change:
            change.connection.execute(update(TrialRow).where(*self._trial(number)).values(told=True))

    def record_baseline(self, found: BaselineRecord) -> None:
        """Record what a simple model reaches; without effect if that was done before."""
        known = select(BaselineRow.name).where(BaselineRow.study_id == self.study_id, BaselineRow.name == found.name)
        with self._changing() as change:
            if change.connection.scalar(known) is not None:
                return
            values = asdict(found)
            change.connection.execute(insert(BaselineRow), {"study_id": self.study_id} | values)
            change.event(EventKind.BASELINE, values)

    def set_cursor(self, tracker: str, sequence: int) -> None:
        """Note that the tracker has all events up to `sequence`."""
        cursor = update(CursorRow).where(CursorRow.study_id == self.study_id, CursorRow.tracker == tracker)
        with self._changing() as change:
            if change.connection.execute(cursor.values(sequence=sequence)).rowcount == 0:
                values = {"study_id": self.study_id, "tracker": tracker, "sequence": sequence}
                change.connection.execute(insert(CursorRow), values)

    def acquire_role(self, role: str, owner: str, *, lease_seconds: float) -> bool:
        """Take or renew a role that is free, has lapsed or is this owner's; False while somebody else holds it."""
        # Under the counter's lock: nobody takes a role over while its holder is writing a fenced change.
        with changing(self.engine, self.study_id) as change:
            holder = change.connection.execute(
                select(RoleRow.owner, RoleRow.expires_at).where(*self._role(role))
            ).one_or_none()
            values = {"owner": owner, "expires_at": change.now + lease_seconds}
            if holder is None:
                change.connection.execute(insert(RoleRow), {"study_id": self.study_id, "role": role} | values)
            elif holder.owner != owner and holder.expires_at >= change.now:
                return False
            else:
                change.connection.execute(update(RoleRow).where(*self._role(role)).values(**values))
            return True

    def release_role(self, role: str, owner: str) -> None:
        """Free the role for the next one that asks; does nothing if somebody else holds it.

        The usage of a worker is counted up to now, unless its role has lapsed: nobody knows when it died.
        """
        live = exists().where(*self._role(role), RoleRow.owner == owner, RoleRow.expires_at >= clock())
        usage = update(UsageRow).where(UsageRow.study_id == self.study_id, UsageRow.role == role, live)
        with writing(self.engine) as connection:
            connection.execute(usage.values(seconds=SECONDS_BY_NOW, at=clock()))
            connection.execute(delete(RoleRow).where(*self._role(role), RoleRow.owner == owner))

    def record_usage(self, role: str, *, device: str, share: float, seconds: float) -> None:
        """Set how long the worker with this role has held its share of a device, in seconds of the share."""
        values = {"device": device, "share": share, "seconds": seconds}
        usage = update(UsageRow).where(UsageRow.study_id == self.study_id, UsageRow.role == role)
        with writing(self.engine) as connection:
            if connection.execute(usage.values(**values, at=clock())).rowcount == 0:
                mine = {"study_id": self.study_id, "role": role}
                connection.execute(insert(UsageRow).values(**mine, **values, at=clock()))

    def update_config(self, config: dict[str, Any]) -> None:
        """Record the parts of the study file that may change while a study goes on: budget, storage, trackers."""
        with writing(self.engine) as connection:
            connection.execute(update(StudyRow).where(StudyRow.id == self.study_id).values(config=config))

    def finish_study(
        self, reason: str, *, state: StudyState = StudyState.FINISHED, race: dict[str, Any] | None = None
    ) -> None:
        """End the study; does nothing if it has ended. `race` is what the race saved and risked, for trackers."""
        payload = {"state": state, "reason": reason, "race": race or {}}
        self._set_study(state, EventKind.STUDY_FINISHED, payload)

    def reopen_study(self) -> None:
        """Let an ended study go on; does nothing if it has not ended."""
        self._set_study(StudyState.RUNNING, EventKind.STUDY_REOPENED, {})

    def _set_study(self, state: StudyState, kind: EventKind, payload: dict[str, Any]) -> None:
        running = StudyRow.state == StudyState.RUNNING
        expected = ~running if state is StudyState.RUNNING else running
        changed = update(StudyRow).where(StudyRow.id == self.study_id, expected)
        with self._changing() as change:
            if change.connection.execute(changed.values(state=state)).rowcount:
                change.event(kind, payload)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with changing(self.engine, self.study_id) as change:
            if self._fence:
                role, owner = self._fence
                if change.connection.scalar(select(RoleRow.owner).where(*self._role(role))) != owner:
                    raise LeaseLost(f"the role {role} is no longer held by {owner}")
            yield change

    def _trial(self, number: int) -> tuple[ColumnElement[bool], ...]:
        return TrialRow.study_id == self.study_id, TrialRow.number == number

    def _role(self, role: str) -> tuple[ColumnElement[bool], ...]:
        return RoleRow.study_id == self.study_id, RoleRow.role == role


def _best(change: Change) -> dict[str, Any] | None:
    """The best of the complete trials by the study's direction; of equal ones the earliest."""
    direction = change.connection.scalar(select(StudyRow.direction).where(StudyRow.id == change.study_id))
    order = TrialRow.score.desc() if direction == "maximize" else TrialRow.score.asc()
    best = (
        select(TrialRow.number, TrialRow.score)
        .where(TrialRow.study_id == change.study_id, TrialRow.state == TrialState.COMPLETE)
        # NaN is larger than every number on both databases.
        .where(TrialRow.score <= math.inf)
        .order_by(order, TrialRow.number)
        .limit(1)
    )
    found = change.connection.execute(best).one_or_none()
    return None if found is None else {"trial": found.number, "score": found.score}
