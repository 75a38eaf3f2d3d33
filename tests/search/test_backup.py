"""A study in one file: back in another database it goes on as if nothing had happened; a damaged file is refused."""

import hashlib
import io
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from fold_search.search.errors import ConfigError
from fold_search.search.study.config import config_from_record
from fold_search.search.study.opened import OpenStudy, find
from fold_search.search.upkeep.backup import DATABASE, FORMAT, MANIFEST, Manifest, back_up, restore
from fold_search.storage import copies
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.database import connect, migrate, writing
from fold_search.storage.errors import StorageError
from fold_search.storage.ledger import list_studies
from fold_search.storage.records import FoldRunState
from fold_search.storage.studies import close_study, open_study
from tests.conftest import PostgresServer
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script


class OpenedStudy(ScriptedStudy):
    """A study that is there, to be gone on with."""

    def __init__(self, url: str) -> None:
        found = find("scripted", url=url)
        self.url, self.ledger = url, found.ledger
        self.config = config_from_record(found.record.config)
        self.artifacts = Artifacts(self.config.storage.artifacts)
        self.stop, self.policy = threading.Event(), None


def curves(trial: int, fold: int) -> list[float | Exception]:
    return [0.3 + 0.1 * trial, 0.4 + 0.05 * ((trial * 7 + fold) % 4), 0.5]


def new_study(url: str, folder: Path) -> ScriptedStudy:
    return ScriptedStudy(url, folder, storage={"artifacts": str(folder / "artifacts")})


def opened(study: ScriptedStudy) -> OpenStudy:
    return find("scripted", url=study.url)


def run(study: ScriptedStudy, script: Script) -> None:
    coordinator = study.coordinator()
    study.run(script, coordinator)
    coordinator.leave()


def results(study: ScriptedStudy) -> tuple[object, ...]:
    """What a study came to, in the ledger, in Optuna and in the predictions."""
    optuna = open_study(study.url, name="scripted", direction="maximize")
    told = [(trial.number, trial.state, trial.values, trial.params, trial.user_attrs) for trial in optuna.get_trials()]
    close_study(optuna)
    epochs = [(epoch.trial, epoch.fold, epoch.epoch, epoch.score) for epoch in study.ledger.epochs()]
    kept = [study.artifacts.get(run.predictions) for run in study.ledger.fold_runs() if run.predictions]
    return (
        study.ledger.trials(),
        epochs,
        told,
        kept,
        len([n for n in study.artifacts.names(study.ledger.folder) if "/model-" in n]),
    )


@pytest.mark.parametrize(
    ("origin", "target"), [("sqlite", "sqlite"), ("sqlite", "postgresql"), ("postgresql", "sqlite")]
)
def test_what_was_restored_elsewhere_ends_as_if_nothing_had_happened(
    tmp_path: Path, postgres_server: PostgresServer, origin: str, target: str
):
    """Backed up in the midst of an epoch, while its worker goes on; no tracker has anything of the restored study."""

    def url(kind: str, name: str) -> str:
        return f"sqlite:///{tmp_path}/{name}.db" if kind == "sqlite" else postgres_server.create_database()

    undisturbed = new_study(url(origin, "origin"), tmp_path / "origin")
    undisturbed.ledger.set_cursor("mlflow", 1)
    file = tmp_path / "backup.tar"
    script = Script(curves)

    def interrupt(trial: int, fold: int, epoch: int) -> None:
        if (trial, fold, epoch) == (2, 0, 2):
            found = opened(undisturbed)
            written = back_up(found, file)
            found.ledger.engine.dispose()
            assert (written.num_trials, written.num_bytes) == (3, file.stat().st_size)

    script.on_epoch = interrupt
    run(undisturbed, script)

    place = url(target, "target")
    other = ScriptedStudy(place, tmp_path)  # the restored one gets another number
    with writing(other.ledger.engine) as connection:
        connection.exec_driver_sql("UPDATE ledger_studies SET name = 'another'")
    found = restore(file, url=place, overrides=[f"storage.artifacts={tmp_path}/elsewhere"])
    assert (found.study, found.num_trials) == ("scripted", 3)
    study = OpenedStudy(place)
    assert study.ledger.study_id == 2
    assert study.ledger.counts()[FoldRunState.LEASED] == 0
    assert study.ledger.cursor("mlflow") == 0
    assert [event.sequence for event in study.ledger.events()] == list(range(1, study.ledger.last_sequence() + 1))
    again = Script(curves)
    run(study, again)
    assert (2, 0, 1) not in again.trained
    assert results(study) == results(undisturbed)
    for opened_study in (study, undisturbed, other):
        opened_study.ledger.engine.dispose()


def test_what_is_recorded_while_a_backup_is_written_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither in the ledger nor in Optuna's study, which is read after it: a trial that ended meanwhile is running."""
    study = new_study(f"sqlite:///{tmp_path}/origin.db", tmp_path / "origin")
    script = Script(curves)
    script.on_epoch = lambda trial, fold, epoch: study.stop.set() if (trial, fold, epoch) == (1, 0, 2) else None
    coordinator = study.coordinator()
    while not study.stop.is_set():
        coordinator.step()
        worker = study.worker(script)
        worker.train(worker.claim())
    coordinator.leave()
    num_epochs, late = len(study.ledger.epochs()), []

    def open_late(url: str, **options: Any) -> optuna.Study:
        if not late:
            late.append(url)
            script.on_epoch = lambda *_: None
            study.stop.clear()
            run(study, script)
        return open_study(url, **options)

    with monkeypatch.context() as then:
        then.setattr(copies, "open_study", open_late)
        back_up(opened(study), tmp_path / "backup.tar")
    assert len(study.ledger.epochs()) > num_epochs
    url = f"sqlite:///{tmp_path}/target.db"
    restore(tmp_path / "backup.tar", url=url, overrides=[f"storage.artifacts={tmp_path}/elsewhere"])
    assert len(OpenedStudy(url).ledger.epochs()) == num_epochs
    told = open_study(url, name="scripted", direction="maximize")
    assert [trial.state.name for trial in told.get_trials()] == ["COMPLETE", "RUNNING"]
    close_study(told)


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study and its backup."""
    folder = tmp_path_factory.mktemp("backed-up")
    study = new_study(f"sqlite:///{folder}/origin.db", folder / "origin")
    study.run(Script(curves))
    study.ledger.engine.dispose()
    back_up(opened(study), folder / "backup.tar")
    return folder


@pytest.fixture
def backup(backed_up: Path, tmp_path: Path) -> Path:
    """The backup of a finished study, beside its database; the artifacts stay where they are."""
    # As SQLite copies it: while a connection is open, what was written last is not in the file but in its log.
    origin, copy = (sqlite3.connect(folder / "origin.db") for folder in (backed_up, tmp_path))
    origin.backup(copy)
    origin.close()
    copy.close()
    return Path(shutil.copy(backed_up / "backup.tar", tmp_path))


def check_refused(file: Path, tmp_path: Path, found: str) -> None:
    """One line, and nothing of the study is anywhere."""
    url, place = f"sqlite:///{tmp_path}/target.db", tmp_path / "elsewhere"
    with pytest.raises((ConfigError, StorageError), match=found) as caught:
        restore(file, url=url, overrides=[f"storage.artifacts={place}"])
    assert "\n" not in str(caught.value)
    engine = connect(url)
    migrate(engine)
    assert list_studies(engine) == []
    assert [path for path in place.rglob("*") if path.is_file()] == []
    assert "scripted" not in [path.name for path in tmp_path.parent.glob("*")]


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None], **headers: object) -> None:
    """Unpack an archive, change its members, and pack it again with whatever headers are asked for."""
    with tarfile.open(file) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    change(members)
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in headers.items() if name.endswith(".npz") else ():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))


def test_a_byte_that_changed_is_found_wherever_it_is(backup: Path, tmp_path: Path):
    """In the database, in an artifact, in the list of checksums."""
    whole = backup.read_bytes()
    with tarfile.open(backup) as archive:
        places = [(member.name, member.offset_data + member.size // 2) for member in archive]
    for _, place in [places[0], places[len(places) // 2], places[-1]]:
        backup.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        check_refused(
            backup, tmp_path, r"backup\.tar: (damaged: .* has changed since it was written|its backup\.json cannot)"
        )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_file_that_was_cut_off_is_refused(backup: Path, tmp_path: Path, share: float):
    """However much of it is missing."""
    content = backup.read_bytes().rstrip(b"\0")  # a tar file ends with zeros
    backup.write_bytes(content[: int(share * len(content))])
    check_refused(backup, tmp_path, r"backup\.tar: (damaged, or not a file|the end of the file is missing)")


@pytest.mark.parametrize("name", ["../escaped", "artifacts/study-1/../../escaped", "/etc/escaped", "artifacts/escaped"])
def test_a_member_elsewhere_is_refused(backup: Path, tmp_path: Path, name: str):
    """Nothing is written outside the study's artifacts, whatever the checksums say."""
    rewritten(backup, lambda members: members.update({name: b"x"}))
    check_refused(backup, tmp_path, f"found '{name}', which `search backup` does not write")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_member_that_is_no_plain_file_is_refused(backup: Path, tmp_path: Path, kind: bytes):
    """Links lead elsewhere."""
    rewritten(backup, lambda members: None, type=kind, linkname="/etc/passwd")
    check_refused(backup, tmp_path, r"which `search backup` does not write|damaged, or not a file")


def test_a_newer_version_s_backup_is_refused(backup: Path, tmp_path: Path):
    """Of another format, or with a database of a schema that is not known here."""

    def newer(members: dict[str, bytes]) -> None:
        manifest = Manifest.model_validate_json(members[MANIFEST])
        changed = manifest.model_copy(update={"format": FORMAT + 1, "fold_search": "99.0"})
        members[MANIFEST] = changed.model_dump_json().encode()

    rewritten(backup, newer)
    check_refused(
        backup, tmp_path, "written by fold-search 99.0, which is newer than this version; upgrade fold-search"
    )


def tampered(backup: Path, statement: str) -> None:
    """Change the database in a backup, whose checksum is right all the same."""

    def change(members: dict[str, bytes]) -> None:
        database = backup.parent / "tampered.db"
        database.write_bytes(members[DATABASE])
        with sqlite3.connect(database) as connection:
            connection.execute(statement)
        connection.close()
        members[DATABASE] = database.read_bytes()
        manifest = Manifest.model_validate_json(members[MANIFEST])
        sha256 = manifest.sha256 | {DATABASE: hashlib.sha256(members[DATABASE]).hexdigest()}
        members[MANIFEST] = manifest.model_copy(update={"sha256": sha256}).model_dump_json().encode()

    rewritten(backup, change)


def test_a_database_of_a_newer_schema_is_refused(backup: Path, tmp_path: Path):
    """The line names the file that the user gave."""
    tampered(backup, "UPDATE ledger_alembic_version SET version_num = '9999'")
    check_refused(backup, tmp_path, r"backup\.tar: study\.db: written by a newer version .*9999")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_trials SET state = 'nonsense'",
        "UPDATE ledger_trials SET params = printf('%.*c', 100000, '[')",
        "UPDATE ledger_studies SET config = 'no json'",
        "DELETE FROM ledger_studies",
        "DROP TABLE ledger_epochs",
        "DELETE FROM ledger_counters",
        "UPDATE ledger_studies SET assignments = 5",
        "UPDATE alembic_version SET version_num = 'v99.0.0.a'",
    ],
)
def test_a_database_that_was_tampered_with_is_refused(backup: Path, tmp_path: Path, change: str):
    """Though its checksum is right."""
    tampered(backup, change)
    refusal = r"backup\.tar: (study\.db(:| contains values that no study has)|the database has no study)"
    check_refused(backup, tmp_path, refusal)


def test_a_study_that_is_there_is_not_restored_over(backup: Path, tmp_path: Path):
    """Neither its rows nor its artifacts."""
    origin = f"sqlite:///{tmp_path}/origin.db"
    before = results(OpenedStudy(origin))
    with pytest.raises(StorageError, match="already has a study 'scripted'"):
        restore(backup, url=origin, overrides=[f"storage.artifacts={tmp_path}/elsewhere"])
    with pytest.raises(ConfigError, match=r"is in storage\.artifacts already"):
        restore(backup, url=f"sqlite:///{tmp_path}/target.db")
    assert results(OpenedStudy(origin)) == before
    check_refused(tmp_path / "missing.tar", tmp_path, r"missing\.tar: there is no such file")


def test_a_failure_in_the_middle_leaves_nothing(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Optuna's study and the artifacts are taken away again; the next attempt succeeds."""

    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as then:
        then.setattr(copies, "writing", full)
        check_refused(backup, tmp_path, "the disk is full")
    restore(backup, url=f"sqlite:///{tmp_path}/target.db", overrides=[f"storage.artifacts={tmp_path}/elsewhere"])
    assert len(OpenedStudy(f"sqlite:///{tmp_path}/target.db").ledger.trials()) == 4


def test_a_file_is_not_written_over(backup: Path, tmp_path: Path):
    """The last good backup stays."""
    before = backup.read_bytes()
    with pytest.raises(ConfigError, match=r"backup\.tar: exists already, expected a new file"):
        back_up(find("scripted", url=f"sqlite:///{tmp_path}/origin.db"), backup)
    assert backup.read_bytes() == before
