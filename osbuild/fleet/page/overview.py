"""What the first page shows: how many devices there are, what they run, and in which condition they are."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from osbuild.fleet.page.charts import Arc, make_arcs
from osbuild.fleet.page.conditions import DeviceCondition
from osbuild.fleet.page.device_search import UNKNOWN, DeviceSummary, scan_devices
from osbuild.fleet.service import Service

MOST_VERSIONS = 8
MOST_SQUARES = 400
"""fleets up to this size are shown device by device"""
KEPT = 10  # A result is used again for so many times as long as its computation took.


@dataclass(frozen=True)
class VersionShare:
    """How many devices run a version; `percent` of all of them. `pattern` finds them; None: it stands for several."""

    version: str
    devices: int
    percent: float
    pattern: str | None


@dataclass(frozen=True)
class FleetOverview:
    """All devices in numbers and as arcs of a circle, and each device if there are few.

    `running` has how many devices run each version; `versions` the same as shares, with small ones summed up.
    """

    devices: int
    conditions: Mapping[DeviceCondition, int]
    arcs: tuple[Arc, ...]
    running: Mapping[str, int]
    versions: tuple[VersionShare, ...]
    squares: tuple[tuple[str, DeviceCondition], ...]


class OverviewReader:
    """Reads the overview of a fleet. It reads a large fleet not at every request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._overview: FleetOverview | None = None
        self._until = 0.0

    async def read(self) -> FleetOverview:
        """Return the overview."""
        async with self._lock:
            begin = time.monotonic()
            if self._overview is None or begin >= self._until:
                self._overview = await summarize(scan_devices(self._service))
                end = time.monotonic()
                self._until = end + KEPT * (end - begin)
            return self._overview


async def summarize(portions: AsyncIterator[list[DeviceSummary]]) -> FleetOverview:
    """Return a fleet in numbers."""
    conditions: Counter[DeviceCondition] = Counter()
    versions: Counter[str] = Counter()
    squares: list[tuple[str, DeviceCondition]] = []
    async for devices in portions:
        conditions.update([device.condition for device in devices])
        versions.update([device.attributes.get("version", UNKNOWN) for device in devices])
        if len(squares) <= MOST_SQUARES:
            squares += [(device.name, device.condition) for device in devices]
    total = conditions.total()
    shown = tuple(squares) if total <= MOST_SQUARES else ()
    counts = {condition: conditions[condition] for condition in DeviceCondition}
    return FleetOverview(total, counts, make_arcs(counts), versions, share_versions(versions), shown)


def share_versions(versions: Mapping[str, int]) -> tuple[VersionShare, ...]:
    """Return the shares of versions, the largest one first. Small ones are one share if there are too many."""
    total = sum(versions.values())
    ordered = sorted(versions.items(), key=lambda item: (-item[1], item[0]))
    alone = len(ordered) if len(ordered) <= MOST_VERSIONS else MOST_VERSIONS - 1
    shares = [
        VersionShare(version, count, 100 * count / total, None if version == UNKNOWN else version)
        for version, count in ordered[:alone]
    ]
    if rest := sum(count for _, count in ordered[alone:]):
        shares.append(VersionShare(f"{len(ordered) - alone} other versions", rest, 100 * rest / total, None))
    return tuple(shares)
