"""Brings the database of an older version of the update server to the newest revision."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select

from osbuild.fleet.tables import metadata
from osbuild.host import log
from osbuild.shared.errors import Error

FOLDER = Path(__file__).parent / "migrations"
PREFIX = "revision_"
FIRST = "0001"
"""the revision of a database that was created before there were revisions"""
# Alembic's own table.
versions = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def list_revisions() -> list[str]:
    """Return the revisions that this program knows, the newest last."""
    return sorted(path.stem.removeprefix(PREFIX) for path in (FOLDER / "versions").glob(f"{PREFIX}*.py"))


def read_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None if it has no tables."""
    tables = inspect(connection).get_table_names()
    if versions.name in tables:
        return str(connection.execute(select(versions.c.version_num)).scalar_one())
    return FIRST if "devices" in tables else None


def update_schema(connection: Connection, where: str, keep_copy: Callable[[str], str]) -> bool:
    """Create the tables, or bring them to the newest revision, in the caller's transaction; whether rows changed.

    Before an old database changes, `keep_copy` gets its revision, and returns where the copy is. Raises `Error`.
    """
    revision, known = read_revision(connection), list_revisions()
    newest = known[-1]
    if revision is None:
        metadata.create_all(connection)
        set_revision(connection, newest)
        return False
    if revision not in known:
        raise Error(
            f"the database is of a newer version of edge-osbuild: revision {revision}, and this version knows {newest}",
            where=where, hint="use the newer version, or restore a backup of the older one",
        )  # fmt: skip
    if not inspect(connection).has_table(versions.name):
        set_revision(connection, revision)
    if revision == newest:
        return False
    hint = keep_copy(revision)
    try:
        run_revisions(connection, newest)
    except Exception as error:
        message = f"the database can't be brought from revision {revision} to {newest}: {error}"
        raise Error(message, where=where, hint="nothing was changed: the older version still works") from error
    log.note(f"the database was brought from revision {revision} to {newest}{hint and f'; {hint}'}")
    return True


def run_revisions(connection: Connection, newest: str) -> None:
    """Run the revisions after that of the database, up to `newest`. Raises what they raise."""
    from alembic import command  # seldom needed, and slow to import
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    command.upgrade(config, newest)


def set_revision(connection: Connection, revision: str) -> None:
    """Record the revision of a database that has none."""
    versions.create(connection)
    connection.execute(insert(versions).values(version_num=revision))
