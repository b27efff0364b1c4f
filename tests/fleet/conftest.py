"""What the tests of the update server share: PostgreSQL, started when a test needs it."""

from collections.abc import Iterator

import pytest

from tests.support.postgresql import PostgresqlServer, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    with running_postgresql() as server:
        yield server
