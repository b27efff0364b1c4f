"""The seed of this node (cloud-init's NoCloud format): found, checked, kept, and shown to cloud-init.

Looked for, in this order: a medium labelled CIDATA, the folder /seed of the EFI system partition, and the seed that
was kept from before. A seed that is torn or incomplete is refused and the next one is used. With none at all the
node starts with defaults: DHCP and a name made from its machine-id.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent.system import System, flush, write

KEPT = "/var/lib/edge-osbuild/seed"
SHOWN = "/var/lib/cloud/seed/nocloud"
ON_ESP = "/efi/seed"
MOUNT = "/run/edge-osbuild/medium"
LABEL = "CIDATA"  # or in lower case
REQUIRED = ("user-data", "meta-data")
OPTIONAL = ("network-config", "vendor-data")
SUMS = "SHA256SUMS"
LIMIT = 4 * 2**20  # bytes of one file
MEDIUM_WAIT = 5.0  # seconds that a medium gets to show up where no seed is known


class Refused(Exception):
    """A seed that is not to be used; says why."""


@dataclass(frozen=True)
class Seed:
    """The files of a seed by name."""

    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """Changes with any file."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()[:32]


def read(folder: Path) -> Seed:
    """The seed in a folder. Raises `Refused` where it is not complete, `OSError` where it can't be read.

    A file SHA256SUMS, as `edge-osbuild seed` writes it, must agree with every file that it names.
    """
    files = {}
    for name in (*REQUIRED, *OPTIONAL, SUMS):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                files[name] = file.read(LIMIT + 1)
            if len(files[name]) > LIMIT:
                raise Refused(f"{name} is larger than {LIMIT} bytes")
    for name in REQUIRED:
        if not files.get(name, b"").strip():
            raise Refused(f"{name} is {'empty' if name in files else 'missing'}")
    for name, data in files.items():
        if b"\0" in data:
            raise Refused(f"{name} is not text")
    if b"instance-id" not in files["meta-data"]:
        raise Refused("meta-data has no instance-id")
    for line in files.pop(SUMS, b"").decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest:
            raise Refused(f"{name} does not have the checksum that {SUMS} says")
    return Seed(files)


def kept(system: System) -> Seed | None:
    """The last accepted seed."""
    try:
        return read(system.path(KEPT) / "current")
    except (OSError, Refused):
        return None


def keep(system: System, seed: Seed) -> None:
    """Store a seed: a new folder, then one rename of the link to it, so that a power cut leaves the old or the new."""
    folder = system.path(KEPT)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = folder / "current"
    if current.is_symlink() and current.readlink().name == seed.digest and kept(system) == seed:
        return
    target = folder / seed.digest
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(mode=0o700)
    for name, data in seed.files.items():
        write(target / name, data, 0o600)
    beside = folder / ".current.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(seed.digest)
    flush(folder)
    beside.rename(current)
    flush(folder)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name != seed.digest:
            shutil.rmtree(other)


def show(system: System, seed: Seed) -> None:
    """Put the seed where cloud-init reads it. One run before the network does everything: `dsmode: local`."""
    folder = system.path(SHOWN)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    for name, data in seed.files.items():
        (folder / name).write_bytes(local(data) if name == "meta-data" else data)


def local(metadata: bytes) -> bytes:
    """meta-data (YAML, of which JSON is a part) with `dsmode: local`."""
    text = metadata.decode(errors="replace")
    try:
        return json.dumps({**json.loads(text), "dsmode": "local"}).encode()
    except (ValueError, TypeError):
        lines = [line for line in text.splitlines() if not line.startswith("dsmode:")]
        return "\n".join([*lines, "dsmode: local", ""]).encode()


def defaults(system: System) -> Seed:
    """The seed of a node that was given none."""
    machine = system.text("/etc/machine-id").strip() or "0" * 32
    name = f"edge-{machine[:8]}"
    metadata = {"instance-id": f"default-{machine}", "local-hostname": name}
    return Seed(
        {
            "user-data": b"#cloud-config\nusers: []\n",
            "meta-data": json.dumps(metadata).encode(),
            "network-config": b"version: 2\nethernets: {}\n",
        }
    )


@contextmanager
def mounted(system: System, device: Path) -> Iterator[Path]:
    """The medium's files, read-only, for the time of the block."""
    place = system.path(MOUNT)
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "ro,nosuid,nodev,noexec", device, place], check=True, capture_output=True, text=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def media(system: System) -> list[Path]:
    """Block devices with the label of a seed. Read from the devices themselves: udev may not have come to them yet."""
    found = []
    for name in sorted(path.name for path in system.path("/sys/class/block").glob("*")):
        device = system.path(f"/dev/{name}")
        if not name.startswith(("loop", "ram", "dm-", "zram")) and label(device).upper() == LABEL:
            found.append(device)
    return found


def label(device: Path) -> str:
    """The label of an ISO 9660 (ECMA-119, 8.4) or FAT file system, empty where there is neither."""
    try:
        with device.open("rb") as file:
            boot = file.read(512)
            file.seek(0x8000)
            volume = file.read(72)
    except OSError:
        return ""
    if volume[1:6] == b"CD001":
        return volume[40:72].decode("ascii", errors="replace").strip()
    for kind, place in ((54, 43), (82, 71)):  # FAT12 and FAT16, then FAT32
        if boot[kind : kind + 3] == b"FAT":
            return boot[place : place + 11].decode("ascii", errors="replace").strip()
    return ""


def wait_for_media(system: System, seconds: float) -> list[Path]:
    """Look for media; where there is none yet, after udev has seen what is plugged in, and `seconds` more.

    With 0 seconds, what is there now counts: a node that has its seed does not wait at every boot.
    """
    if (found := media(system)) or seconds <= 0:
        return found
    subprocess.run(["udevadm", "settle", "--timeout=30"], check=False)
    end = time.monotonic() + seconds
    while not (found := media(system)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def choose(system: System, devices: list[Path]) -> tuple[Seed, str]:
    """The seed to use and where it is from. Says on standard error which ones were refused, and why."""
    for device in devices:
        try:
            with mounted(system, device) as folder:
                return read(folder), f"medium {device}"
        except Refused as problem:
            print(f"seed on {device} refused: {problem}", file=sys.stderr)
        except subprocess.CalledProcessError as problem:
            print(f"seed on {device} can't be read: {(problem.stderr or '').strip() or problem}", file=sys.stderr)
    folder = system.path(ON_ESP)
    try:
        if folder.is_dir():
            return read(folder), "EFI system partition"
    except (Refused, OSError) as problem:
        print(f"seed on the EFI system partition refused: {problem}", file=sys.stderr)
    if (seed := kept(system)) is not None:
        return seed, "kept from before"
    return defaults(system), "defaults"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help=f"how long to look for a medium where no seed is known (default: {MEDIUM_WAIT:g})",
    )


def main(options: argparse.Namespace) -> int:
    system = System()
    patience = MEDIUM_WAIT if options.wait is None else options.wait
    known = kept(system) is not None or system.path(ON_ESP).is_dir()
    seed, source = choose(system, wait_for_media(system, 0.0 if known else patience))
    if source != "defaults":
        keep(system, seed)
    show(system, seed)
    print(f"seed: {source}")
    return 0
