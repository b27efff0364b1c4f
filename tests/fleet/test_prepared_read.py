"""Prepared reads give the same rows as SQLAlchemy's own execution."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, select

from osbuild.fleet.database import Database
from osbuild.fleet.devices import register_device
from osbuild.fleet.postgresql import parse_address
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.tables import devices
from tests.support.postgresql import text_of

STATEMENT = select(devices).where(
    devices.c.name >= bindparam("first"), devices.c.name <= bindparam("last"), devices.c.auto_confirm.is_(False)
)


@pytest.mark.parametrize(("first", "last", "number"), [("a", "z", 3), ("b", "b", 1), ("x", "z", 0), ("'; --", "a", 1)])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_are_those_of_sqlalchemy(
    kind: str, first: str, last: str, number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        database = Database(tmp_path / "fleet.db")
    else:
        database = Database(parse_address(text_of(request.getfixturevalue("postgresql").create_database())))

    def fill(connection: Connection) -> None:
        for name in ("a", "b", "c"):
            register_device(connection, name, 1, token=name)

    def read(connection: Connection) -> None:
        parameters = {"first": first, "last": last}
        expected = [dict(row) for row in connection.execute(STATEMENT, parameters).mappings()]
        rows = list(prepared.rows(connection, **parameters))
        assert rows == expected and len(rows) == number
        # SQLite has no truth values: the driver returns numbers.
        assert all(row["attributes_wanted"] is True for row in rows)
        assert prepared.first(connection, **parameters) == (expected[0] if expected else None)

    prepared = PreparedRead(STATEMENT)
    try:
        database.begin_change(fill).result()
        database.read(read)
        database.begin_change(read).result()  # and in a transaction that writes
    finally:
        database.close()
