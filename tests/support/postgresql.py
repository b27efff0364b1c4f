"""PostgreSQL of Debian for tests: a server in a tools tree, of an unprivileged user, at a socket only."""

import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, create_engine

from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import unlocked_tools_tree

PACKAGES = ("postgresql-17",)
USER, NOBODY = "edge", 65534
# Ends in order when its standard input is closed. fsync stays on, as it is by default.
SCRIPT = """
PATH=/usr/lib/postgresql/17/bin:$PATH
set -e
cd "$1"
initdb --pgdata data --username edge --pwfile password --auth scram-sha-256 --no-sync --encoding UTF8 --locale C >log
start() {
    pg_ctl --pgdata data --log log --wait --mode fast --options "-k $1 -c listen_addresses=" "$2" >log.ctl
    echo ready
}
start "$1" start
while read -r order; do start "$1" "$order"; done
pg_ctl --pgdata data --mode fast --wait stop
"""


@dataclass
class PostgresqlServer:
    """A server that listens at a socket in `folder`."""

    folder: Path
    password: str
    process: subprocess.Popen[str]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def address(self, database: str) -> URL:
        return URL.create("postgresql", USER, self.password, database=database, query={"host": str(self.folder)})

    def create_database(self) -> URL:
        """Create an empty database, and return its address."""
        name = f"fleet_{next(self._numbers)}"
        address = self.address("postgres").set(drivername="postgresql+psycopg")
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.address(name)

    def restart(self) -> None:
        """End all connections, and start again."""
        assert self.process.stdin is not None
        self.process.stdin.write("restart\n")
        self.process.stdin.flush()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        logs = "\n".join(path.read_text() for path in self.folder.glob("log*")) if line != "ready\n" else ""
        assert line == "ready\n", (line, logs)


def text_of(address: URL) -> str:
    """Return an address with its password."""
    return address.render_as_string(hide_password=False)


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """Run a server with an empty cluster. It must end in order."""
    tools = unlocked_tools_tree(Cache(), "database-tests", PACKAGES, "PostgreSQL")
    # The name of a socket has at most 107 bytes (unix(7)), and those of pytest's folders may be longer.
    folder = Path(tempfile.mkdtemp(prefix="edge-postgresql-"))
    try:
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            os.chown(path, NOBODY, NOBODY)
        drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--"]
        # Only root could enter folders that bwrap makes above the one that it binds: it makes none above this one.
        command = tools.wrap_command([*drop, "sh", "-c", SCRIPT, "sh", str(folder)], [folder.parent])
        with (folder / "log.sandbox").open("w") as log:
            process = subprocess.Popen(  # Ctrl-C is for the tests, which end it
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        server = PostgresqlServer(folder, password, process)
        try:
            server.wait_until_ready()
            yield server
        finally:
            assert process.stdin is not None
            process.stdin.close()
            status = process.wait(60)
            logs = [path.read_text() for path in folder.glob("log*")]
        assert status == 0 and "database system is shut down" in "".join(logs), logs
    finally:
        shutil.rmtree(folder)
