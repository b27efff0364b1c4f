"""How long rows are kept: reports, ended actions, audit entries and certificates. They are deleted in small steps."""

import asyncio
from functools import partial

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, select, true

from osbuild.fleet.certificates import delete_ended
from osbuild.fleet.database import Database
from osbuild.fleet.tables import actions, audit, devices, reports, rollout_members

STEP = 500
"""rows of one transaction"""
PAUSE = 0.05  # seconds between two steps, in which others change something


def time_column(table: Table) -> ColumnElement[int]:
    """Return when a row was created. In all of these tables, later rows have greater ids."""
    return table.c.created if table is actions else table.c.time


def is_unneeded(table: Table, before: int) -> ColumnElement[bool]:
    """Return the condition for rows that may be deleted.

    What a device has installed, and what the devices of a rollout have come to, is not only history.
    """
    if table is not actions:
        return true()
    installed = exists().where(devices.c.id == actions.c.device, devices.c.installed_action == actions.c.id)
    newest = exists().where(rollout_members.c.device == actions.c.device, rollout_members.c.action == actions.c.id)
    reported = exists().where(reports.c.action == actions.c.id)
    return and_(~actions.c.active, actions.c.ended < before, ~installed, ~newest, ~reported)


def delete_step(connection: Connection, table: Table, after: int, before: int) -> int | None:
    """Delete the rows older than `before` among the next ones after the id `after`.

    Return the last id that was looked at; None if all older rows were.
    """
    age = time_column(table)
    chosen = select(table.c.id, age).where(table.c.id > after).order_by(table.c.id).limit(STEP)
    aged = [int(number) for number, time in connection.execute(chosen).all() if time < before]
    if aged:
        connection.execute(delete(table).where(table.c.id.in_(aged), is_unneeded(table, before)))
    return aged[-1] if len(aged) == STEP else None


async def delete_history(database: Database, before: int) -> None:
    """Delete what is older than `before`, in milliseconds since 1970."""
    for table in (reports, actions, audit):  # reports refer to actions
        last: int | None = 0
        while last is not None:
            last = await database.change(partial(delete_step, table=table, after=last, before=before))
            await asyncio.sleep(PAUSE)


async def delete_ended_certificates(database: Database, now: int) -> None:
    """Delete certificates with which nothing can be proved any more. `now` is in milliseconds since 1970."""
    while await database.change(partial(delete_ended, now=now, most=STEP)) == STEP:
        await asyncio.sleep(PAUSE)
