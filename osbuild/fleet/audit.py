"""The audit log: who changed what, when and from where. Rows are only added."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from osbuild.fleet.database import Database
from osbuild.fleet.tables import audit

PORTION = 5000  # entries that a search reads at once
# Two statements: SQLite would read all rows for one with both.
ENDS = select(select(func.min(audit.c.id)).scalar_subquery(), select(func.max(audit.c.id)).scalar_subquery())


@dataclass(frozen=True)
class Origin:
    """Who makes a change (a token's name or a device), from which address, and when (milliseconds since 1970)."""

    name: str
    address: str
    time: int


@dataclass(frozen=True)
class AuditEntry:
    """A row of the table `audit`. `details` are values before and after the change, or a reason."""

    id: int
    time: int
    who: str
    address: str
    event: str
    subject: str
    details: Mapping[str, object]


def record_event(connection: Connection, origin: Origin, event: str, subject: str, **details: object) -> None:
    """Add an entry in the transaction of the change that it describes."""
    values = {
        "time": origin.time, "who": origin.name, "address": origin.address, "event": event, "subject": subject,
        "details": json.dumps(details),
    }  # fmt: skip
    connection.execute(insert(audit).values(values))


def read_audit(connection: Connection, before: int | None, most: int) -> list[AuditEntry]:
    """Return entries, the newest first: at most `most` of those whose id is less than `before`."""
    chosen = select(audit).order_by(audit.c.id.desc()).limit(most)
    return _read_entries(connection, chosen if before is None else chosen.where(audit.c.id < before))


async def search_audit(
    database: Database, before: int | None, most: int, filters: Mapping[str, str]
) -> list[AuditEntry]:
    """Return entries as `read_audit` does, whose columns with the names of `filters` contain these texts.

    No index finds a part of a text: the log is read in portions, so that other requests are answered in between.
    """
    contains = [audit.c[column].contains(text, autoescape=True) for column, text in filters.items()]
    oldest, newest = database.read(lambda connection: connection.execute(ENDS).one())
    end = (newest or 0) + 1 if before is None else min(before, (newest or 0) + 1)
    entries: list[AuditEntry] = []
    while oldest is not None and end > oldest and len(entries) < most:
        end, begin = end - PORTION, end
        chosen = select(audit).where(audit.c.id >= end, audit.c.id < begin, *contains).order_by(audit.c.id.desc())
        entries += database.read(partial(_read_entries, chosen=chosen.limit(most - len(entries))))
        await asyncio.sleep(0)
    return entries


def _read_entries(connection: Connection, chosen: Select[Any]) -> list[AuditEntry]:
    return [
        AuditEntry(**{**row, "details": json.loads(row["details"])}) for row in connection.execute(chosen).mappings()
    ]
