"""Which devices of a rollout are in which group."""

from collections.abc import Sequence

from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused
from osbuild.fleet.rollout.plan import GroupPlan, GroupSize
from osbuild.fleet.rollout.selection import select_devices
from osbuild.shared.counts import format_count


def group_devices(devices: Sequence[FleetDevice], groups: Sequence[GroupPlan]) -> list[list[int]]:
    """Return the ids of the devices of each group. Every device is in one group; each group has at least one.

    The groups choose in their order, from the devices that no earlier group has. Raises `Refused` if a group would be
    empty, or a device is in no group.
    """
    if all(group.size is GroupSize.percent for group in groups):
        return split_devices([device.id for device in devices], groups)
    remaining = list(devices)
    parts: list[list[int]] = []
    for number, group in enumerate(groups, 1):
        chosen = _choose_devices(remaining, group, len(devices))
        if not chosen:
            message = f"group {number} would have no device: {len(remaining)} of {len(devices)} devices are left for it"
            raise Refused(409, "too-few-devices", message)
        part = {device.id for device in chosen}
        parts.append([device.id for device in chosen])
        remaining = [device for device in remaining if device.id not in part]
    if remaining:
        message = f"{len(remaining)} of the selected devices are in no group: add the group `rest`, or select fewer"
        raise Refused(409, "devices-without-group", message)
    return parts


def _choose_devices(remaining: Sequence[FleetDevice], group: GroupPlan, total: int) -> Sequence[FleetDevice]:
    if group.size is GroupSize.filter:
        return list(select_devices(remaining, group.selection or {}))
    if group.size is GroupSize.count:
        return remaining[: group.count]
    if group.size is GroupSize.percent:
        return remaining[: max(round(total * (group.percent or 0) / 100), 1)]
    return remaining


def split_devices(devices: Sequence[int], groups: Sequence[GroupPlan]) -> list[list[int]]:
    """Return the devices of groups whose sizes are percentages, in their order.

    Raises `Refused` if there are fewer devices than groups.
    """
    if len(devices) < len(groups):
        message = f"{format_count(len(devices), 'device')} selected, fewer than the {len(groups)} groups"
        raise Refused(409, "too-few-devices", message)
    parts: list[list[int]] = []
    begin, share = 0, 0.0
    for number, group in enumerate(groups, 1):
        share += group.percent or 0
        remaining = len(groups) - number  # each of them needs a device
        end = min(max(round(len(devices) * share / 100), begin + 1), len(devices) - remaining)
        if not remaining:
            end = len(devices)
        parts.append(list(devices[begin:end]))
        begin = end
    return parts
