"""`search clean`: finds and deletes stored files that no study needs. Running studies are skipped."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from fold_search.search.running.caches import entries, remove, size, unused
from fold_search.search.running.pruning import trials_kept
from fold_search.search.study.config import StudyConfig, config_from_record
from fold_search.search.study.opened import find
from fold_search.search.study.stored import CHECKPOINT, PREDICTIONS, WEIGHTS, misplaced, weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import list_studies
from fold_search.storage.database import connect, migrate
from fold_search.storage.errors import StorageError, reason_of
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import FoldRun, FoldRunState, StudyState

_IN_FOLD = re.compile(r"[^/]+/trial-(?P<trial>\d+)/fold-(?P<fold>\d+)/(?P<file>[^/]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Files of one kind in one place that may be deleted."""

    what: str
    place: str
    num_files: int
    num_bytes: int
    remove: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.what}: {self.num_files} files in {self.place}, {decimal(self.num_bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Study:
    """A study of the database, and whether somebody works on it."""

    name: str
    ledger: Ledger
    config: StudyConfig
    live: bool
    finished: bool


def find_waste(url: str, *, name: str | None, say: Callable[[str], None]) -> Iterator[Waste]:
    """Yield what one study, or every study of the database, does not need; raises ConfigError, StorageError.

    `say` is told what is skipped, and why.
    """
    studies = _studies(url)
    chosen = [study for study in studies if name in (None, study.name)]
    if name is not None and not chosen:
        find(name, url=url)  # says which names there are
    for study in chosen:
        if study.live:
            say(f"study {study.name!r} is running: skipped")
        else:
            yield from _artifacts(study, say)
    for cache in sorted({study.config.storage.cache for study in chosen}):
        users = [study for study in studies if Path(study.config.storage.cache).resolve() == Path(cache).resolve()]
        needing = [repr(study.name) for study in users if study.live or not study.finished]
        if needing:
            say(f"{cache}: skipped, because it is needed by {', '.join(needing)}")
        else:
            yield from _cache(Path(cache), say)


def _studies(url: str) -> list[_Study]:
    engine = connect(url, create=False)
    migrate(engine)
    found = []
    for record in list_studies(engine):
        ledger = Ledger(engine, record.id)
        found.append(
            _Study(
                name=record.name,
                ledger=ledger,
                config=config_from_record(record.config),
                live=bool(ledger.live_roles("")),
                finished=record.state is StudyState.FINISHED,
            )
        )
    return found


def _artifacts(study: _Study, say: Callable[[str], None]) -> Iterator[Waste]:
    artifacts = Artifacts(study.config.storage.artifacts)
    if reason := misplaced(study.ledger, artifacts):
        say(reason.partition("; ")[0])  # for this command takes no --set
    trials = study.ledger.trials()
    kept = trials_kept(trials, study.config.artifacts, study.ledger.study().direction)
    runs = {(run.trial, run.fold): run for run in study.ledger.fold_runs()}
    waste: dict[str, list[str]] = {}
    for name in artifacts.names(study.ledger.folder):
        found = _IN_FOLD.fullmatch(name)
        run = runs.get((int(found["trial"]), int(found["fold"]))) if found else None
        if name.rpartition("/")[2].startswith("."):
            waste.setdefault("unfinished files", []).append(name)
        elif run is not None and (what := _unneeded(name, run, keeps_weights=run.trial in kept)):
            waste.setdefault(what, []).append(name)
    for what, names in waste.items():
        sizes = [artifacts.size(name) for name in names]

        def delete(names: list[str] = names) -> None:
            if study.ledger.live_roles(""):
                raise StorageError(f"study {study.name!r} is running now: skipped")
            for name in names:
                artifacts.delete(name)

        place = f"{study.config.storage.artifacts}/{study.ledger.folder} (study {study.name!r})"
        yield Waste(what=what, place=place, num_files=len(names), num_bytes=sum(sizes), remove=delete)


def _unneeded(name: str, run: FoldRun, *, keeps_weights: bool) -> str | None:
    """What a file of a fold run is, if nobody needs it."""
    file = name.rpartition("/")[2]
    if file.startswith(CHECKPOINT):
        continued = run.state in (FoldRunState.WAITING, FoldRunState.LEASED)
        return None if continued or (run.state is FoldRunState.PAUSED and name == run.checkpoint) else "checkpoints"
    if file.startswith(WEIGHTS):
        current = run.predictions is not None and name == weights_name(run.predictions)
        return None if current and keeps_weights else "weights"
    return "predictions" if file.startswith(PREDICTIONS) and name != run.predictions else None


def _cache(folder: Path, say: Callable[[str], None]) -> Iterator[Waste]:
    found = entries(folder)
    if not found:
        return
    with unused(folder) as free:
        if not free:
            say(f"{folder}: skipped, because a process is using it")
            return

    def delete() -> None:
        with unused(folder) as still_free:
            if not still_free:
                raise StorageError(f"{folder}: a process is using it now: skipped")
            for path in found:
                try:
                    remove(path)
                except OSError as error:
                    raise StorageError(f"{path}: {reason_of(error)}") from None

    num_bytes = sum(size(path) for path in found)
    yield Waste(what="cache", place=str(folder), num_files=len(found), num_bytes=num_bytes, remove=delete)
