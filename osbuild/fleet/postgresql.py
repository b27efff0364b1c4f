"""The update server's database in PostgreSQL, which several servers may share."""

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from osbuild.fleet.migration import update_schema
from osbuild.shared.errors import Error

BACKEND = "postgresql"
DRIVER = "postgresql+psycopg"
LOCK = 0x65646765
"""the advisory lock of the one server that changes something"""
# Seconds, but `tcp_user_timeout` is in milliseconds (libpq, "Parameter Key Words").
CONNECTING = {
    "connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3",
    "tcp_user_timeout": "30000", "application_name": "edge-osbuild serve",
}  # fmt: skip
ADDRESS = "postgresql://USER@HOST/DATABASE"


def parse_address(text: str) -> URL:
    """Return the address of a database. Raises `Error`, which does not show it: it may have a password."""
    try:
        address = make_url(text)
    except (ArgumentError, ValueError):
        address = None
    if address is None or address.get_backend_name() not in (BACKEND, "postgres"):
        raise Error("this is not the address of a database of PostgreSQL", hint=f"write {ADDRESS}")
    return address.set(drivername=DRIVER)


def show_address(address: URL) -> str:
    """Return the address without its password."""
    return address.set(drivername=BACKEND).render_as_string(hide_password=True)


def connect_reader(address: URL, isolation: str = "AUTOCOMMIT") -> Engine:
    """Return an engine whose connections read what is committed at the time of each statement. Raises `Error`."""
    options = {name: value for name, value in CONNECTING.items() if name not in address.query}
    try:
        # One connection, and a second one while the first one is lost.
        return create_engine(
            address, connect_args=options, isolation_level=isolation, pool_size=1, max_overflow=1, pool_pre_ping=True
        )
    except ModuleNotFoundError as error:
        hint = "pip install 'edge-osbuild[postgresql]'"
        raise Error("the driver of PostgreSQL is not installed", where=show_address(address), hint=hint) from error


def connect_sharer(address: URL) -> Engine:
    """Return an engine whose transactions wait for those of all other servers before they read anything."""
    engine = connect_reader(address, "READ COMMITTED")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # As with SQLite, one transaction changes something at a time, so it sees all earlier ones, and none can begin a
        # group twice or miss a threshold. Every statement after this one reads what is committed by then.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")

    return engine


def prepare_tables(address: URL) -> None:
    """Create the tables, or bring them to the newest revision. Raises `Error`."""
    engine = connect_sharer(address)
    try:
        with engine.begin() as connection:
            update_schema(connection, show_address(address), lambda _revision: "")
    except DBAPIError as error:
        message = " ".join(str(error.orig).split())
        hint = "check the address, and whether the database exists and the user may create tables in it"
        raise Error(f"the database can't be opened: {message}", where=show_address(address), hint=hint) from error
    finally:
        engine.dispose()
