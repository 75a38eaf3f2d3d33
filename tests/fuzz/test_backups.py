"""Backups with damaged bytes, and databases in them that say anything: they are restored, or refused in one line."""

import hashlib
import io
import shutil
import sqlite3
import tarfile
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_search.search.errors import ConfigError
from fold_search.search.study.opened import find
from fold_search.search.upkeep.backup import DATABASE, MANIFEST, Backup, Manifest, back_up, restore
from fold_search.storage.catalog import list_studies
from fold_search.storage.database import connect, migrate
from fold_search.storage.errors import StorageError
from tests.fuzz.refusals import check_refusal
from tests.fuzz.strategies import damaged
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

ALL = settings.get_profile("fuzz")
FUZZ = settings(ALL, max_examples=ALL.max_examples // 20, deadline=30_000)  # a study that is restored takes a second


class BackedUp:
    """A finished study's backup, its members, and an empty database beside them."""

    def __init__(self, folder: Path) -> None:
        study = ScriptedStudy(f"sqlite:///{folder}/origin.db", folder, storage={"artifacts": f"{folder}/artifacts"})
        study.run(Script(lambda trial, fold: [0.3 + 0.1 * trial, 0.4, 0.5]))
        study.ledger.engine.dispose()
        self.summary = back_up(find("scripted", url=study.url), folder / "backup.tar")
        migrate(empty := connect(f"sqlite:///{folder}/empty.db"))
        empty.dispose()
        self.folder, self.file = folder, (folder / "backup.tar").read_bytes()
        with tarfile.open(folder / "backup.tar") as archive:
            self.members = {member.name: archive.extractfile(member).read() for member in archive}
        database = self.members[DATABASE]
        self.members[DATABASE] = database[:18] + b"\1\1" + database[20:]  # no write-ahead log, which needs a file

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Every column of the database's tables that have rows, and its table."""
        found = []
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(self.members[DATABASE])
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"):
                if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                    found += [(table, column) for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")]
        return found

    def check_restored(self, content: bytes) -> Backup | None:
        """Restore a file into a database and a folder of its own; None if it is refused, and nothing of it is there."""
        place = self.folder / "restored"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "backup.tar").write_bytes(content)
        shutil.copy(self.folder / "empty.db", place / "search.db")
        url, restored = f"sqlite:///{place}/search.db", None
        try:
            restored = restore(place / "backup.tar", url=url, overrides=[f"storage.artifacts={place}/artifacts"])
        except (ConfigError, StorageError) as error:
            check_refusal(error, place / "backup.tar")
        files = [path for path in place.glob("artifacts/**/*") if path.is_file()]
        assert len(files) == (restored.num_artifacts if restored else 0)
        database = connect(url)
        studies = [study.name for study in list_studies(database)]
        database.dispose()
        assert studies == ([restored.study] if restored else [])
        return restored

    def packed(self, database: bytes) -> bytes:
        """The backup with another database in it, whose checksum is right."""
        manifest = Manifest.model_validate_json(self.members[MANIFEST])
        sha256 = manifest.sha256 | {DATABASE: hashlib.sha256(database).hexdigest()}
        manifest = manifest.model_copy(update={"sha256": sha256})
        changed = {DATABASE: database, MANIFEST: manifest.model_dump_json().encode()}
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in (self.members | changed).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue()


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    return BackedUp(tmp_path_factory.mktemp("fuzz"))


def test_the_undamaged_backup_is_restored(backup: BackedUp):
    """All of it, and so it is with its own database put in."""
    assert backup.check_restored(backup.file) == backup.summary
    restored = backup.check_restored(backup.packed(backup.members[DATABASE]))
    assert restored is not None
    assert replace(restored, num_bytes=backup.summary.num_bytes) == backup.summary


@FUZZ
@given(data=st.data())
def test_backups_with_other_bytes(backup: BackedUp, data: st.DataObject):
    """Of the file, whose checksums leave only what was backed up, or of the database in it."""
    if data.draw(st.booleans()):
        restored = backup.check_restored(data.draw(damaged(backup.file)))
        assert restored is None or replace(restored, num_bytes=backup.summary.num_bytes) == backup.summary
    else:
        backup.check_restored(backup.packed(data.draw(damaged(backup.members[DATABASE]))))


CELL = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    st.sampled_from(["{}", "[]", "null", "NaN", "1e999", '{"a": 1}', "[" * 5000, "2026-01-01", "../x", "DONE"]),
)


@FUZZ
@given(data=st.data(), value=CELL)
def test_backups_with_other_cells(backup: BackedUp, data: st.DataObject, value: object):
    """One value of the database is not what was written."""
    table, column = data.draw(st.sampled_from(backup.columns))
    rows = data.draw(st.integers(1, 5))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(backup.members[DATABASE])
        with suppress(sqlite3.IntegrityError), connection:  # a key that is no number
            connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid <= ?", (value, rows))
        backup.check_restored(backup.packed(connection.serialize()))
