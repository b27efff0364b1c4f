#!/usr/bin/python3 -I
"""Puts a slot's boot file in place: run on the device by RAUC, out of the bundle that is installed.

A bundle fits either slot, and the boot files of the two differ in few bytes: the bundle has every block of both once
(boot.blocks), its sha256 (boot.hashes), and how each file is made of them (boot.json). Blocks that the boot partition
has already, most of them in most updates, are taken from there, so that a streamed bundle need not be read for them.

What was bootable of the slot is removed first: from here on the slot's root is being overwritten. The new file is
written beside, synced, compared with its sha256, and renamed to NAME.staged, which no boot loader reads. To rename that
is the switch, and the boot loader backend's to do.

Environment: RAUC's for slot hooks (RAUC's manual, "Slot Hooks"). RAUC_SLOT_DEVICE is where the boot partition is
mounted, RAUC_SLOT_BOOTNAME the slot. Standard library only.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

Local = dict[bytes, tuple[BinaryIO, int]]


class Problem(Exception):
    """Why the boot file can't be put in place: RAUC's log and the agent show it."""


def entries(folder: Path, name: str) -> list[Path]:
    """Files that a boot loader may take for `name`, of whatever generation and with whatever boot counter.

    `edge-b.efi` is `edge-7-b+2-1.efi` there (systemd-boot(7), `osbuild.agent.uefi`).
    """
    first, _, rest = name.rpartition("-")
    stem, _, suffix = rest.rpartition(".")
    wanted = rf"{re.escape(first)}-(\d+-)?{re.escape(stem)}(\+\d+(-\d+)?)?\.{re.escape(suffix)}"
    return sorted(path for path in folder.iterdir() if re.fullmatch(wanted, path.name, re.IGNORECASE))


def local_blocks(paths: list[Path], size: int) -> Local:
    """sha256 of each block of the files that are there -> where it is. A file that can't be read is left out."""
    found: Local = {}
    for path in paths:
        try:
            file = path.open("rb")
            for offset in range(0, path.stat().st_size, size):
                found.setdefault(hashlib.sha256(file.read(size)).digest(), (file, offset))
        except OSError:
            continue
    return found


def assemble(bundle: Path, plan: dict[str, Any], slot: str, local: Local, output: BinaryIO) -> tuple[int, int]:
    """Write the boot file of `slot` to `output`; how many blocks it has, and how many were read from the bundle."""
    size, entry = int(plan["block"]), plan["slots"][slot]
    hashes = (bundle / "boot.hashes").read_bytes()
    whole, left, total, fetched = hashlib.sha256(), int(entry["size"]), 0, 0
    with (bundle / "boot.blocks").open("rb") as store:
        for first, count in entry["runs"]:
            for number in range(first, first + count):
                wanted = hashes[32 * number : 32 * number + 32]
                source, offset = local.get(wanted, (store, number * size))
                source.seek(offset)
                data = source.read(min(size, left))
                fetched += source is store
                output.write(data)
                whole.update(data)
                left -= len(data)
                total += 1
    if left or whole.hexdigest() != entry["sha256"]:
        raise Problem(f"the boot file of slot {slot} does not have the sha256 {entry['sha256']}")
    return total, fetched


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in `folder` durable (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free(folder: Path) -> int:
    """Bytes that can still be written to the file system of `folder`."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def install(bundle: Path, partition: Path, slot: str) -> str:
    """Put the boot file of `slot` on the boot partition as NAME.staged; returns what was done. Raises `Problem`."""
    plan = json.loads((bundle / "boot.json").read_text())
    if plan["format"] != 1 or slot not in plan["slots"]:
        raise Problem(f"this bundle has no boot file for slot `{slot}`, only for {', '.join(plan['slots'])}")
    folder, name = partition / plan["folder"], plan["slots"][slot]["name"]
    if not folder.is_dir():
        raise Problem(f"there is no {folder}: is the boot partition mounted?")
    partial, staged, spare = (folder / f"{name}.{what}" for what in ("partial", "staged", "spare"))
    old = [path for path in (staged, spare, *entries(folder, name), partial) if path.exists()]
    # A power cut within a rename leaves two names for the same blocks: to free them twice, and not at once, would
    # destroy what has them by then. So all go, and those last that would go the next time too, should the power fail
    # between two. What an interrupted installation left under one name, which boots nothing, is kept if there is room
    # for it: most of its blocks will be needed.
    kept = old if old in ([staged], [spare]) and free(folder) >= plan["slots"][slot]["size"] else []
    for path in old if not kept else []:
        path.unlink()
    sync_folder(folder)
    others = [entry["name"] for each, entry in plan["slots"].items() if each != slot]
    local = local_blocks([*kept, *(path for other in others for path in entries(folder, other))], int(plan["block"]))
    try:
        with partial.open("xb") as output:
            total, fetched = assemble(bundle, plan, slot, local, output)
            output.flush()
            os.fsync(output.fileno())
        partial.rename(staged)
        sync_folder(folder)
        spare.unlink(missing_ok=True)
    except (OSError, Problem) as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, Problem):
            raise
        size = plan["slots"][slot]["size"]
        raise Problem(f"{partial}: {error.strerror} ({size} bytes are needed, {free(folder)} are free)") from error
    return f"boot file {name}: {total} blocks, {fetched} of them from the bundle"


def main() -> int:
    """Entry point: RAUC gives the hook's kind as the only argument."""
    if sys.argv[1:] != ["slot-install"]:
        print(f"unknown hook: {' '.join(sys.argv[1:])}", file=sys.stderr)
        return 1
    try:
        environ = os.environ
        bundle, partition = Path(environ["RAUC_BUNDLE_MOUNT_POINT"]), Path(environ["RAUC_SLOT_DEVICE"])
        print(install(bundle, partition, environ["RAUC_SLOT_BOOTNAME"]))
    except (Problem, OSError, KeyError, ValueError) as error:
        print(f"hook: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
