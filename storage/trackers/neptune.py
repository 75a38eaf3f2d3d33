"""The Neptune tracker: a run per study and one per trial, in files for later or on a self-hosted server.

The hosted service of neptune.ai is closed. Offline, each process that continues a run writes a folder of its own;
`storage.trackers.neptune_offline` reads them as one run. Online, publishing the same events again changes nothing: a
run is found by its custom id, a field is overwritten with the same value, and a step that a series has is left out.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fold_search.storage.catalog import study_key
from fold_search.storage.errors import StorageError
from fold_search.storage.records import Event, StudyRecord
from fold_search.storage.trackers.contract import TrackerUnavailable, by_trial, one_line
from fold_search.storage.trackers.neptune_runs import (
    RunWrites,
    study_identity,
    study_writes,
    trial_identity,
    trial_key,
    trial_writes,
)

if TYPE_CHECKING:
    from neptune import Run

# Neptune reads it at its import; the default, 60 s, is for every single request.
SETTINGS = {"NEPTUNE_RETRIES_TIMEOUT": "3"}
PROBE_SECONDS = 2.0
STOP_SECONDS = 2.0
LOUD_LOGGERS = ("neptune", "neptune_no_prefix")
NOTHING_ELSE: dict[str, Any] = {
    "source_files": [],
    "git_ref": False,
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_hardware_metrics": False,
    "capture_traceback": False,
}


class NeptuneTracker:
    """Publishes to files below `directory`, or to a server when there are a token for it and a project.

    Raises StorageError if the client is not installed or the token cannot be read.
    """

    name = "neptune"

    def __init__(self, directory: Path, *, api_token: str | None = None, project: str | None = None) -> None:
        _require_client()
        address = _address(api_token) if api_token else None
        offline = _reason_for_offline(address, project)
        self.notice = f"{offline}; recording offline in {directory}" if offline else ""
        online = address is not None and not offline
        self._address = address if online else None
        self._token = api_token if online else None
        self._project = project
        self._directory = directory.resolve()
        self._session: _Session | None = None

    def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
        """As storage.trackers.contract.Tracker says."""
        try:
            if self._address:
                _probe(self._address)
            if self._session is None or study_key(self._session.study) != study_key(study):
                self.close()
                self._session = _Session(study, self._init_run)
            self._session.publish(events)
        except Exception as error:  # those of requests, bravado, oauthlib and more come through Neptune's client
            self.close()
            reason = one_line(error).replace(self._token or "***", "***")
            raise TrackerUnavailable(f"{self._address or self._directory}: {reason}") from None

    def close(self) -> None:
        """As storage.trackers.contract.Tracker says."""
        session, self._session = self._session, None
        if session:
            session.close()

    def _init_run(self, study: StudyRecord, *, name: str, custom_id: str, tag: str) -> Run:
        neptune = import_client()
        # Without its threads: they print errors on the terminal, and one of them lets the server end this process.
        run_class = type("Run", (neptune.Run,), {"_get_background_jobs": lambda run: []})
        server = {"mode": "sync", "api_token": self._token, "project": self._project}
        place = server if self._token else {"mode": "offline"}
        with _data_directory(self._directory):
            run: Run = run_class(name=name, custom_run_id=custom_id, tags=[tag], **place, **NOTHING_ELSE)
        run["sys/group_tags"].add([study.name])
        return run


class _Session:
    """One study in one Neptune: the runs that this process holds open."""

    def __init__(self, study: StudyRecord, init_run: Callable[..., Run]) -> None:
        self.study = study
        self._init_run = init_run
        self._runs: dict[int | None, _OpenRun] = {}

    def publish(self, events: Sequence[Event]) -> None:
        study_run = self._study_run()
        for trial, own in by_trial(events).items():
            writes = trial_writes(self.study.metric, own)
            self._trial_run(trial).write(writes)
            if writes.has_ended:
                self._runs.pop(trial).stop()
        study_run.write(study_writes(events))

    def close(self) -> None:
        while self._runs:
            self._runs.popitem()[1].stop()

    def _study_run(self) -> _OpenRun:
        if None not in self._runs:
            run = self._init_run(self.study, name=self.study.name, custom_id=study_key(self.study), tag="study")
            self._runs[None] = _OpenRun(run)
            self._runs[None].write(study_identity(self.study))
        return self._runs[None]

    def _trial_run(self, number: int) -> _OpenRun:
        if number not in self._runs:
            custom_id = trial_key(self.study, number)
            run = self._init_run(self.study, name=f"trial {number}", custom_id=custom_id, tag="trial")
            self._runs[number] = _OpenRun(run)
            self._runs[number].write(trial_identity(self.study, number))
        return self._runs[number]


class _OpenRun:
    """A run that is written to, and the steps that its series have."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps: dict[str, set[float]] = {}

    def write(self, writes: RunWrites) -> None:
        from neptune.exceptions import MetadataInconsistency

        for path, value in writes.fields.items():
            self._run[path] = value
        for path, points in writes.series.items():
            steps = self._steps_of(path)
            new = [point for point in points if point[0] not in steps]
            if new:
                numbers, values, times = (list(column) for column in zip(*new, strict=True))
                with suppress(MetadataInconsistency):  # refused for good, such as a step before the last one
                    self._run[path].extend(values, steps=numbers, timestamps=times)
                steps.update(numbers)
        self._run.wait()

    def stop(self) -> None:
        with suppress(Exception):  # a server that is gone; what it lacks is published again
            self._run.stop(seconds=STOP_SECONDS)

    def _steps_of(self, path: str) -> set[float]:
        if path not in self._steps:
            known = self._run.exists(path)
            table = self._run[path].fetch_values(include_timestamp=False, progress_bar=False) if known else {}
            self._steps[path] = set(table.get("step", ()))
        return self._steps[path]


def _address(api_token: str) -> str:
    """The server that a token is for."""
    try:
        content = json.loads(base64.b64decode(api_token))
        return str(content.get("api_url") or content["api_address"])
    except (ValueError, KeyError, AttributeError):
        raise StorageError(
            "NEPTUNE_API_TOKEN: found no Neptune token, expected base64 of JSON with api_address"
        ) from None


def _reason_for_offline(address: str | None, project: str | None) -> str:
    """Why a user who set a token or a project gets files all the same; "" if there is nothing to explain."""
    if address and (urlsplit(address).hostname or "").endswith("neptune.ai"):
        return "the token is for neptune.ai, which has closed"
    if address and not project:
        return "NEPTUNE_PROJECT is not set"
    return "NEPTUNE_API_TOKEN is not set" if project and not address else ""


def _probe(address: str) -> None:
    # The client itself would try for much longer. A dead server should not cost this thread much.
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS).close()


def _require_client() -> None:
    if find_spec("neptune") is None:
        raise StorageError("neptune: the client is not installed; expected pip install 'fold-search[neptune]'")


def import_client() -> ModuleType:
    """Import Neptune's client, which takes seconds, and keep it quiet. Raises StorageError if it is not installed."""
    _require_client()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import neptune

    for name in LOUD_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return neptune


@contextmanager
def _data_directory(directory: Path) -> Iterator[None]:
    """Where Neptune puts the files of the runs that begin now; it takes this from the environment only."""
    before = os.environ.get("NEPTUNE_DATA_DIRECTORY")
    os.environ["NEPTUNE_DATA_DIRECTORY"] = str(directory)
    try:
        yield
    finally:
        del os.environ["NEPTUNE_DATA_DIRECTORY"]
        if before is not None:
            os.environ["NEPTUNE_DATA_DIRECTORY"] = before
