"""The cluster's datastore: the one table that kine keeps in SQLite, the same for both distributions.

Each change of an object is a new row; `id` is the revision of the whole datastore, and the newest row of a `name` says
how that object is (kine, pkg/drivers/generic). Rows are never changed, but for that of `compact_rev_key`, whose
`prev_revision` says up to where history has been dropped.
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
SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database ("Temporary Files Used By SQLite")
PATIENCE = 30.0  # seconds to wait for a lock
# Objects that hold K3s' authorities, encrypted with the token. K3s writes them to its files when it starts, or refuses
# to start if the files are newer (pkg/cluster/bootstrap.go). If there are none, it takes the files and stores them.
BOOTSTRAP = "/bootstrap/"
# Written without end by the cluster itself; and what is no object.
NOISE = ("/registry/events/", "/registry/leases/", "/registry/masterleases/", "compact_rev_key", "gap-", BOOTSTRAP)
LIVE = "SELECT name, id FROM kine WHERE deleted = 0 AND id IN (SELECT MAX(id) FROM kine GROUP BY name)"
# Nobody who watched the replaced datastore can have seen a revision this far on that the disk did not keep.
REVISION_MARGIN = 10_000
DAMAGED = "`edge-agent kubernetes snapshots` lists what there is to go back to"


@dataclass(frozen=True)
class DatastoreState:
    """`revision` is the newest row's id, 0 in an empty datastore; `schema` is a digest of tables and indexes."""

    revision: int
    schema: str


@dataclass(frozen=True)
class DatastoreChanges:
    """Objects by their key (`configmaps/default/x`), sorted: what one datastore has and another has not."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


def find_database(system: System) -> Path | None:
    """The database of this node; None where there is none: an agent, a new server, or another kind of datastore."""
    path = system.path(FILE)
    return path if path.exists() else None


def database_size(path: Path) -> int:
    """Bytes of a database with what is beside it."""
    return sum(part.stat().st_size for part in (path, *sqlite_files(path)) if part.exists())


def sqlite_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES]


def sync_to_disk(system: System) -> None:
    """Bring what has been written to this node's datastore to the disk. Raises `OSError`.

    With `synchronous=NORMAL` SQLite does so now and then only, and a power cut takes what was written since.
    """
    path = system.path(FILE)
    for part in (path, *sqlite_files(path)):
        with suppress(FileNotFoundError):
            sync_path(part)


@contextmanager
def open_database(path: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """A database, which must exist. Raises `Problem` for whatever SQLite says.

    `alone`: nobody writes to it, so it is read without locks, and nothing is made beside it ("URI Filenames").
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
    """How far a datastore is. Raises `Problem`."""
    with open_database(path, alone=alone) as database:
        found = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
        schema = hashlib.sha256("\n".join(text for (text,) in found).encode()).hexdigest()[:16]
        if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kine'").fetchone():
            return DatastoreState(0, schema)
        return DatastoreState(database.execute("SELECT MAX(id) FROM kine").fetchone()[0] or 0, schema)


def verify_database(path: Path) -> None:
    """Raise `Problem` unless a database that nobody writes to is whole: every page, row and index entry."""
    with open_database(path, alone=True) as database:
        (verdict, *_) = (text for (text,) in database.execute("PRAGMA integrity_check(1)"))
    if verdict != "ok":
        raise Problem(" ".join(verdict.split()), where=str(path), hint=DAMAGED)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that may be written to meanwhile into the new file `target`, on the disk when this returns.

    The copy is of one moment, with all that was committed until then, the write-ahead log's included: as one step, the
    backup runs in one read transaction, which in WAL mode holds up no writer (SQLite, "Backup API", "WAL"). It is one
    file: no log belongs to it. Raises `Problem`.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with open_database(source) as old, open_database(target) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")
    sync_path(target)


def skip_to_revision(path: Path, revision: int) -> None:
    """Let a datastore go on after `revision`, as if all before it had been compacted.

    Who still watches from a revision of the datastore that this one replaces gets an error for it and asks for
    everything anew, instead of missing what came in between. `etcdutl snapshot restore --bump-revision
    --mark-compacted` does the same for etcd. The row is one that kine itself writes where a revision has no change.
    """
    with open_database(path) as database, database:
        database.execute(
            "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "VALUES (?, ?, 0, 1, 0, 0, 0, NULL, NULL)",
            (revision, f"gap-{revision}"),
        )
        database.execute("UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'", (revision,))
    sync_path(path)


def delete(path: Path, prefix: str) -> None:
    """Delete every object whose name begins with `prefix` from a datastore that nothing else writes to.

    Each deletion is a row like kine's own. Raises `Problem`.
    """
    with open_database(path) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kine'").fetchone():
            return
        found = [(name, revision) for name, revision in database.execute(LIVE) if name.startswith(prefix)]
        database.executemany(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "SELECT name, 0, 1, 0, id, 0, NULL, value FROM kine WHERE name = ? AND id = ?",
            found,
        )
    sync_path(path)


def compare_databases(old: Path, new: Path) -> DatastoreChanges:
    """What `new`, grown out of `old`, has changed; noise left out. `old` is a copy. Raises `Problem`."""
    with open_database(old, alone=True) as database:
        before = dict(database.execute(LIVE))
    with open_database(new) as database:
        after = dict(database.execute(LIVE))

    def listed(names: Iterator[str]) -> tuple[str, ...]:
        return tuple(sorted(name.removeprefix("/registry/") for name in names if not name.startswith(NOISE)))

    return DatastoreChanges(
        created=listed(name for name in after if name not in before),
        changed=listed(name for name, revision in after.items() if before.get(name, revision) != revision),
        deleted=listed(name for name in before if name not in after),
    )
