"""What Neptune's runs hold of a study: turns events into fields and series, with names that Neptune users know."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fold_search.storage.catalog import study_key
from fold_search.storage.records import Event, EventKind, StudyRecord, TrialState
from fold_search.storage.trackers.contract import released, without_secrets

Scalar = bool | int | float | str | datetime


@dataclass(slots=True)
class RunWrites:
    """What some events mean for one Neptune run; the points of a series are (step, value, seconds since 1970)."""

    fields: dict[str, Scalar] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    has_ended: bool = False

    def set(self, namespace: str, values: Mapping[str, object]) -> None:
        """Set the fields below a namespace that are not None; a nested dictionary is a namespace in it."""
        for name, value in values.items():
            path = f"{namespace}/{name}"
            if isinstance(value, Mapping):
                self.set(path, value)
            elif value is not None:
                self.fields[path] = _scalar(value)

    def append(self, path: str, value: float | None, event: Event, *, step: int) -> None:
        """Add a point, unless the value is missing, NaN or infinite: Neptune has no such points."""
        if value is not None and math.isfinite(value):
            self.series.setdefault(path, []).append((float(step), float(value), event.at))


def trial_key(study: StudyRecord, number: int) -> str:
    """The trial's name in any Neptune."""
    return f"{study_key(study)}-{number}"


def trial_identity(study: StudyRecord, number: int) -> RunWrites:
    """The fields by which one trial's run is told from all others, whichever process recorded it."""
    writes = RunWrites()
    writes.set("study", {"id": study_key(study), "study_name": study.name})
    writes.set("trial", {"id": trial_key(study, number), "number": number})
    return writes


def trial_writes(metric: str, events: Iterable[Event]) -> RunWrites:
    """One trial's events: parameters, a curve per fold and metric, mean and spread, how it ended."""
    writes = RunWrites()
    for event in events:
        payload, fold = event.payload, f"fold_{event.fold}"
        match event.kind:
            case EventKind.TRIAL_STARTED:
                writes.set("trial", {"parameters": payload["params"], "state": "running"})
            case EventKind.FOLD_STARTED:
                writes.set(fold, {"state": "running", "owner": payload["owner"], "attempt": payload["attempt"]})
            case EventKind.EPOCH:
                for name, value in {"score": payload["score"], **payload["metrics"]}.items():
                    writes.append(f"{fold}/{_curve(name)}", value, event, step=event.epoch or 0)
            case EventKind.FOLD_RELEASED:
                given_back = {"reason": payload["reason"], "failure": payload.get("failure")}
                writes.set(fold, {"state": released(payload), **given_back})
            case EventKind.OUT_OF_MEMORY:
                writes.set(fold, {"rows_at_once": payload["rows"]})
            case EventKind.TRIAL_AUDITED:
                writes.set("trial", {"audited": True, "chance": payload["chance"]})
            case EventKind.FOLD_FINISHED:
                writes.set(fold, payload)
            case EventKind.TRIAL_FINISHED:
                _end_trial(writes, metric, payload)
    return writes


def _end_trial(writes: RunWrites, metric: str, payload: Mapping[str, object]) -> None:
    names = ("score", "estimate", "chance", "state", "reason", "failure")
    writes.set("trial", {"parameters": payload["params"], **{name: payload.get(name) for name in names}})
    spread = {f"mean_{metric}": payload["score"], f"std_{metric}": payload["std"]}
    spread |= {f"pooled_{metric}": payload.get("pooled")}
    writes.set("results/metrics/validation", spread)
    writes.set("sys", {"failed": payload["state"] == TrialState.FAILED})
    writes.has_ended = True


def study_identity(study: StudyRecord) -> RunWrites:
    """What the study is, and the fields by which its run is told from all others."""
    writes = RunWrites()
    described = {"metric": study.metric, "direction": study.direction, "num_folds": study.num_folds}
    described |= {"config": study.config, "fingerprints": study.fingerprints, "provenance": study.provenance}
    writes.set("study", {"id": study_key(study), "study_name": study.name, **described})
    return writes


def study_writes(events: Iterable[Event]) -> RunWrites:
    """A study's events: each trial's parameters, value and state, the best so far, whether it has ended."""
    writes = RunWrites()
    for event in events:
        payload, trial = event.payload, f"trials/trials/{event.trial}"
        match event.kind:
            case EventKind.STUDY_CREATED | EventKind.STUDY_REOPENED:
                writes.set("study", {"state": "running"})
            case EventKind.TRIAL_STARTED:
                writes.set(trial, {"params": payload["params"], "state": "running", "datetime_start": _time(event)})
            case EventKind.TRIAL_FINISHED:
                writes.set(trial, {"params": payload["params"], "state": payload["state"], "value": payload["score"]})
                writes.set(trial, {"datetime_complete": _time(event)})
                writes.append("trials/values", payload["score"], event, step=event.trial or 0)
                _note_best(writes, event)
            case EventKind.BASELINE:
                known = ("label", "score", "std", "pooled", "fold_scores", "reason")
                writes.set(f"baselines/{payload['name']}", {name: payload[name] for name in known})
            case EventKind.STUDY_FINISHED:
                ending = {"state": payload.get("state", "finished"), "reason": payload["reason"]}
                writes.set("study", {**ending, "race": payload.get("race", {})})
    return writes


def _note_best(writes: RunWrites, event: Event) -> None:
    best = event.payload["best"]
    if best is None:
        return
    writes.set("best", {"value": best["score"], "trial": best["trial"]})
    if best["trial"] == event.trial:
        # One text. As single fields, params that only an earlier best trial had would stay.
        writes.set("best", {"params": json.dumps(event.payload["params"])})


def _curve(name: str) -> str:
    if name.startswith("train_"):
        return f"training/epoch/{name.removeprefix('train_')}"
    if name.startswith("val_"):
        return f"validation/epoch/{name.removeprefix('val_')}"
    return f"validation/epoch/{name}" if name == "score" else f"training/epoch/{name}"


def _time(event: Event) -> datetime:
    return datetime.fromtimestamp(event.at, UTC)


def _scalar(value: object) -> Scalar:
    """The value, as JSON where Neptune refuses it: lists, NaN and infinities, integers of more than 32 bits."""
    match value:
        case str():
            return without_secrets(value)
        case bool() | datetime():
            return value
        case int() if abs(value) < 2**31:
            return value
        case float() if math.isfinite(value):
            return value
    return without_secrets(json.dumps(value))
