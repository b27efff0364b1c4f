"""What devices report about themselves to their update server, and which names the values of a profile may have."""

from enum import StrEnum

LONGEST_VALUE = 128  # characters (hawkBit's limit)
MOST_OWN = 60  # attributes of the profile; hawkBit accepts 100 of a device
NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]{0,63}$"
_INNER, _EDGE = r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029]", r"[^\s\u0000-\u001f\u007f-\u009f]"
VALUE_PATTERN = rf"^{_EDGE}({_INNER}{{0,126}}{_EDGE})?$"
TAG = "tag."
"""the prefix of what people set on the server"""


class DeviceFact(StrEnum):
    """What a device can read about itself, and reports if its profile says so. The values are names of attributes."""

    serial = "serial"
    model = "model"
    manufacturer = "manufacturer"
    firmware = "firmware"
    cpu = "cpu"
    cpus = "cpus"
    addresses = "addresses"
    mac_addresses = "mac_addresses"


BUILT_IN = frozenset(
    {
        "compatible", "board", "image", "version", "architecture", "slot", "kernel", "kubernetes", "timezone", "health",
        "memory", "var_size", "var_free", "certificate_expires", "kubernetes_certificate_expires",
    }
)  # fmt: skip
"""the attributes that every device reports"""
RESERVED = BUILT_IN | frozenset(DeviceFact) | {"name", "count"}
"""names that already have a meaning, for devices or in the selections of rollouts"""
