"""Checkpoints, predictions and reports behind a URL: a local folder, or whatever fsspec reaches."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fold_search.storage.database import redact
from fold_search.storage.errors import StorageError, reason_of
from fold_search.storage.files import whole_file


class Artifacts:
    """Named bytes under one folder or URL; names are relative paths with `/`. Every method raises StorageError."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _explaining(redact(url)):
            self._filesystem, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._filesystem, LocalFileSystem)

    def put(self, name: str, data: bytes) -> None:
        """Store the bytes whole or not at all; what was there under the name is replaced."""
        path = self._path(name)
        with _explaining(path):
            if self._local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with whole_file(Path(path)) as unfinished:
                    unfinished.write_bytes(data)
            else:
                self._filesystem.pipe_file(path, data)

    def get(self, name: str) -> bytes:
        """The bytes that were put."""
        path = self._path(name)
        with _explaining(path):
            try:
                data: bytes = self._filesystem.cat_file(path)
            except FileNotFoundError:
                raise StorageError(f"{path}: there is no such artifact") from None
            return data

    def delete(self, name: str) -> None:
        """Remove it; without effect if it is not there."""
        path = self._path(name)
        with _explaining(path), suppress(FileNotFoundError):
            self._filesystem.rm_file(path)

    def names(self, folder: str) -> list[str]:
        """The names below a folder, sorted; none where there is no such folder."""
        path = self._path(folder)
        with _explaining(path):
            # fsspec keeps listings of remote places; another process may have written since.
            self._filesystem.invalidate_cache()
            found = self._filesystem.find(path)
        return sorted(str(name).removeprefix(f"{self._root}/") for name in found)

    def size(self, name: str) -> int:
        """How many bytes it has; 0 if it is not there."""
        path = self._path(name)
        with _explaining(path), suppress(FileNotFoundError):
            return int(self._filesystem.size(path))
        return 0

    def exists(self, name: str) -> bool:
        """Whether it is there."""
        path = self._path(name)
        with _explaining(path):
            return bool(self._filesystem.isfile(path))

    @property
    def place(self) -> str:
        """The folder, whole, or the URL, without its password."""
        return str(self._root) if self._local else redact(self.url)

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise StorageError(f"artifact name: found {name!r}, expected a relative path inside {redact(self.url)}")
        return f"{self._root}/{'/'.join(parts)}"


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    """Turn a file system's errors into one line that names the path."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{place}: {reason_of(error)}") from None
    except (ValueError, ImportError) as error:
        raise StorageError(f"{place}: {error}") from None
