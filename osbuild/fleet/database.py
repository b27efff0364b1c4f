"""The update server's database: a file of SQLite, or one of PostgreSQL that several servers share."""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, Table, insert, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from osbuild.fleet import postgresql
from osbuild.fleet.refusal import Refused
from osbuild.fleet.sqlite import connect_file, connect_writer, prepare_file
from osbuild.host import log

T = TypeVar("T")
_Outcome = Callable[[], None]  # tells the caller of a change how it has ended
RETRY_AFTER = 60  # seconds
MOST_CHANGES = 256
"""changes in one commit"""


@dataclass(frozen=True)
class _PendingChange:
    """A change that waits for the thread that writes, and where its result goes."""

    work: Callable[[Connection], Any]
    result: Future[Any]


class Database:
    """The database in a file, or at an address of PostgreSQL. It is created, or migrated if it is an older one.

    All changes are made by one thread. It commits the changes that wait together, because one commit costs one flush
    of the disk. A change whose commit has succeeded survives a power cut. Raises `Error`, and later `Refused` if the
    database fails, such as with a full disk or a PostgreSQL that has ended.
    """

    def __init__(self, location: Path | URL) -> None:
        if isinstance(location, URL):
            postgresql.prepare_tables(location)
            self._engine, self._reading = postgresql.connect_sharer(location), postgresql.connect_reader(location)
        else:
            prepare_file(location)
            self._engine, self._reading = connect_writer(location), connect_file(location)
        self._reader = self._reading.connect()
        self._last_warning = -math.inf
        self._changes: queue.SimpleQueue[_PendingChange | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_changes, name="database", daemon=True)
        self._thread.start()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work`, which must not change anything. Only one thread may call this.

        Each statement reads what is committed at that time.
        """
        try:
            if self._reader.invalidated:  # the last attempt has failed
                self._connect_again()
            return work(self._reader)
        except (OperationalError, InterfaceError) as error:
            if not error.connection_invalidated:
                raise self._refuse(error) from error
        try:
            self._connect_again()  # PostgreSQL was started again
            return work(self._reader)
        except (OperationalError, InterfaceError) as error:
            raise self._refuse(error) from error

    async def change(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the thread that writes, in a transaction, and return its result after the commit.

        What `work` raises is raised here, and only its own changes are undone.
        """
        try:
            return await asyncio.wrap_future(self.begin_change(work))
        except (OperationalError, InterfaceError) as error:
            raise self._refuse(error) from error

    def begin_change(self, work: Callable[[Connection], T]) -> Future[T]:
        """Like `change`, for callers without an event loop."""
        result: Future[T] = Future()
        self._changes.put(_PendingChange(work, result))
        return result

    @property
    def is_alive(self) -> bool:
        """Whether changes are made."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Commit the changes that wait, and close the file."""
        self._changes.put(None)
        self._thread.join()
        self._reader.close()
        self._reading.dispose()
        self._engine.dispose()

    def _refuse(self, error: DBAPIError) -> Refused:
        """Return the refusal of a request, because the database has failed. The reason is logged once a minute."""
        reason, now = " ".join(str(error.orig).split()), time.monotonic()
        if now >= self._last_warning + RETRY_AFTER:
            self._last_warning = now
            log.warn(f"the database fails: {reason}")
        return Refused(503, "database-failure", "the database of the server fails: its log says why", RETRY_AFTER)

    def _connect_again(self) -> None:
        lost, self._reader = self._reader, self._reading.connect()
        lost.close()

    def _commit_changes(self) -> None:
        last = False
        while not last:
            waiting = [self._changes.get()]
            while len(waiting) < MOST_CHANGES and not self._changes.empty():
                waiting.append(self._changes.get())
            last = None in waiting
            self._commit([change for change in waiting if change is not None])

    def _commit(self, changes: list[_PendingChange]) -> None:
        # The caller of a change may have gone.
        wanted = [change for change in changes if change.result.set_running_or_notify_cancel()]
        try:
            outcomes = self._make_together(wanted) or self._make_apart(wanted)
        except Exception as error:  # nothing of it is stored, and the next changes may succeed
            for change in wanted:
                change.result.set_exception(error)
            return
        for outcome in outcomes:
            outcome()

    def _make_together(self, changes: list[_PendingChange]) -> list[_Outcome]:
        """Make changes in one transaction. Return what tells their callers; nothing if one of them fails."""
        try:
            with self._engine.begin() as connection:
                values = [change.work(connection) for change in changes]
        except Exception as error:  # as rare as refused reports; `_make_apart` finds out which one it was
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise  # the changes may have been committed, and must not be made twice
            return []
        return [partial(change.result.set_result, value) for change, value in zip(changes, values, strict=True)]

    def _make_apart(self, changes: list[_PendingChange]) -> list[_Outcome]:
        """Make changes in one transaction, and undo only those that fail. This needs half as much time again."""
        with self._engine.begin() as connection:
            return [_try_change(connection, change) for change in changes]


def insert_row(connection: Connection, table: Table, values: Mapping[str, object]) -> int:
    """Insert a row into a table whose key is a number, and return the number."""
    key = connection.execute(insert(table).values(dict(values))).inserted_primary_key
    assert key is not None
    return int(key[0])


def revoke_rows(connection: Connection, table: Table, chosen: ColumnElement[bool], now: int) -> int:
    """Set `revoked` of the chosen rows that are not revoked yet, and return how many they were."""
    valid = chosen & table.c.revoked.is_(None)
    return connection.execute(update(table).where(valid).values(revoked=now)).rowcount


def _try_change(connection: Connection, change: _PendingChange) -> _Outcome:
    """Make one change of a transaction. Return what tells its caller after the commit."""
    try:
        with connection.begin_nested():
            value = change.work(connection)
    except Exception as error:
        return partial(change.result.set_exception, error)
    return partial(change.result.set_result, value)
