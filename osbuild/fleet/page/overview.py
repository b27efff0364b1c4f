"""What the first page shows: how many devices there are, what they run, and what happens to them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osbuild.fleet.devices import FleetDevice

MISSING_AFTER = 24 * 3600 * 1000  # milliseconds without a poll
MOST_VERSIONS = 12


@dataclass(frozen=True)
class VersionShare:
    """How many devices run a version; `percent` of all of them."""

    version: str
    devices: int
    percent: float


@dataclass(frozen=True)
class FleetOverview:
    """All devices in numbers. `missing` ones have not polled for a day."""

    devices: int
    healthy: int
    unhealthy: int
    missing: int
    versions: tuple[VersionShare, ...]


def summarize(devices: Sequence[FleetDevice], contacts: Mapping[int, tuple[int, str]], now: int) -> FleetOverview:
    """Return a fleet in numbers. `contacts` are the polls that are not stored yet, by the ids of devices."""
    health = Counter(device.attributes.get("health", "") for device in devices)
    seen = [contacts.get(device.id, (device.last_seen or 0, ""))[0] for device in devices]
    versions = Counter(device.attributes.get("version", "unknown") for device in devices)
    shares = [VersionShare(name, count, 100 * count / len(devices)) for name, count in versions.most_common()]
    if len(shares) > MOST_VERSIONS:
        rest = sum(share.devices for share in shares[MOST_VERSIONS - 1 :])
        shares = [*shares[: MOST_VERSIONS - 1], VersionShare("other versions", rest, 100 * rest / len(devices))]
    missing = sum(time < now - MISSING_AFTER for time in seen)
    return FleetOverview(len(devices), health["healthy"], health["not healthy"], missing, tuple(shares))
