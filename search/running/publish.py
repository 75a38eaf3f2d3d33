"""Which trackers a study is published to, and publishing by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fold_search.search.running.presence import make_owner
from fold_search.search.study.config import StudyConfig, config_from_record
from fold_search.search.study.environment import Secrets, missing_sign_in, mlflow_uri
from fold_search.search.study.opened import OpenStudy
from fold_search.storage.publishing import Publisher
from fold_search.storage.trackers.contract import Tracker

PATIENCE_SECONDS = 600.0


def make_publisher(
    study: OpenStudy, config: StudyConfig, *, secrets: Secrets, warn: Callable[[str], None]
) -> Publisher:
    """The publisher of a study to the trackers of its study file; mlflow and neptune load in its own threads."""
    return Publisher(study.ledger, _trackers(config, secrets), owner=make_owner(), warn=warn)


def publish_now(study: OpenStudy, *, secrets: Secrets, rebuild: bool, say: Callable[[str], None]) -> int:
    """Publish what the trackers lack, or everything again; returns the exit code: 1 if something is left."""
    publisher = make_publisher(study, config_from_record(study.record.config), secrets=secrets, warn=say)
    if rebuild:
        publisher.rebuild()
    publisher.start()
    left = publisher.drain(timeout_seconds=PATIENCE_SECONDS)
    for tracker, num_events in left.items():
        say(f"{tracker}: {num_events} events are not published yet" if num_events else f"{tracker}: up to date")
    return 1 if any(left.values()) else 0


def _trackers(config: StudyConfig, secrets: Secrets) -> Sequence[Tracker]:
    trackers: list[Tracker] = []
    if config.trackers.mlflow.enabled:
        from fold_search.storage.trackers.mlflow import MlflowTracker

        uri = config.trackers.mlflow.uri
        trackers.append(MlflowTracker(mlflow_uri(uri, secrets), notice=missing_sign_in(uri, secrets)))
    if config.trackers.neptune.enabled:
        from fold_search.storage.trackers.neptune import NeptuneTracker

        directory = Path(config.trackers.neptune.directory)
        trackers.append(NeptuneTracker(directory, api_token=secrets.neptune_api_token, project=secrets.neptune_project))
    return trackers
