"""Artifacts are whole or not there, stay inside their root, and say plainly what stopped them."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fold_search.storage.artifacts import Artifacts
from fold_search.storage.errors import StorageError


@pytest.fixture(params=["folder", "file URL", "object store"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """An empty store of each kind; fsspec's memory stands for all that are no local folder."""
    urls = {
        "folder": str(tmp_path / "new" / "artifacts"),
        "file URL": f"file://{tmp_path}/artifacts",
        "object store": f"memory://{tmp_path}",
    }
    return Artifacts(urls[request.param])


class TestEveryStore:
    def test_what_was_put_is_got(self, artifacts: Artifacts) -> None:
        """Byte by byte, in folders that did not exist."""
        data = bytes(range(256)) * 1000
        artifacts.put("study-1/trial-0/fold-2-token-7", data)
        assert artifacts.get("study-1/trial-0/fold-2-token-7") == data

    def test_putting_again_replaces(self, artifacts: Artifacts) -> None:
        """The last one counts, also when it is shorter."""
        artifacts.put("name", b"longer")
        artifacts.put("name", b"new")
        assert artifacts.get("name") == b"new"

    def test_what_was_deleted_is_not_there(self, artifacts: Artifacts) -> None:
        """Deleting again changes nothing; a folder is no artifact."""
        artifacts.put("folder/name", b"data")
        assert (artifacts.exists("folder/name"), artifacts.exists("folder")) == (True, False)
        artifacts.delete("folder/name")
        artifacts.delete("folder/name")
        assert not artifacts.exists("folder/name")

    def test_what_is_missing_is_named(self, artifacts: Artifacts) -> None:
        """With its whole path."""
        with pytest.raises(StorageError, match="trial-0/fold-1: there is no such artifact"):
            artifacts.get("trial-0/fold-1")

    @pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../other", "a/../../other", "a\\..\\b", "a\0b"])
    def test_names_stay_inside(self, artifacts: Artifacts, name: str) -> None:
        """Nothing is read, written, found or deleted elsewhere."""
        for use in (artifacts.get, artifacts.delete, artifacts.exists, lambda name: artifacts.put(name, b"data")):
            with pytest.raises(StorageError, match="expected a relative path inside"):
                use(name)


class TestFolders:
    def test_readers_see_old_or_new_bytes_only(self, tmp_path: Path) -> None:
        """While one writes again and again, every read is whole; nothing unfinished stays."""
        artifacts = Artifacts(str(tmp_path))
        versions = [bytes([number]) * 200_000 for number in range(20)]
        artifacts.put("name", versions[0])
        writer = threading.Thread(target=lambda: [artifacts.put("name", version) for version in versions])
        writer.start()
        while writer.is_alive():
            assert artifacts.get("name") in versions
        writer.join()
        assert os.listdir(tmp_path) == ["name"]

    def test_a_full_disk_leaves_the_old_bytes(self, tmp_path: Path) -> None:
        """The kernel refuses to write more than 64 KiB: the error says so and names the path."""
        Artifacts(str(tmp_path)).put("checkpoint", b"old")
        code = (
            "import resource, sys; from fold_search.storage.artifacts import Artifacts;"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 16}, {resource.RLIM_INFINITY}));"
            "Artifacts(sys.argv[1]).put('checkpoint', bytes(1 << 20))"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        found = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}, check=False
        )
        assert found.stderr.splitlines()[-1] == (
            f"fold_search.storage.errors.StorageError: {tmp_path}/checkpoint: the disk is full"
        )
        assert os.listdir(tmp_path) == ["checkpoint"]
        assert (tmp_path / "checkpoint").read_bytes() == b"old"

    def test_a_folder_that_takes_no_files_is_named(self) -> None:
        """Also for root: the kernel's own folders take none."""
        with pytest.raises(StorageError, match=r"^/proc/checkpoint: No such file or directory$"):
            Artifacts("/proc").put("checkpoint", b"data")

    def test_a_file_in_the_way_is_named(self, tmp_path: Path) -> None:
        """Where a folder should be."""
        (tmp_path / "trial-0").touch()
        with pytest.raises(StorageError, match=r"trial-0/fold-1: (Not a directory|File exists)"):
            Artifacts(str(tmp_path)).put("trial-0/fold-1", b"data")

    def test_others_may_read_what_the_umask_allows(self, tmp_path: Path) -> None:
        """A worker in another container reads the checkpoint of this one."""
        before = os.umask(0o022)
        Artifacts(str(tmp_path)).put("name", b"data")
        os.umask(before)
        assert (tmp_path / "name").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("url", "found"), [("nowhere://x", "Protocol not known"), ("s3://ann:s3cret@x/y", "s3fs")])
def test_a_store_that_cannot_be_reached_is_an_error(url: str, found: str) -> None:
    """An unknown protocol, or one whose package is missing; without passwords."""
    with pytest.raises(StorageError, match=found) as caught:
        Artifacts(url)
    assert "s3cret" not in str(caught.value)


def test_names_below_a_folder_are_listed(tmp_path: Path):
    """As they were put, and none where nothing was."""
    artifacts = Artifacts(str(tmp_path))
    for name in ("a/one", "a/b/two", "ab/three"):
        artifacts.put(name, b"x")
    assert artifacts.names("a") == ["a/b/two", "a/one"]
    assert artifacts.names("c") == []
