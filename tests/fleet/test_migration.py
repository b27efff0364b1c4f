"""Databases of older versions: recognised, copied, migrated or left as they were."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Inspector, insert, inspect, select

from osbuild.fleet import migration
from osbuild.fleet.database import Database
from osbuild.fleet.sqlite import MOST_COPIES, connect_writer
from osbuild.fleet.tables import devices, metadata
from osbuild.shared.errors import Error

# A revision that comes after all others: a table that others refer to gets a column, and is replaced for that.
LATER = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9999", "NEWEST"
def upgrade():
    with op.batch_alter_table("devices", recreate="always") as table:
        table.add_column(sa.Column("color", sa.Text))
    op.get_bind().exec_driver_sql("STATEMENT")
"""


def make_database(path: Path, revision: str = migration.FIRST) -> None:
    """Make a database of a revision, with a device that has an action."""
    engine = connect_writer(path)
    with engine.begin() as connection:
        migration.run_revisions(connection, revision)
        for statement in (
            "INSERT INTO devices (id, name, created, attributes, attributes_wanted, auto_confirm) "
            "VALUES (7, 'till', 1, '{}', 0, 0)",
            "INSERT INTO bundles VALUES (1, 'os', '1', 'c', 'f', 1, 'a', 'b', 'c', 1)",
            "INSERT INTO actions (id, device, bundle, kind, state, active, weight, created) "
            "VALUES (1, 7, 1, 'forced', 'running', 1, 1, 1)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()


def read_rows(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of revisions to which one can be added."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # tests change a module more than once a second
    newest = migration.list_revisions()[-1]
    folder = tmp_path / "migrations"
    for path in migration.FOLDER.rglob("*.py"):
        target = folder / path.relative_to(migration.FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(migration, "FOLDER", folder)
    added = folder / "versions/revision_9999.py"
    added.write_text(LATER.replace("NEWEST", newest).replace("STATEMENT", "SELECT 1"))
    return added


def test_all_revisions_together_make_the_tables_of_this_version(tmp_path: Path) -> None:
    """Who changes tables.py adds a revision: see osbuild/fleet/migrations/__init__.py."""
    engine = connect_writer(tmp_path / "migrated.db")
    with engine.begin() as connection:
        migration.run_revisions(connection, migration.list_revisions()[-1])
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        migrated = describe_tables(connection)
    engine.dispose()
    new = connect_writer(tmp_path / "new.db")
    with new.begin() as connection:
        metadata.create_all(connection)
        assert migrated == describe_tables(connection)
    new.dispose()


def describe_tables(connection: Connection) -> dict[str, object]:
    """Return what a database says about its tables, apart from the order of columns."""
    inspector: Inspector = inspect(connection)

    def describe(table: str) -> list[str]:
        columns = [repr({**column, "type": str(column["type"])}) for column in inspector.get_columns(table)]
        others = (inspector.get_unique_constraints, inspector.get_foreign_keys, inspector.get_indexes)
        return sorted([*columns, *(repr(entry) for read in others for entry in read(table))])

    tables = set(inspector.get_table_names()) - {migration.versions.name}
    return {table: [repr(inspector.get_pk_constraint(table)), *describe(table)] for table in sorted(tables)}


def test_revisions_are_numbered_one_after_the_other() -> None:
    revisions = migration.list_revisions()
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    for before, revision in zip([None, *revisions], revisions, strict=False):
        lines = (migration.FOLDER / f"versions/{migration.PREFIX}{revision}.py").read_text().splitlines()
        assert f'revision = "{revision}"' in lines
        assert (f'down_revision = "{before}"' if before else "down_revision = None") in lines


def test_a_new_database_has_the_newest_revision_and_needs_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    for _ in range(2):
        Database(path).close()
        assert read_rows(path, "SELECT version_num FROM alembic_version") == [(migration.list_revisions()[-1],)]
    assert [file.name for file in tmp_path.iterdir()] == ["fleet.db"]


def test_a_database_without_revisions_is_the_first_one_and_is_migrated(tmp_path: Path, later: Path) -> None:
    path = tmp_path / "fleet.db"
    make_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE alembic_version")
        connection.commit()
    Database(path).close()
    assert read_rows(path, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert read_rows(path, "SELECT name, color FROM devices") == [("till", None)]
    assert read_rows(path, "SELECT device FROM actions") == [(7,)]
    copy = tmp_path / "fleet-0001.db"
    assert read_rows(copy, "SELECT name FROM devices") == [("till",)]
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(sqlite3.OperationalError, match="color"):
        read_rows(copy, "SELECT color FROM devices")


def test_a_migration_that_fails_changes_nothing_and_works_when_it_is_mended(tmp_path: Path, later: Path) -> None:
    path = tmp_path / "fleet.db"
    make_database(path)
    good = later.read_text()
    for bad, reason in (("INSERT INTO nothing", "nothing"), ("DELETE FROM bundles", "does not exist")):
        later.write_text(good.replace("SELECT 1", bad))
        with pytest.raises(Error, match=reason):
            Database(path)
        assert read_rows(path, "SELECT version_num FROM alembic_version") == [("0001",)]
        with pytest.raises(sqlite3.OperationalError, match="color"):
            read_rows(path, "SELECT color FROM devices")
    later.write_text(good)
    Database(path).close()
    assert read_rows(path, "SELECT id, color FROM devices") == [(7, None)]


def test_a_newer_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    make_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9998'")
        connection.commit()
    with pytest.raises(Error, match="newer version of edge-osbuild: revision 9998") as caught:
        Database(path)
    assert caught.value.where == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["fleet.db"]


def test_a_database_is_copied_while_it_is_in_use_and_old_copies_are_removed(tmp_path: Path, later: Path) -> None:
    path = tmp_path / "fleet.db"
    make_database(path)
    assert MOST_COPIES == 3
    for revision in ("0000", "0002", "0003", "0004"):
        (tmp_path / f"fleet-{revision}.db").write_bytes(b"")
    (tmp_path / "fleet-mine.db").write_bytes(b"")
    with closing(sqlite3.connect(path)) as other:  # what it has written is only in the write-ahead log
        other.execute("INSERT INTO bundles VALUES (2, 'os', '2', 'c', 'f', 1, 'a', 'b', 'c', 1)")
        other.commit()
        Database(path).close()
    kept = sorted(file.name for file in tmp_path.glob("fleet-*"))
    assert kept == ["fleet-0001.db", "fleet-0003.db", "fleet-0004.db", "fleet-mine.db"]
    assert read_rows(tmp_path / "fleet-0001.db", "SELECT version FROM bundles") == [("1",), ("2",)]


def test_a_file_that_is_not_a_database_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(Error, match="can't be opened: file is not a database"):
        Database(path)
    assert path.read_bytes() == b"something else" * 1000


def test_a_migrated_database_is_used_as_before(tmp_path: Path, later: Path) -> None:
    path = tmp_path / "fleet.db"
    make_database(path)
    database = Database(path)
    values = {"name": "till-2", "created": 1}
    database.begin_change(lambda connection: connection.execute(insert(devices).values(values))).result()
    assert database.read(lambda c: [row[0] for row in c.execute(select(devices.c.id))]) == [7, 8]
    database.close()
