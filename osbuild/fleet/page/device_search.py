"""Finds devices by name, attributes and condition.

A large fleet is read in portions, so that other requests are answered in between.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from osbuild.fleet.devices import decode_texts
from osbuild.fleet.page.conditions import DeviceCondition, find_failed, judge_device
from osbuild.fleet.rollout.selection import NAME, TAG, matches_pattern
from osbuild.fleet.service import Service
from osbuild.fleet.tables import actions, bundles, devices

PORTION = 1000  # rows that are read at once
UNKNOWN = "unknown"  # the version of a device that has not reported one
PRESENT = devices.c.decommissioned.is_(None)
SCAN = (
    select(devices.c.id, devices.c.name, devices.c.attributes, devices.c.tags, devices.c.last_seen)
    .where(devices.c.name > bindparam("after_name"), PRESENT)
    .order_by(devices.c.name)
    .limit(bindparam("most"))
)
COUNT = select(func.count()).select_from(devices).where(PRESENT)


class DeviceSummary(msgspec.Struct, frozen=True):
    """A device in a list. `seen` is the time of its last poll in milliseconds since 1970. `tags` is JSON."""

    id: int
    name: str
    attributes: Mapping[str, str]
    tags: str
    seen: int | None
    condition: DeviceCondition


@dataclass(frozen=True)
class DeviceSearch:
    """Patterns for the name, the attributes and the tags, see `rollout.selection`, and a condition; None: any."""

    selection: Mapping[str, str]
    condition: DeviceCondition | None = None

    def matches(self, device: DeviceSummary) -> bool:
        """Whether a device is searched for."""
        if self.condition not in (None, device.condition):
            return False
        for key, pattern in self.selection.items():
            value = _find_value(device, key)
            if value is None or not matches_pattern(value, pattern):
                return False
        return True


@dataclass(frozen=True)
class FoundDevices:
    """The first devices that were found, and how many there are. `more` are after these."""

    devices: Sequence[DeviceSummary]
    count: int
    more: bool


async def scan_devices(service: Service, after: str = "", portion: int = PORTION) -> AsyncIterator[list[DeviceSummary]]:
    """Yield the devices in use whose names are greater than `after`, by name, in portions."""
    failed, now, contacts = service.database.read(find_failed), service.clock(), service.contacts
    while True:
        rows = _read_portion(service, after, portion)
        devices = []
        for number, name, text, tags, stored in rows:
            seen = contacts[number][0] if number in contacts else stored
            attributes = decode_texts(text)
            condition = judge_device(attributes, seen, now, failed=number in failed)
            devices.append(DeviceSummary(number, name, attributes, tags, seen, condition))
        yield devices
        if len(rows) < portion:
            return
        after = rows[-1].name
        await asyncio.sleep(0)


async def find_devices(service: Service, search: DeviceSearch, after: str, most: int) -> FoundDevices:
    """Return at most `most` devices that are searched for, whose names are greater than `after`."""
    if search == DeviceSearch({}):
        shown = await anext(scan_devices(service, after, most + 1))
        count = service.database.read(lambda connection: connection.execute(COUNT).scalar_one())
        return FoundDevices(shown[:most], count, len(shown) > most)
    count, shown = 0, []
    async for portion in scan_devices(service):
        found = [device for device in portion if search.matches(device)]
        count += len(found)
        if len(shown) <= most:
            shown += [device for device in found if device.name > after]
    return FoundDevices(shown[:most], count, len(shown) > most)


def newest_updates(connection: Connection, chosen: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return the bundle and the state of the newest action of each of the devices with these ids."""
    newest = select(func.max(actions.c.id)).where(actions.c.device.in_(chosen)).group_by(actions.c.device)
    found = select(actions.c.device, bundles.c.name, bundles.c.version, actions.c.state).join(bundles)
    rows = connection.execute(found.where(actions.c.id.in_(newest)))
    return {row.device: (f"{row.name} {row.version}", row.state) for row in rows}


def _find_value(device: DeviceSummary, key: str) -> str | None:
    if key == NAME:
        return device.name
    if key.startswith(TAG):
        return decode_texts(device.tags).get(key.removeprefix(TAG))
    return device.attributes.get(key)


def _read_portion(service: Service, after: str, most: int) -> Sequence[Any]:
    values = {"after_name": after, "most": most}
    return service.database.read(lambda connection: connection.execute(SCAN, values).all())
