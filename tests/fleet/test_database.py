"""Changes that are committed together: one that fails undoes only itself."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from osbuild.fleet.database import Database
from osbuild.fleet.devices import record_contacts, register_device
from osbuild.fleet.postgresql import parse_address
from osbuild.fleet.tables import devices
from tests.support.postgresql import PostgresqlServer, text_of


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "fleet.db")
    yield database
    database.close()


def commit_together(database: Database, *works: Callable[[Connection], object]) -> list[Future[object]]:
    """Make changes in one commit: they wait while the one before them is made."""
    gate = threading.Event()
    first = database.begin_change(lambda _connection: gate.wait(60))
    futures = [database.begin_change(work) for work in works]
    gate.set()
    assert first.result(60)
    return futures


def names(database: Database) -> set[str]:
    return database.read(lambda connection: set(connection.execute(select(devices.c.name)).scalars()))


def register(name: str) -> Callable[[Connection], object]:
    return lambda connection: register_device(connection, name, 1)


def register_and_fail(connection: Connection) -> None:
    register_device(connection, "undone", 1)
    raise LookupError("on purpose")


def test_all_changes_of_a_commit_are_stored(database: Database) -> None:
    for future in commit_together(database, register("a"), register("b")):
        future.result(60)
    assert names(database) == {"a", "b"}


@pytest.mark.parametrize("position", range(3))
def test_a_change_that_fails_undoes_only_itself(database: Database, position: int) -> None:
    works = [register("a"), register("b")]
    works.insert(position, register_and_fail)
    futures = commit_together(database, *works)
    with pytest.raises(LookupError, match="on purpose"):
        futures.pop(position).result(60)
    for future in futures:
        future.result(60)
    assert names(database) == {"a", "b"}
    database.begin_change(register("c")).result(60)
    assert names(database) == {"a", "b", "c"}


def test_a_single_change_that_fails_is_undone(database: Database) -> None:
    with pytest.raises(LookupError, match="on purpose"):
        database.begin_change(register_and_fail).result(60)
    assert names(database) == set()


def test_a_change_whose_caller_has_gone_is_not_made(database: Database) -> None:
    gate, begun = threading.Event(), threading.Event()

    def wait(_connection: Connection) -> None:
        begun.set()
        gate.wait(60)

    first = database.begin_change(wait)
    assert begun.wait(60)
    second = database.begin_change(register("a"))
    assert second.cancel()
    gate.set()
    first.result(60)
    database.begin_change(register("b")).result(60)
    assert names(database) == {"b"}


def check_contacts(database: Database) -> None:
    def store(connection: Connection) -> None:
        first, second, _third = (register_device(connection, name, 1).id for name in ("a", "b", "c"))
        record_contacts(connection, {first: (1_796_025_250_632, "192.0.2.1"), second: (2, "2001:db8::1")})
        record_contacts(connection, {second: (3, ""), second + 100: (4, "192.0.2.2")})  # a device that does not exist

    database.begin_change(store).result(60)
    columns = select(devices.c.name, devices.c.last_seen, devices.c.address).order_by(devices.c.name)
    rows = database.read(lambda connection: [tuple(row) for row in connection.execute(columns)])
    assert rows == [("a", 1_796_025_250_632, "192.0.2.1"), ("b", 3, ""), ("c", None, None)]


def test_the_last_contact_of_each_device_is_stored(database: Database) -> None:
    check_contacts(database)


def test_postgresql_stores_the_last_contact_of_each_device(postgresql: PostgresqlServer) -> None:
    database = Database(parse_address(text_of(postgresql.create_database())))
    try:
        check_contacts(database)
    finally:
        database.close()
