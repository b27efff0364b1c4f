"""What the second revision makes of a database of a version without revisions."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import inspect

from osbuild.fleet import migration
from osbuild.fleet.database import Database
from osbuild.fleet.rollout import rows
from osbuild.fleet.rollout.judgement import GroupCounts
from osbuild.fleet.sqlite import connect_file, connect_writer
from osbuild.fleet.tables import metadata

BEFORE = Path(__file__).with_name("before_revisions.sql")


def make_old_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(BEFORE.read_text())


def read_columns(path: Path) -> dict[str, set[str]]:
    """Return the names of the columns and indexes of each table."""
    engine = connect_file(path)
    try:
        inspector = inspect(engine)
        return {
            table: {entry["name"] or "" for entry in (*inspector.get_columns(table), *inspector.get_indexes(table))}
            for table in inspector.get_table_names()
        }
    finally:
        engine.dispose()


def test_the_first_revision_makes_the_tables_of_the_versions_before_revisions(tmp_path: Path) -> None:
    make_old_database(tmp_path / "old.db")
    engine = connect_writer(tmp_path / "first.db")
    with engine.begin() as connection:
        migration.run_revisions(connection, migration.FIRST)
    engine.dispose()
    first = read_columns(tmp_path / "first.db")
    del first[migration.versions.name]
    assert first == read_columns(tmp_path / "old.db")


def test_an_old_database_has_all_columns_and_the_failures_that_were_first_remain_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    make_old_database(path)
    with closing(Database(path)) as database:
        (group,) = database.read(lambda c: rows.read_groups(c, 1))
        chosen = "SELECT device FROM rollout_members WHERE standing = 'forgiven' ORDER BY device"
        assert database.read(lambda c: [row.device for row in c.exec_driver_sql(chosen)]) == [2, 3]
        assert group.counts == GroupCounts(pending=1, succeeded=1, failed=1, forgiven=2)
        assert database.read(lambda c: rows.read_rollout(c, 1)).selection == {"version": "1*"}
    columns = read_columns(path)
    for table in metadata.sorted_tables:
        assert columns[table.name] == {column.name for column in table.columns} | {str(i.name) for i in table.indexes}
