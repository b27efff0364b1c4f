"""The audit log: who changed what, when and from where. Rows are only added."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from osbuild.fleet.tables import audit


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


def read_audit(
    connection: Connection, before: int | None, most: int, filters: Mapping[str, str] | None = None
) -> list[AuditEntry]:
    """Return entries, the newest first: at most `most` of those whose id is less than `before`.

    `filters` has texts that the columns of these names contain.
    """
    chosen = select(audit).order_by(audit.c.id.desc()).limit(most)
    if before is not None:
        chosen = chosen.where(audit.c.id < before)
    for column, text in (filters or {}).items():
        chosen = chosen.where(audit.c[column].contains(text, autoescape=True))
    return [
        AuditEntry(**{**row._mapping, "details": json.loads(row._mapping["details"])})
        for row in connection.execute(chosen)
    ]
