"""`search backup` and `search restore`: a study with all its stored files as one file, restored into any database.

The file is a tar of a SQLite database with this study alone (`study.db`), its artifacts as they were stored
(`artifacts/...`) and, last, `backup.json` with the SHA-256 of each: an incomplete file has none.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.filesize import decimal
from sqlalchemy.exc import SQLAlchemyError

from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, config_from_record, to_record
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.search.study.stored import misplaced, weights_name
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import list_studies
from fold_search.storage.copies import copy_study, refuse_known
from fold_search.storage.database import connect, migrate
from fold_search.storage.errors import StorageError, reason_of
from fold_search.storage.files import whole_file
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyRecord

FORMAT = 1
DATABASE = "study.db"
MANIFEST = "backup.json"
ARTIFACTS = "artifacts/"
LARGEST_MANIFEST = 1 << 28


class Manifest(BaseModel):
    """What `backup.json` says: the study, what wrote it, and the SHA-256 of every other member."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    fold_search: str
    study: str
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What went into a backup, or came out of it."""

    study: str
    num_trials: int
    num_artifacts: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.study}, {self.num_trials} trials, {self.num_artifacts} artifacts, {decimal(self.num_bytes)}"


def back_up(study: OpenStudy, out: Path, *, overrides: Sequence[str] = ()) -> Backup:
    """Write the study to a file, whole or not at all. The study may be running.

    Raises ConfigError if the file is there or cannot be written, or nothing is stored of the study; StorageError.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already, expected a new file")
    artifacts = Artifacts(on_this_machine(study.record, overrides).storage.artifacts)
    if reason := misplaced(study.ledger, artifacts):
        raise ConfigError(reason)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as scratch, whole_file(out) as unfinished:
            database = Path(scratch, DATABASE)
            copy = _copy_to_file(study, database)
            with unfinished.open("xb") as file:
                return _write(file, database, copy, artifacts)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {reason_of(error)}") from None


def restore(file: Path, *, url: str, overrides: Sequence[str] = ()) -> Backup:
    """Restore a study from a file. Nobody holds a lease on it, and trackers are filled from its first event.

    Raises ConfigError if the file is damaged or written by a newer version, StorageError if the database has a study
    of that name; nothing of it is there then.
    """
    with _opened(file) as archive, tempfile.TemporaryDirectory() as scratch:
        manifest = _check(archive, file)
        database = Path(scratch, DATABASE)
        with database.open("wb") as content:
            shutil.copyfileobj(_member(archive, DATABASE), content)
        with _reading(database, file):
            source = connect(f"sqlite:///{database}", create=False)
            migrate(source, copy=False)
            [record] = list_studies(source)
        config = _config(record, overrides)
        target = connect(url)
        migrate(target)
        refuse_known(target, record.name)
        with _reading(database, file):
            # Before it is copied, so that whatever fails leaves nothing in the target.
            ledger = Ledger(source, record.id)
            ledger.update_config(to_record(config))
            ledger.release_owner("", reason="restored from a backup")
            restored = _summary(record, ledger, manifest, file.stat().st_size)
        with _restored(archive, manifest, Artifacts(config.storage.artifacts)), _reading(database, file, alone=False):
            copy_study(source, target, name=record.name)
        source.dispose()
        target.dispose()
        return restored


def _copy_to_file(study: OpenStudy, database: Path) -> Ledger:
    """Copy the study to a SQLite file of its own."""
    engine = connect(f"sqlite:///{database}")
    migrate(engine)
    copy = copy_study(study.ledger.engine, engine, name=study.record.name)
    engine.dispose()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
    connection.close()
    return Ledger(engine, copy.id)


def _write(file: IO[bytes], database: Path, copy: Ledger, artifacts: Artifacts) -> Backup:
    study = copy.study()
    sha256: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, content: io.BufferedReader | io.BytesIO, size: int) -> None:
            sha256[name] = hashlib.file_digest(content, "sha256").hexdigest()
            content.seek(0)
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, content)

        with database.open("rb") as content:
            add(DATABASE, content, database.stat().st_size)
        for name in _artifact_names(copy, artifacts):
            try:
                data = artifacts.get(name)
            except StorageError:
                if artifacts.exists(name):
                    raise
                continue  # a checkpoint that a later one has replaced meanwhile
            add(f"{ARTIFACTS}{name}", io.BytesIO(data), len(data))
        version = importlib.metadata.version("fold-search")
        manifest = Manifest(format=FORMAT, fold_search=version, study=study.name, sha256=dict(sha256))
        written = manifest.model_dump_json(indent=1).encode()
        add(MANIFEST, io.BytesIO(written), len(written))
    copy.engine.dispose()
    return _summary(study, copy, manifest, file.tell())


def _artifact_names(ledger: Ledger, artifacts: Artifacts) -> list[str]:
    """The stored files of the study: those in its folder and those that the ledger names; no unfinished ones."""
    runs = ledger.fold_runs()
    predictions = {run.predictions for run in runs if run.predictions}
    recorded = predictions | {weights_name(name) for name in predictions}
    recorded |= {run.checkpoint for run in runs if run.checkpoint}
    recorded |= {run.sample["proof"] for run in runs if run.sample and "proof" in run.sample}
    names = recorded | set(artifacts.names(ledger.folder))
    return sorted(name for name in names if not name.rpartition("/")[2].startswith(".") and artifacts.exists(name))


def _summary(study: StudyRecord, ledger: Ledger, manifest: Manifest, num_bytes: int) -> Backup:
    num_artifacts = sum(name.startswith(ARTIFACTS) for name in manifest.sha256)
    trials = len(ledger.trials())
    return Backup(study=study.name, num_trials=trials, num_artifacts=num_artifacts, num_bytes=num_bytes)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:") as archive:
            yield archive
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file, expected one that `search backup` wrote") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or file}: {reason_of(error)}") from None
    except (tarfile.TarError, EOFError):
        raise ConfigError(f"{file}: damaged, or not a file that `search backup` wrote") from None


def _check(archive: tarfile.TarFile, file: Path) -> Manifest:
    """Read the whole file; raises ConfigError if a byte has changed, or a member does not belong there."""
    found: dict[str, str] = {}
    for member in archive:
        is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        is_known = member.name in (DATABASE, MANIFEST) or member.name.startswith(f"{ARTIFACTS}study-")
        if not is_plain or not is_known or member.name in found or ".." in member.name.split("/"):
            raise ConfigError(f"{file}: found {member.name!r}, which `search backup` does not write")
        found[member.name] = hashlib.file_digest(_member(archive, member), "sha256").hexdigest()
    if found.pop(MANIFEST, None) is None or archive.getmember(MANIFEST).size > LARGEST_MANIFEST:
        raise ConfigError(f"{file}: the end of the file is missing; the backup is incomplete")
    try:
        manifest = Manifest.model_validate_json(_member(archive, MANIFEST).read())
    except ValidationError:
        raise ConfigError(
            f"{file}: its {MANIFEST} cannot be read; the backup is damaged or from a newer version"
        ) from None
    if manifest.format > FORMAT:
        raise ConfigError(
            f"{file}: written by fold-search {manifest.fold_search}, which is newer than this version; upgrade "
            "fold-search"
        )
    for name in sorted(found.keys() | manifest.sha256.keys() | {DATABASE}):
        if name not in found or found[name] != manifest.sha256.get(name):
            raise ConfigError(f"{file}: damaged: {name} has changed since it was written")
    return manifest


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo | str) -> io.BufferedReader:
    return cast(io.BufferedReader, archive.extractfile(member))


@contextlib.contextmanager
def _reading(database: Path, file: Path, *, alone: bool = True) -> Iterator[None]:
    """Make errors about the database in the file name that file; unless `alone`, another database is used too."""
    try:
        yield
    except (AssertionError, LookupError, RecursionError, SQLAlchemyError, TypeError, ValueError) as error:
        if not alone and isinstance(error, StorageError) and str(database) not in str(error):
            raise
        found = str(error) if isinstance(error, StorageError) else f"{DATABASE} contains values that no study has"
        raise ConfigError(f"{file}: {found}".replace(str(database), DATABASE)) from None


def _config(record: StudyRecord, overrides: Sequence[str]) -> StudyConfig:
    """The study's config with this machine's paths."""
    budget = config_from_record(record.config).budget
    return on_this_machine(record, overrides).model_copy(update={"budget": budget})


@contextlib.contextmanager
def _restored(archive: tarfile.TarFile, manifest: Manifest, artifacts: Artifacts) -> Iterator[None]:
    """Store the artifacts, and delete them again if what follows fails; none may exist before."""
    names = [name.removeprefix(ARTIFACTS) for name in manifest.sha256 if name.startswith(ARTIFACTS)]
    for name in names:
        if artifacts.exists(name):
            raise ConfigError(
                f"{name} is in storage.artifacts already, perhaps of the study that was backed up; "
                "move it away or name another place: --set storage.artifacts=PLACE"
            )
    stored: list[str] = []
    try:
        for name in names:
            stored.append(name)
            artifacts.put(name, _member(archive, f"{ARTIFACTS}{name}").read())
        yield
    except BaseException:
        for name in stored:
            with contextlib.suppress(StorageError):
                artifacts.delete(name)
        raise
