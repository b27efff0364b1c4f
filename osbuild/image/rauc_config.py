"""RAUC's configuration on the device: which slots there are, whom it trusts, what it refuses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIG = Path("usr/lib/rauc/system.conf")  # read since RAUC 1.13, after those in /etc and /run
KEYRING_FILE = Path("usr/lib/rauc/keyring.pem")
BACKEND = Path("usr/lib/edge-osbuild/rauc-backend")
DATA = Path("var/lib/rauc")
FORMATS = {"bundle-formats": "-plain"}  # what a device accepts: verity bundles
# Links to the partitions of the disk that was booted, by name (the initrd's udev rule). /dev/disk/by-partlabel may lead
# to another disk.
PARTITIONS = Path("/dev/edge")
# The time of signing counts, not the device's clock, which may never have been set; what is stolen is revoked by list.
KEYRING = {
    "path": f"/{KEYRING_FILE}",
    "check-crl": "true",
    "check-purpose": "codesign",
    "use-bundle-signing-time": "true",
}


def render_system_conf(
    compatible: str, *, slots: Sequence[str] = ("a", "b"), boot: str, floor: str | None = None
) -> str:
    """The text of system.conf (RAUC's manual, "System Configuration File").

    A slot is a root, its hash tree and its boot file; `boot` is where the boot partition is mounted, on which the
    boot files of all slots are. `floor` is the lowest version that may be installed: it only rises, so the image has
    none, and the device writes its own copy of this file to /run/rauc/system.conf with it.
    """
    system = {
        "compatible": compatible, "bootloader": "custom", **FORMATS, "mountprefix": "/run/rauc",
        "data-directory": f"/{DATA}",
        # Writing a slot and having it booted are two steps: between them the agent brings the cluster to rest.
        "activate-installed": "false",
    }  # fmt: skip
    if floor:
        system["min-bundle-version"] = floor
    sections = {
        "system": system,
        "handlers": {"bootloader-custom-backend": f"/{BACKEND}"},
        "keyring": KEYRING,
    }
    for number, slot in enumerate(slots):
        parent = {"parent": f"root.{number}"}
        device = f"{PARTITIONS}/root-{slot}"
        sections[f"slot.root.{number}"] = {"device": device, "type": "raw", "bootname": slot}
        sections[f"slot.verity.{number}"] = {"device": f"{device}-verity", "type": "raw", **parent}
        # Written by the bundle's hook; a folder, because the partition is in use and is shared by the slots.
        sections[f"slot.boot.{number}"] = {"device": boot, "type": "raw", "allow-mounted": "true", **parent}
    return render_key_file(sections)


def render_key_file(sections: Mapping[str, Mapping[str, str]]) -> str:
    """Sections in GLib's key file format, which RAUC reads."""

    def section(name: str, keys: Mapping[str, str]) -> str:
        return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())

    return "\n".join(section(name, keys) for name, keys in sections.items())


def compatible_of(profile: str, board: str) -> str:
    """RAUC's `compatible_of` of a profile's images for a board: a device takes no bundle with another one."""
    return f"edge-osbuild-{profile}-{board}"
