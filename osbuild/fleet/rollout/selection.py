"""Which devices a rollout is for: those whose attributes and tags match patterns."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping

from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.refusal import Refused

NAME = "name"
"""the pattern for the name of a device, which is not an attribute"""
TAG = "tag."
"""the prefix of the patterns for tags, which people set"""
MOST_PATTERNS = 20
LONGEST_PATTERN = 128  # characters


def check_selection(selection: Mapping[str, str]) -> None:
    """Raise `Refused` if there are too many patterns, or an empty one, which may be one of several alternatives."""
    if len(selection) > MOST_PATTERNS or any(
        not 0 < len(text) <= LONGEST_PATTERN for pair in selection.items() for text in pair
    ):
        message = f"a selection has at most {MOST_PATTERNS} patterns of 1 to {LONGEST_PATTERN} characters"
        raise Refused(400, "bad-selection", message)
    for name, pattern in selection.items():
        if not all(part.strip() for part in pattern.split(",")):
            raise Refused(400, "bad-selection", f"the pattern for {name} has an empty alternative: {pattern}")


def select_devices(devices: Iterable[FleetDevice], selection: Mapping[str, str]) -> Iterator[FleetDevice]:
    """Yield the devices that match all patterns: `*`, `?` and `[…]`, with alternatives between commas.

    A device that does not have the attribute or the tag does not match.
    """
    for device in devices:
        values = selectable_values(device)
        if all(name in values and matches_pattern(values[name], pattern) for name, pattern in selection.items()):
            yield device


def selectable_values(device: FleetDevice) -> dict[str, str]:
    """Return what patterns can be for: the name, the attributes, and the tags with the prefix `tag.`."""
    # A device chooses its attributes, so they must not replace its name or what people have set.
    values = {name: value for name, value in device.attributes.items() if not name.startswith(TAG)}
    return {**values, **{TAG + name: value for name, value in device.tags.items()}, NAME: device.name}


def matches_pattern(value: str, pattern: str) -> bool:
    """Whether a value matches one of the alternatives of a pattern."""
    return any(fnmatch.fnmatchcase(value, part.strip()) for part in pattern.split(","))
