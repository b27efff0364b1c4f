"""Boot entries of systemd-boot: files on the EFI system partition, counted in their names (systemd-boot(7))."""

import re

from osbuild.agent.boot import Entry
from osbuild.agent.system import System

ENTRIES = "/efi/EFI/Linux"
# The boot loader's variables (Boot Loader Interface); the path of the entry that was booted, if it had a counter.
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
NAME = re.compile(r"(?P<id>[A-Za-z0-9][^+]*-(?P<slot>[^+-]+))(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?\.efi")


class Uefi:
    """See `osbuild.agent.boot.Flow`."""

    def entries(self, system: System) -> list[Entry]:
        try:
            names = sorted(path.name for path in system.path(ENTRIES).iterdir())
        except OSError:
            return []
        return sorted((entry for name in names if (entry := parse(name))), key=lambda entry: entry.slot)

    def booted(self, system: System) -> Entry | None:
        return parse(variable(system, COUNTED).rpartition("\\")[2].rpartition("/")[2])

    def bless(self, system: System, slot: str) -> None:
        """Nothing to do at boot: systemd's own generator starts systemd-bless-boot.service after boot-complete."""


def parse(file: str) -> Entry | None:
    """An entry from its file name: `edge-a.efi`, `edge-a+3.efi`, `edge-a+2-1.efi`."""
    if not (found := NAME.fullmatch(file)):
        return None
    left = found["left"]
    return Entry(file, found["slot"], None if left is None else int(left), int(found["done"] or 0))


def variable(system: System, name: str) -> str:
    """An EFI variable's text: four bytes of attributes, then UTF-16 (kernel documentation, efivarfs)."""
    try:
        data = system.path(name).read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
