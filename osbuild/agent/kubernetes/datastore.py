"""The datastore of the cluster: one table of kine in SQLite, the same for both distributions.

Each change of an object adds a row. `id` is the revision of the whole datastore, and the newest row of a `name` is the
current state of this object (kine, pkg/drivers/generic). Rows are never changed, except `compact_rev_key`, whose
`prev_revision` is the revision up to which old rows were removed.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.files import sync_path

FILE = "/var/lib/kubernetes/server/db/state.db"
SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")  # files beside a database ("Temporary Files Used By SQLite")
PATIENCE = 30.0  # seconds to wait for a lock
# Objects with K3s' certificate authorities, encrypted with the token. When K3s starts, it writes them to its files, or
# refuses to start if the files are newer (pkg/cluster/bootstrap.go). Without such objects, it stores the files.
BOOTSTRAP = "/bootstrap/"
# Objects that the cluster itself changes all the time, and rows that are not objects.
IGNORED = ("/registry/events/", "/registry/leases/", "/registry/masterleases/", "compact_rev_key", "gap-", BOOTSTRAP)
LIVE = "SELECT name, id FROM kine WHERE deleted = 0 AND id IN (SELECT MAX(id) FROM kine GROUP BY name)"
# A client of the replaced datastore has seen at most this many revisions that are not on the disk.
REVISION_MARGIN = 10_000
DAMAGED = "restore one of the snapshots that `edge-agent kubernetes snapshots` lists"


@dataclass(frozen=True)
class DatastoreState:
    """`revision` is the id of the newest row, 0 if there is none; `schema` is a hash of tables and indexes."""

    revision: int
    schema: str


@dataclass(frozen=True)
class DatastoreChanges:
    """Sorted keys of objects (such as `configmaps/default/x`) that differ between two datastores."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


def find_database(system: System) -> Path | None:
    """The database of this node; None on an agent node, a new server node, or with another kind of datastore."""
    path = system.path(FILE)
    return path if path.exists() else None


def database_size(path: Path) -> int:
    """The size of a database with the files beside it, in bytes."""
    return sum(part.stat().st_size for part in (path, *sqlite_files(path)) if part.exists())


def sqlite_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES]


def sync_to_disk(system: System) -> None:
    """Write all changes of the datastore to the disk. Raises `OSError`."""
    # With `synchronous=NORMAL`, SQLite does this only from time to time, and a power cut loses the changes since then.
    path = system.path(FILE)
    for part in (path, *sqlite_files(path)):
        with suppress(FileNotFoundError):
            sync_path(part)


@contextmanager
def open_database(path: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """Open an existing database. Raises `Problem` for every error of SQLite.

    With `alone`, no other process uses it: it is read without locks or files beside it (SQLite, "URI Filenames").
    """
    connection = None
    try:
        uri = f"{path.absolute().as_uri()}?{'mode=ro&immutable=1' if alone else 'mode=rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE)
        yield connection
    except sqlite3.Error as error:
        raise Problem(str(error), where=str(path), hint=DAMAGED) from error
    finally:
        if connection:
            connection.close()


def read_state(path: Path, *, alone: bool = False) -> DatastoreState:
    """Revision and schema of a datastore. Raises `Problem`."""
    with open_database(path, alone=alone) as database:
        definitions = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
        schema = hashlib.sha256("\n".join(text for (text,) in definitions).encode()).hexdigest()[:16]
        if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kine'").fetchone():
            return DatastoreState(0, schema)
        return DatastoreState(database.execute("SELECT MAX(id) FROM kine").fetchone()[0] or 0, schema)


def verify_database(path: Path) -> None:
    """Raise `Problem` if a database that no other process uses is damaged. Checks every page, row and index entry."""
    with open_database(path, alone=True) as database:
        (result, *_) = (text for (text,) in database.execute("PRAGMA integrity_check(1)"))
    if result != "ok":
        raise Problem(" ".join(result.split()), where=str(path), hint=DAMAGED)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database, which may be in use, to the new file `target`, and flush it to the disk. Raises `Problem`.

    The copy is consistent and contains all changes committed before, including those in the write-ahead log.
    """
    # A backup in one step uses one read transaction, which does not block writers in WAL mode (SQLite, "Backup API").
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with open_database(source) as old, open_database(target) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")
    sync_path(target)


def raise_revision(path: Path, revision: int) -> None:
    """Raise the revision of a datastore to `revision`, with all earlier ones marked as compacted. Raises `Problem`."""
    # Clients that watch from a revision of the replaced datastore then get an error and list all objects again, instead
    # of missing changes. `etcdutl snapshot restore --bump-revision --mark-compacted` does the same for etcd. kine
    # itself writes such a row for a revision without a change.
    with open_database(path) as database, database:
        database.execute(
            "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "VALUES (?, ?, 0, 1, 0, 0, 0, NULL, NULL)",
            (revision, f"gap-{revision}"),
        )
        database.execute("UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'", (revision,))
    sync_path(path)


def delete_objects(path: Path, prefix: str) -> None:
    """Delete every object whose name begins with `prefix`. No other process may use the datastore. Raises `Problem`."""
    # A deletion is a new row, as in kine.
    with open_database(path) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kine'").fetchone():
            return
        objects = [(name, revision) for name, revision in database.execute(LIVE) if name.startswith(prefix)]
        database.executemany(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "SELECT name, 0, 1, 0, id, 0, NULL, value FROM kine WHERE name = ? AND id = ?",
            objects,
        )
    sync_path(path)


def compare_databases(old: Path, new: Path) -> DatastoreChanges:
    """The changes of objects from `old` (a copy) to `new`, except those in `IGNORED`. Raises `Problem`."""
    with open_database(old, alone=True) as database:
        before = dict(database.execute(LIVE))
    with open_database(new) as database:
        after = dict(database.execute(LIVE))

    def sorted_keys(names: Iterator[str]) -> tuple[str, ...]:
        return tuple(sorted(name.removeprefix("/registry/") for name in names if not name.startswith(IGNORED)))

    return DatastoreChanges(
        created=sorted_keys(name for name in after if name not in before),
        changed=sorted_keys(name for name, revision in after.items() if before.get(name, revision) != revision),
        deleted=sorted_keys(name for name in before if name not in after),
    )
