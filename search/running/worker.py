"""The worker: claim a fold run, train it, record every epoch, repeat. It knows the ledger and nothing of Optuna."""

import hashlib
import io
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fold_search.objectives.errors import Diverged, TrialError
from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.training.leaks import LeakProof
from fold_search.search.errors import USER_ERRORS, failure_of
from fold_search.search.racing.haste import RECONSIDER_SECONDS
from fold_search.search.racing.live import LiveRace
from fold_search.search.racing.verdicts import Action, Decision, Verdict
from fold_search.search.running.checkpoints import Checkpoints, Pace
from fold_search.search.running.presence import STOPPED, Held, Presence
from fold_search.search.study.stored import PREDICTIONS, fold_folder, weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import LeaseLost, StorageError, StorageUnavailable, reason_of
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import Claim, Failure, FoldRunState, StudyState, TrialState

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.2
MAX_OUTAGES = 3  # in a row, each as long as the database's patience; a broken connection is one of no length


class Training(Protocol):
    """One fold of one trial while it is trained; `objectives.training.fold.FoldTraining` is the real one."""

    sample: LeakProof

    @property
    def epoch(self) -> int:
        """The last epoch that is trained to its end; 0 before the first."""

    @property
    def within_epoch(self) -> bool:
        """Whether an epoch was left in its middle."""

    @property
    def finished(self) -> bool:
        """Whether no epoch remains."""

    @property
    def best(self) -> EpochScore:
        """The best epoch so far."""

    @property
    def best_predictions(self) -> NDArray[np.float32]:
        """Predictions of the chosen epoch, (validation rows, outputs)."""

    @property
    def best_weights(self) -> bytes:
        """The trained weights at the best epoch."""

    def epochs(self, stop: Callable[[], bool]) -> Iterator[EpochScore]:
        """Train the remaining epochs, until `stop` says so: also in the middle of one. Raises TrialError."""

    def save(self) -> bytes:
        """Return a checkpoint of the state after the last step."""

    def restore(self, checkpoint: bytes) -> None:
        """Go back to where `save` was called; raises TrialError, and changes nothing, if the checkpoint is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Trains the fold runs of one study until it is finished or `stop` is set.

    `stop` is checked before every step. The fold run is then given back with its checkpoint, and nothing is lost.
    """

    ledger: Ledger
    artifacts: Artifacts
    objective: Callable[[Claim], Training]
    race: LiveRace
    owner: str
    stop: threading.Event
    keeps_weights: bool = True
    diverged: Literal["worst", "failed"] = "worst"
    paused_checkpoints: int = 100
    lease_seconds: float = LEASE_SECONDS
    held: Held = field(default_factory=Held)
    pace: Pace = field(default_factory=Pace)
    preparing: threading.Event = field(default_factory=threading.Event)  # set while no epoch can begin yet

    def work(self) -> None:
        """Claim and train until the study is finished or a stop is asked for."""
        seen, outages, look_again = None, 0, 0.0
        with Presence(self.ledger, self.owner, lease_seconds=self.lease_seconds, held=self.held) as presence:
            while not self.stop.is_set():
                try:
                    sequence = self.ledger.last_sequence()
                    if sequence == seen and time.monotonic() < look_again:
                        self.stop.wait(POLL_SECONDS)  # nothing has changed since there was nothing to do
                        continue
                    if self.ledger.study().state is not StudyState.RUNNING:
                        return
                    claim = self.claim()
                except StorageUnavailable as error:
                    outages += 1
                    if outages == MAX_OUTAGES:
                        raise
                    log.warning("%s; trying again", error)
                    self.stop.wait(POLL_SECONDS)
                    continue
                seen, outages = sequence, 0
                look_again = time.monotonic() + RECONSIDER_SECONDS if self.race.haste else math.inf
                if claim is not None:
                    presence.claim = claim  # from now on its lease is renewed as well
                    self.train(claim)
                    presence.claim = None

    def claim(self) -> Claim | None:
        """Claim what the race chooses; None if there is nothing to train now, or another worker was faster."""
        choice = self.race.next_fold_run()
        if choice.action is not Action.RUN:
            return None
        return self.ledger.claim_run(self.owner, trial=choice.trial, fold=choice.fold, lease_seconds=self.lease_seconds)

    def train(self, claim: Claim) -> None:
        """Train one fold run to its end, a verdict or a stop. An error in it ends only its trial."""
        try:
            self._train(claim)
        except LeaseLost as error:
            log.warning("trial %d fold %d: another worker has taken it over: %s", claim.trial, claim.fold, error)
        except TrialError as error:
            self._fail(claim, error)
        except StorageUnavailable as error:
            log.warning("trial %d fold %d will be continued from its checkpoint: %s", claim.trial, claim.fold, error)
            # Else it would wait for its lease to lapse, and count as lost.
            with suppress(StorageUnavailable):
                self._give_back(claim, error)
        except USER_ERRORS as error:
            self._give_back(claim, error)
            raise
        except OSError as error:
            # A cache on a full disk, a file that went away: this machine cannot train, whatever the configuration.
            reason = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
            explained = StorageError(reason)
            self._give_back(claim, explained)
            raise explained from error
        except Exception as error:
            log.exception("trial %d fold %d failed", claim.trial, claim.fold)
            self._fail(claim, error)

    def _train(self, claim: Claim) -> None:
        self.preparing.set()
        try:
            training = self.objective(claim)
        finally:
            self.preparing.clear()
        self._record_sample(training.sample, claim)
        checkpoints = Checkpoints(ledger=self.ledger, artifacts=self.artifacts, claim=claim, pace=self.pace)
        checkpoints.restore(training)
        for score in training.epochs(self.stop.is_set):
            self.pace.trained += score.seconds
            if score.epoch <= claim.num_epochs:
                continue  # recorded already, and no checkpoint holds it; the same seed gave the same score
            checkpoint = checkpoints.save_when_due(training, epoch=score.epoch)
            trial_state = self._record(claim, score, checkpoint)
            checkpoints.keep(2)
            if not math.isfinite(score.standing):
                raise Diverged("the score is not finite")
            last = training.finished
            judged = self._judge(claim, done=False) if trial_state is TrialState.RUNNING else _ENDED
            if judged.decision is Decision.STOP and not last:
                self.ledger.stop_trial(claim, reason=judged.reason, chance=judged.chance)
                checkpoints.keep(0)
                return
            if judged.decision is Decision.PAUSE and not last:
                # The checkpoint stays: the fold run is continued from it.
                checkpoints.save_last(training, epoch=score.epoch)
                self.ledger.finish_fold(claim, FoldRunState.PAUSED, reason=judged.reason, chance=judged.chance)
                checkpoints.keep(1)
                checkpoints.bound_paused(self.paused_checkpoints)
                return
        if not training.finished:
            checkpoints.save_left(training)
            self.ledger.release(claim, reason=STOPPED)
            return
        self._finish(training, claim)
        checkpoints.keep(0)

    def _record(self, claim: Claim, score: EpochScore, checkpoint: str | None) -> TrialState:
        try:
            return self.ledger.record_epoch(claim, score, checkpoint=checkpoint)
        except StorageUnavailable:
            # The connection broke; the ledger knows an epoch that it has recorded for this claim already.
            return self.ledger.record_epoch(claim, score, checkpoint=checkpoint)

    def _record_sample(self, sample: LeakProof, claim: Claim) -> None:
        """Store which rows are trained on and validated; equal sets are stored once per study."""
        proof = sample.to_bytes()
        name = f"{self.ledger.folder}/samples/{hashlib.sha256(proof).hexdigest()[:32]}.npz"
        if not self.artifacts.exists(name):
            self.artifacts.put(name, proof)
        self.ledger.record_sample(claim, {**sample.summary(), "proof": name})

    def _finish(self, training: Training, claim: Claim) -> None:
        """Record the fold as done and, in the same transaction, the race's verdict on its trial."""
        predictions = f"{fold_folder(self.ledger, claim)}/{PREDICTIONS}{claim.token}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, predictions=training.best_predictions)  # a zip file: it has checksums
        self.artifacts.put(predictions, buffer.getvalue())
        weights = weights_name(predictions)
        if self.keeps_weights:
            self.artifacts.put(weights, training.best_weights)
        judged = self._judge(claim, done=True)
        try:
            self.ledger.finish_fold(
                claim,
                FoldRunState.DONE,
                score=training.best.score,
                best_epoch=training.best.epoch,
                predictions=predictions,
                stop_reason=judged.reason if judged.decision is Decision.STOP else None,
                chance=None if judged.decision is Decision.CONTINUE else judged.chance,
            )
        except LeaseLost:
            self.artifacts.delete(weights)
            raise

    def _judge(self, claim: Claim, *, done: bool) -> Verdict:
        judged = self.race.verdict(trial=claim.trial, fold=claim.fold, done=done)
        if judged.audited and not self.race.is_audited(claim.trial):
            self.ledger.audit_trial(claim, reason=judged.reason, chance=judged.chance)
        return judged

    def _give_back(self, claim: Claim, error: Exception) -> None:
        """Give the fold run back: the error is not its trial's fault, and the next worker continues it."""
        failure, reason = failure_of(error)
        try:
            self.ledger.release(claim, reason=reason, failure=failure)
        except LeaseLost as error:
            log.warning("trial %d fold %d: another worker has taken it over: %s", claim.trial, claim.fold, error)

    def _fail(self, claim: Claim, error: Exception) -> None:
        """End the trial. A diverged trial counts as stopped, unless the study file says otherwise."""
        failure, reason = failure_of(error)
        try:
            if failure is Failure.DIVERGED and self.diverged == "worst":
                self.ledger.stop_trial(claim, reason=reason, failure=failure)
            else:
                self.ledger.finish_fold(claim, FoldRunState.FAILED, reason=reason, failure=failure)
        except LeaseLost as error:
            log.warning("trial %d fold %d: another worker has taken it over: %s", claim.trial, claim.fold, error)


_ENDED = Verdict(decision=Decision.STOP, reason="the trial has ended")
