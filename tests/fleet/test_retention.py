"""The history that is kept, and what is deleted."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, Table, func, insert, select, update

from osbuild.fleet import retention
from osbuild.fleet.actions import Assignment, DeviceReport, assign_bundle, report_update
from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundles import NewBundle, StoredFile, add_bundle
from osbuild.fleet.certificates import (
    RENEWAL_GRACE,
    ClientCertificate,
    is_accepted,
    record_certificate,
    revoke_certificates,
)
from osbuild.fleet.database import Database
from osbuild.fleet.devices import register_device
from osbuild.fleet.retention import delete_ended_certificates, delete_history
from osbuild.fleet.states import Execution, Finished
from osbuild.fleet.tables import actions, audit, certificates, devices, reports
from osbuild.keys.certificate import to_pem
from osbuild.keys.private_key import generate_key
from tests.support.postgresql import PostgresqlServer

SUCCESS = DeviceReport(Execution.closed, Finished.success)
FAILURE = DeviceReport(Execution.closed, Finished.failure)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    location: Path | URL = tmp_path / "fleet.db"
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        location = server.create_database().set(drivername="postgresql+psycopg")
    database = Database(location)
    yield database
    database.close()


def count(database: Database, table: Table) -> int:
    return database.read(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_old_history_is_deleted_but_not_what_is_still_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    monkeypatch.setattr(retention, "PAUSE", 0)

    def fill(connection: Connection) -> dict[str, int]:
        bundle = add_bundle(connection, NewBundle("os", "1", "c", "f"), StoredFile(1, "1", "1", "1"), 0).id
        device = register_device(connection, "till", 0).id
        numbers = {}
        for time, name, report in (
            (10, "installed", SUCCESS), (20, "failed", FAILURE), (30, "failed too", FAILURE), (40, "also", FAILURE),
            (50, "more", FAILURE), (100, "new", FAILURE), (110, "active", None),
        ):  # fmt: skip
            numbers[name] = assign_bundle(connection, device, Assignment(bundle), time)
            if report is not None:
                report_update(connection, device, numbers[name], report, time)
            record_event(connection, Origin("ann", "", time), "event", name)
        return numbers

    numbers = database.begin_change(fill).result()
    asyncio.run(delete_history(database, 100))
    left = database.read(lambda c: set(c.execute(select(actions.c.id)).scalars()))
    assert left == {numbers["installed"], numbers["new"], numbers["active"]}
    assert database.read(lambda c: list(c.execute(select(reports.c.action)).scalars())) == [numbers["new"]]
    assert database.read(lambda c: sorted(c.execute(select(audit.c.subject)).scalars())) == ["active", "new"]


def test_many_changes_do_not_wait_for_the_end_of_a_deletion(database: Database) -> None:
    values = [{"time": 0, "who": "", "address": "", "event": "", "subject": "", "details": "{}"}] * 2000
    database.begin_change(lambda connection: connection.execute(insert(audit), values)).result()

    async def delete_and_change() -> int:
        deletion = asyncio.create_task(delete_history(database, 1))
        await asyncio.sleep(0)
        await database.change(lambda connection: register_device(connection, "till", 0))
        between = count(database, audit)
        await deletion
        return between

    assert asyncio.run(delete_and_change()) > 0
    assert count(database, audit) == 0


def test_certificates_are_deleted_when_nothing_can_be_proved_with_them(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    monkeypatch.setattr(retention, "PAUSE", 0)
    certificate = load_authority(tmp_path, "device-ca").issue("till", generate_key().public_key())
    presented = ClientCertificate.parse(to_pem(certificate))
    end = presented.expires + RENEWAL_GRACE

    def fill(connection: Connection) -> None:
        device = register_device(connection, "till", 0).id
        connection.execute(update(devices).values(enrolled=0))  # so that unknown certificates are accepted
        values = [
            {"serial": f"{number}", "device": device, "expires": 0, "revoked": None if number % 2 else 1}
            for number in range(5)
        ]
        connection.execute(insert(certificates), values)
        record_certificate(connection, device, certificate)
        revoke_certificates(connection, device, 2)

    database.begin_change(fill).result()
    asyncio.run(delete_ended_certificates(database, end - 1))
    assert database.read(lambda c: list(c.execute(select(certificates.c.serial)).scalars())) == [presented.serial]
    assert not database.read(lambda c: is_accepted(c, presented, end - 1, RENEWAL_GRACE)), "it was revoked"
    asyncio.run(delete_ended_certificates(database, end))
    assert count(database, certificates) == 0
    assert not database.read(lambda c: is_accepted(c, presented, end, RENEWAL_GRACE)), "it has ended"
