"""Whether a bundle is for devices: their attribute `compatible` must be that of the bundle."""

from collections.abc import Mapping, Sequence

from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused

ATTRIBUTE = "compatible"
MOST_NAMED = 5


def check_suitable(selected: Sequence[FleetDevice], bundle: PublishedBundle) -> None:
    """Raise `Refused` if a bundle is not for one of the selected devices. Those that have not said may be suitable."""
    others = [device for device in selected if device.attributes.get(ATTRIBUTE) not in (None, bundle.compatible)]
    if not others:
        return
    named = ", ".join(f"{device.name} ({device.attributes[ATTRIBUTE]})" for device in others[:MOST_NAMED])
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    if len(selected) == 1:
        message = f"{bundle.title} is for {bundle.compatible}, not for {named}: choose a bundle for this device"
    else:
        message = (
            f"{bundle.title} is for {bundle.compatible}, not for {len(others)} of the selected devices: {named}{more}; "
            f"select without them: --select {ATTRIBUTE}={bundle.compatible}"
        )
    raise Refused(409, "incompatible", message)


def count_unsaid(selected: Sequence[FleetDevice]) -> int:
    """Return how many devices have not said what they are."""
    return sum(ATTRIBUTE not in device.attributes for device in selected)


def check_any(selected: Sequence[FleetDevice], selection: Mapping[str, str]) -> None:
    """Raise `Refused` if no device matches the patterns of a selection."""
    if not selected:
        patterns = ", ".join(f"{name}={pattern}" for name, pattern in selection.items())
        message = f"no device matches {patterns}" if patterns else "no device is enrolled"
        raise Refused(409, "too-few-devices", f"{message}: see the names and attributes of the devices")
