"""What MLflow's runs show of a study: turns events into metrics, params, tags and a status, and writes nothing."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fold_search.storage.records import Event, EventKind, TrialState
from fold_search.storage.trackers.contract import released, without_secrets

LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 8000

STATUSES = {TrialState.COMPLETE: "FINISHED", TrialState.STOPPED: "KILLED", TrialState.FAILED: "FAILED"}


@dataclass(slots=True)
class RunWrites:
    """What some events mean for one MLflow run; `metrics` are (key, value, milliseconds, step)."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    ended_at: float | None = None

    def log(self, values: Mapping[str, float | None], event: Event, *, step: int) -> None:
        """Add those values that are numbers, NaN and infinities included."""
        time = milliseconds(event.at)
        self.metrics += [(_key(name), value, time, step) for name, value in values.items() if value is not None]

    def tag(self, values: Mapping[str, object]) -> None:
        """Set the tags that are not None, cut to the length that MLflow takes."""
        self.tags |= {_key(name): _text(value)[:LONGEST_TAG] for name, value in values.items() if value is not None}

    def set_params(self, values: Mapping[str, object]) -> None:
        """Set params, cut to the length that MLflow takes."""
        self.params |= {_key(name): _text(value)[:LONGEST_PARAM] for name, value in values.items()}


def trial_writes(metric: str, events: Iterable[Event]) -> RunWrites:
    """One trial's events, for its run: params, a curve per fold and metric, mean and spread, how it ended."""
    writes = RunWrites()
    for event in events:
        payload, fold = event.payload, f"fold_{event.fold}"
        match event.kind:
            case EventKind.TRIAL_STARTED:
                writes.set_params(payload["params"])
                writes.tag({"search.state": "running"})
            case EventKind.FOLD_STARTED:
                writes.tag({f"search.{fold}": f"running at {payload['owner']}, attempt {payload['attempt']}"})
            case EventKind.EPOCH:
                scores = {"score": payload["score"], **payload["metrics"]}
                writes.log({f"{fold}/{name}": value for name, value in scores.items()}, event, step=event.epoch or 0)
            case EventKind.FOLD_RELEASED:
                writes.tag({f"search.{fold}": _joined(released(payload), payload["reason"])})
                writes.tag({f"search.{fold}_failure": payload.get("failure")})
            case EventKind.OUT_OF_MEMORY:
                writes.tag({f"search.{fold}_rows_at_once": payload["rows"]})
            case EventKind.TRIAL_AUDITED:
                writes.tag({"search.audited": "yes", "search.chance": payload["chance"]})
            case EventKind.FOLD_FINISHED:
                writes.tag({f"search.{fold}": _joined(payload["state"], payload["reason"])})
                writes.tag({f"search.{fold}_failure": payload.get("failure")})
                writes.log({f"{fold}/best_score": payload["score"]}, event, step=payload["best_epoch"] or 0)
            case EventKind.TRIAL_FINISHED:
                _end_trial(writes, metric, event)
    return writes


def _end_trial(writes: RunWrites, metric: str, event: Event) -> None:
    payload = event.payload
    writes.set_params(payload["params"])
    writes.tag({"search.state": payload["state"], "search.reason": payload["reason"]})
    writes.tag({"search.failure": payload.get("failure"), "search.chance": payload.get("chance")})
    values = {name: payload.get(name) for name in ("std", "pooled", "estimate")} | {"mean": payload["score"]}
    writes.log({f"cv/{metric}_{name}": value for name, value in values.items()}, event, step=0)
    writes.status, writes.ended_at = STATUSES[TrialState(payload["state"])], event.at


def study_writes(metric: str, events: Iterable[Event]) -> RunWrites:
    """A study's events, for its run: every score and the best so far, with the trial's number as the step."""
    writes = RunWrites()
    for event in events:
        payload = event.payload
        match event.kind:
            case EventKind.TRIAL_FINISHED:
                best = payload["best"] or {"trial": None, "score": None}
                scores = {f"trials/{metric}": payload["score"], f"best/{metric}": best["score"]}
                writes.log(scores, event, step=event.trial or 0)
                writes.tag({"search.best_trial": best["trial"]})
            case EventKind.STUDY_FINISHED:
                state = payload.get("state", "finished")
                writes.tag({"search.state": state, "search.reason": payload["reason"]})
                writes.tag({f"search.race.{name}": value for name, value in payload.get("race", {}).items()})
                writes.status, writes.ended_at = state.upper(), event.at
            case EventKind.STUDY_REOPENED:
                writes.tag({"search.state": "running", "search.reason": "reopened"})
                writes.status, writes.ended_at = "RUNNING", None
    return writes


def baseline_writes(metric: str, event: Event) -> RunWrites:
    """A baseline as its run shows it: scores by the names that trials have them by, so that they share columns."""
    writes, payload = RunWrites(), event.payload
    found = {"mean": payload["score"], "std": payload["std"], "pooled": payload["pooled"]}
    writes.log({f"cv/{metric}_{name}": value for name, value in found.items()}, event, step=0)
    folds = {f"fold_{fold}/best_score": score for fold, score in enumerate(payload["fold_scores"])}
    writes.log(folds, event, step=0)
    writes.tag({"search.state": "failed" if payload["score"] is None else "complete"})
    writes.tag({"search.reason": payload["reason"]})
    writes.status, writes.ended_at = "FAILED" if payload["score"] is None else "FINISHED", event.at
    return writes


def milliseconds(seconds: float) -> int:
    """MLflow's times."""
    return round(seconds * 1000)


def _key(name: str) -> str:
    # MLflow refuses other characters, and names that a file system would read as another path.
    parts = re.sub(r"[^\w.\- /]", "_", name).split("/")
    return "/".join(part for part in parts if part.strip("."))[:LONGEST_KEY]


def _text(value: object) -> str:
    return without_secrets(value if isinstance(value, str) else json.dumps(value))


def _joined(state: str, reason: str | None) -> str:
    return f"{state}: {reason}" if reason else state
