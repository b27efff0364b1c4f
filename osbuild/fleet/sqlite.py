"""The update server's database as a file of SQLite."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from osbuild.fleet.migration import update_schema
from osbuild.host.output import discard_file, publish_files
from osbuild.host.scratch import ANY_SUFFIX, remove_leftovers, scratch_folder
from osbuild.shared.errors import Error
from osbuild.shared.files import open_new

BUSY = 10.0  # seconds to wait for another process that writes
MOST_COPIES = 3
"""copies of older revisions that are kept"""
SCRATCH = ".edge-osbuild-copy-"
PRIVATE = 0o600


def connect_file(path: Path, *, foreign_keys: bool = True) -> Engine:
    """Return an engine whose connections read what is committed at the time of each statement."""
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY, "check_same_thread": False, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # FULL: a commit is on the disk before it returns, in WAL mode too (https://sqlite.org/pragma.html#pragma_synchronous).
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"foreign_keys = {foreign_keys}"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def connect_writer(path: Path, *, foreign_keys: bool = True) -> Engine:
    """Return an engine whose transactions wait for those of others before they read anything."""
    engine = connect_file(path, foreign_keys=foreign_keys)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Python's module would begin transactions too late, and savepoints without one.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def prepare_file(path: Path) -> None:
    """Create the database, or bring it to the newest revision; before that, it is copied. Raises `Error`."""
    make_private(path)
    # Without foreign keys, as a table that others refer to is replaced (https://sqlite.org/lang_altertable.html).
    engine = connect_writer(path, foreign_keys=False)
    try:
        with engine.begin() as connection:
            migrated = update_schema(connection, str(path), lambda revision: keep_copy(path, revision))
            if migrated and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                raise Error(f"a row of the table {broken[0]} refers to one that does not exist", where=str(path))
    except DBAPIError as error:
        raise Error(f"the database can't be opened: {error.orig}", where=str(path)) from error
    finally:
        engine.dispose()


def make_private(path: Path) -> None:
    """Create the file of a database, or let only its owner read it. Raises `Error` if it is not a regular file."""
    # SQLite would follow a link, and its log would be beside the target.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        hint = "move the database there, or name its folder with --data"
        raise Error("the database is not a regular file", where=str(path), hint=hint)
    try:
        if not path.exists():
            os.close(open_new(path, PRIVATE))
        for suffix in ("", "-wal", "-shm"):
            file = path.with_name(f"{path.name}{suffix}")
            if file.is_file() and not file.is_symlink() and file.stat().st_uid == os.geteuid():
                file.chmod(PRIVATE)
    except OSError as error:
        raise Error(f"the database can't be opened: {error.strerror}", where=str(path)) from error


def keep_copy(path: Path, revision: str) -> str:
    """Copy a database of an old revision beside it. Return where the copy is. Raises `Error`."""
    copies = f"{path.stem}-[0-9][0-9][0-9][0-9]{path.suffix}"
    target = path.with_stem(f"{path.stem}-{revision}")
    copy_database(path, target)
    older = sorted(copy for copy in path.parent.glob(copies) if copy != target)
    for copy in older[: 1 - MOST_COPIES]:
        discard_file(copy)
    return f"a copy of the old one is {target}"


def copy_database(path: Path, target: Path) -> None:
    """Write a consistent copy of a database, in use or not, to `target`. Raises `Error`."""
    remove_leftovers(target.parent, SCRATCH + ANY_SUFFIX)
    with scratch_folder(target.parent, SCRATCH) as scratch:
        copy = scratch / "copy"
        try:
            with closing(sqlite3.connect(path)) as reading, closing(sqlite3.connect(copy)) as writing:
                reading.backup(writing)
        except sqlite3.Error as error:
            hint = f"check the disks: this folder must not be read-only, and {target.parent} needs room for a copy"
            raise Error(f"the database can't be copied: {error}", where=str(path), hint=hint) from error
        copy.chmod(PRIVATE)
        publish_files(target.parent, {target.name: copy})
