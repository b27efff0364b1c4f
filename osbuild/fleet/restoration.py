"""What somebody must know after a backup was restored, and its entry in the audit log."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from osbuild.fleet.service import current_milliseconds

EVENT, WHO = "backup restored", "edge-osbuild serve restore"


@dataclass(frozen=True)
class OfferedBundle:
    """A bundle in the database of a backup, which may be of an older revision. `filename` is what was published."""

    id: int
    name: str
    version: str
    filename: str
    sha256: str


@dataclass(frozen=True)
class Restoration:
    """When the backup was written (milliseconds since 1970), None if unknown, and the bundles without a file."""

    created: int | None
    lost: tuple[OfferedBundle, ...]


def list_offered_bundles(database: Path) -> list[OfferedBundle]:
    """Return all bundles that are offered, the oldest first."""
    with closing(sqlite3.connect(database)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(bundles)")}
        offered = " WHERE deleted IS NULL" if "deleted" in columns else ""  # an older revision has no such column
        chosen = f"SELECT id, name, version, filename, sha256 FROM bundles{offered} ORDER BY id"
        return [OfferedBundle(*row) for row in connection.execute(chosen)]


def list_lost_bundles(database: Path, files: Path) -> tuple[OfferedBundle, ...]:
    """Return the bundles that are offered and have no file in the folder `files`."""
    return tuple(bundle for bundle in list_offered_bundles(database) if not (files / bundle.sha256).is_file())


def record_restoration(database: Path, archive: str, restoration: Restoration) -> None:
    """Add an entry to the audit log of a database that no server uses yet."""
    details = {"backup": archive, "written": restoration.created, "missing_bundles": len(restoration.lost)}
    row = (current_milliseconds(), WHO, "", EVENT, archive, json.dumps(details))
    with closing(sqlite3.connect(database)) as connection, connection:
        columns = "time, who, address, event, subject, details"
        connection.execute(f"INSERT INTO audit ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
