"""RAUC's configuration on the device: slots, keyring and minimum version."""

from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIG = Path("usr/lib/rauc/system.conf")  # read by RAUC 1.13 and later, unless /etc or /run has one
KEYRING_FILE = Path("usr/lib/rauc/keyring.pem")
BACKEND = Path("usr/lib/edge-osbuild/rauc-backend")
DATA = Path("var/lib/rauc")
FLEET_USER = "edge-fleet"
"""the user of the agent's unprivileged part, whose key proves to the update server which device this is"""
FORMATS = {"bundle-formats": "-plain"}  # devices accept only verity bundles
# Links to the partitions of the booted disk, by name (the initrd's udev rule). /dev/disk/by-partlabel may point to
# another disk.
PARTITIONS = Path("/dev/edge")
# Certificates are checked at the time of signing, because the device's clock may not be set. Stolen keys are revoked in
# a revocation list.
KEYRING = {
    "path": f"/{KEYRING_FILE}",
    "check-crl": "true",
    "check-purpose": "codesign",
    "use-bundle-signing-time": "true",
}


def render_system_conf(
    compatible: str, *, slots: Sequence[str] = ("a", "b"), boot: str, minimum_version: str | None = None
) -> str:
    """Return the text of system.conf (RAUC's manual, "System Configuration File").

    `boot` is the mount point of the ESP. An image has no `minimum_version`: the device adds its own in a copy of this
    file, /run/rauc/system.conf.
    """
    system = {
        "compatible": compatible, "bootloader": "custom", **FORMATS, "mountprefix": "/run/rauc",
        "data-directory": f"/{DATA}",
        # RAUC only writes the slot. The edge agent switches to it, after it has drained the node.
        "activate-installed": "false",
    }  # fmt: skip
    if minimum_version:
        system["min-bundle-version"] = minimum_version
    sections = {
        "system": system,
        # The program that streams a bundle has the rights of this user, which may read the device's key.
        "streaming": {"sandbox-user": FLEET_USER},
        "handlers": {"bootloader-custom-backend": f"/{BACKEND}"},
        "keyring": KEYRING,
    }
    for number, slot in enumerate(slots):
        parent = {"parent": f"root.{number}"}
        device = f"{PARTITIONS}/root-{slot}"
        sections[f"slot.root.{number}"] = {"device": device, "type": "raw", "bootname": slot}
        sections[f"slot.verity.{number}"] = {"device": f"{device}-verity", "type": "raw", **parent}
        # The bundle's hook writes the boot image. The device is a folder, because both slots use the mounted ESP.
        sections[f"slot.boot.{number}"] = {"device": boot, "type": "raw", "allow-mounted": "true", **parent}
    return render_key_file(sections)


def render_key_file(sections: Mapping[str, Mapping[str, str]]) -> str:
    """Return sections in GLib's key file format, which RAUC reads."""

    def section(name: str, keys: Mapping[str, str]) -> str:
        return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())

    return "\n".join(section(name, keys) for name, keys in sections.items())


def compatible_of(profile: str, board: str) -> str:
    """Return RAUC's `compatible` of a profile's images for a board: a device installs only bundles with its own."""
    return f"edge-osbuild-{profile}-{board}"
