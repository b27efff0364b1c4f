"""MariaDB of Debian for tests: a server in a tools tree, of an unprivileged user, at a socket only."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import unlocked_tools_tree
from tests.support.postgresql import NOBODY

PACKAGES = ("mariadb-server",)
USER = "edge"
# Ends in order when its standard input is closed.
SCRIPT = """
set -e
cd "$1"
mariadb-install-db --no-defaults --force --datadir="$1/data" --auth-root-authentication-method=normal >log
set -- "$1" --no-defaults --datadir="$1/data" --socket="$1/socket"
mariadbd "$2" "$3" "$4" --skip-networking --init-file="$1/init.sql" >log.server 2>&1 &
server=$!
until mariadb-admin --no-defaults --socket="$1/socket" --user=root ping >/dev/null 2>&1; do
    kill -0 "$server"
    sleep 0.2
done
echo ready
cat >/dev/null
kill "$server"
wait "$server"
"""


@contextmanager
def running_mariadb() -> Iterator[str]:
    """Run a server with an empty database, and yield its address as kine wants it."""
    tools = unlocked_tools_tree(Cache(), "mariadb-tests", PACKAGES, "MariaDB")
    # The name of a socket has at most 107 bytes (unix(7)), and those of pytest's folders may be longer.
    folder = Path(tempfile.mkdtemp(prefix="edge-mariadb-"))
    try:
        password = secrets.token_hex(16)
        (folder / "init.sql").write_text(
            "CREATE DATABASE kubernetes;\n"
            f"CREATE USER '{USER}'@'localhost' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON kubernetes.* TO '{USER}'@'localhost';\n"
        )
        for path in (folder, folder / "init.sql"):
            os.chown(path, NOBODY, NOBODY)
        drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--"]
        command = tools.wrap_command([*drop, "sh", "-c", SCRIPT, "sh", str(folder)], [folder.parent])
        with (folder / "log.sandbox").open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", (line, read_logs(folder))
            yield f"mysql://{USER}:{password}@unix({folder}/socket)/kubernetes"
        finally:
            process.stdin.close()
            status = process.wait(60)
        assert status == 0, read_logs(folder)
    finally:
        shutil.rmtree(folder)


def read_logs(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.glob("log*")]
