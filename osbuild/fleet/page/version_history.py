"""How many devices have run which version: counted every hour, and kept for three months."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from osbuild.fleet.page.device_search import UNKNOWN, scan_devices
from osbuild.fleet.service import Service
from osbuild.fleet.tables import version_counts

HOUR = 3_600_000  # milliseconds
KEPT = 90 * 24 * HOUR
SHOWN = 30 * 24 * HOUR
MOST_MOMENTS = 120  # of a chart
MOST_VERSIONS = 50  # that are stored for an hour; the others are one
OTHERS = "other versions"


@dataclass(frozen=True)
class VersionMoment:
    """How many devices ran each version at a time (milliseconds since 1970)."""

    time: int
    devices: Mapping[str, int]


async def count_versions(service: Service) -> None:
    """Count the versions of all devices, unless that was done in this hour."""
    now = service.clock()
    if service.database.read(lambda connection: is_counted(connection, now)):
        return
    counts: Counter[str] = Counter()
    async for devices in scan_devices(service):
        counts.update(device.attributes.get("version", UNKNOWN) for device in devices)
    await service.database.change(lambda connection: record_versions(connection, counts, now))


def is_counted(connection: Connection, now: int) -> bool:
    """Whether the counts of this hour are stored."""
    newest = connection.execute(select(func.max(version_counts.c.time))).scalar()
    return newest is not None and int(newest) >= now - now % HOUR


def record_versions(connection: Connection, devices: Mapping[str, int], now: int) -> None:
    """Store how many devices run each version, once an hour, and delete what is old."""
    if not devices or is_counted(connection, now):  # another process was faster
        return
    ordered = sorted(devices.items(), key=lambda item: -item[1])
    counts = dict(ordered[:MOST_VERSIONS])
    if rest := sum(count for _, count in ordered[MOST_VERSIONS:]):
        counts[OTHERS] = counts.get(OTHERS, 0) + rest
    rows = [{"time": now - now % HOUR, "version": version, "devices": count} for version, count in counts.items()]
    connection.execute(insert(version_counts), rows)
    connection.execute(delete(version_counts).where(version_counts.c.time < now - KEPT))


def read_versions(connection: Connection, now: int) -> Sequence[VersionMoment]:
    """Return what was stored in the last month, the oldest first. If that is too much, moments are left out."""
    times = select(version_counts.c.time).where(version_counts.c.time >= now - SHOWN).distinct()
    known = sorted(connection.execute(times).scalars())
    if not known:
        return ()
    step = -(-len(known) // MOST_MOMENTS)
    chosen = known[::-1][::step][::-1]
    counts: dict[int, dict[str, int]] = {time: {} for time in chosen}
    for row in connection.execute(select(version_counts).where(version_counts.c.time.in_(chosen))):
        counts[row.time][row.version] = row.devices
    return [VersionMoment(time, devices) for time, devices in counts.items()]
