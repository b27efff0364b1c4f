"""A datastore as kine 0.16.4 makes and writes it (its pkg/drivers/sqlite and pkg/drivers/generic), with real SQLite.

Run as a program (`python kine.py FILE`) it writes endlessly, like a busy cluster: pairs of rows, each pair in one
transaction, and compactions. It prints a line after the first rows.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

TABLE = """CREATE TABLE IF NOT EXISTS kine
    (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT,
        created INTEGER,
        deleted INTEGER,
        create_revision INTEGER,
        prev_revision INTEGER,
        lease INTEGER,
        value BLOB,
        old_value BLOB
    )"""
INDEXES = (
    "CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)",
    "CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id)",
    "CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted)",
    "CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision)",
    "CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision)",
    "CREATE INDEX IF NOT EXISTS kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision) "
    "WHERE name != 'compact_rev_key' AND prev_revision != 0",
)
INSERT = """INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value)
    SELECT ?, ?, ?, ?, ?, ?, ?, (SELECT value FROM kine WHERE id = ?) AS old_value"""
COMPACT = """DELETE FROM kine AS kv
    WHERE kv.id IN (
        SELECT kp.prev_revision AS id FROM kine AS kp
        WHERE kp.name != 'compact_rev_key' AND kp.prev_revision != 0 AND kp.id <= ?
        UNION
        SELECT kd.id AS id FROM kine AS kd WHERE kd.deleted != 0 AND kd.id <= ?)"""


class Kine:
    """The operations of an API server on its datastore."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def put(self, name: str, value: bytes = b"") -> int:
        """Create or change an object; returns the new revision."""
        old = self.newest(name)
        if old is None or old[2]:
            row = (name, 1, 0, 0, old[0] if old else 0, 0, value, old[0] if old else 0)
        else:
            row = (name, 0, 0, old[1] or old[0], old[0], 0, value, old[0])
        return int(self.database.execute(INSERT, row).lastrowid or 0)

    def delete(self, name: str) -> int:
        old = self.newest(name)
        assert old and not old[2]
        row = (name, 0, 1, old[1] or old[0], old[0], 0, b"", old[0])
        return int(self.database.execute(INSERT, row).lastrowid or 0)

    def newest(self, name: str) -> tuple[int, int, int] | None:
        text = "SELECT id, create_revision, deleted FROM kine WHERE id = (SELECT MAX(id) FROM kine WHERE name = ?)"
        row: tuple[int, int, int] | None = self.database.execute(text, (name,)).fetchone()
        return row

    def compact(self, revision: int) -> None:
        with self.database:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.execute(COMPACT, (revision, revision))
            self.database.execute("UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'", (revision,))

    @property
    def revision(self) -> int:
        return int(self.database.execute("SELECT MAX(id) FROM kine").fetchone()[0])

    @property
    def compacted(self) -> int:
        text = "SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'"
        return int(self.database.execute(text).fetchone()[0])

    def objects(self) -> dict[str, bytes]:
        """Return the objects at the current revision."""
        text = "SELECT name, value FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0"
        rows = self.database.execute(text).fetchall()
        return {name: value for name, value in rows if name.startswith("/")}


@contextmanager
def start_kine(path: Path) -> Iterator[Kine]:
    """Open a database like kine at its start: create it if missing, in WAL mode, and vacuum it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        for text in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", TABLE, *INDEXES):
            database.execute(text)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")
        kine = Kine(database)
        if kine.newest("compact_rev_key") is None:
            database.execute(INSERT, ("compact_rev_key", 1, 0, 0, 0, 0, b"", 0))
        yield kine
    finally:
        database.close()


def write_without_end(path: Path) -> None:
    with start_kine(path) as kine:
        for number in count(1):
            kine.database.execute("BEGIN IMMEDIATE")
            for half in ("left", "right"):
                kine.put(f"/registry/{half}/{number % 50}", str(number).encode() * 200)
            kine.database.execute("COMMIT")
            if number % 400 == 0:
                kine.compact(kine.revision - 200)
            if number == 20:
                print("writing", flush=True)


if __name__ == "__main__":
    write_without_end(Path(sys.argv[1]))
