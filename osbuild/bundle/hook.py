#!/usr/bin/python3 -I
"""Puts a slot's boot file in place, and makes the index of its root: run on the device by RAUC, out of the bundle.

A bundle fits either slot, and the boot files of the two differ in few bytes: the bundle has every block of both once
(boot.blocks), its sha256 (boot.hashes), and how each file is made of them (boot.json). Blocks that the boot partition
has already, most of them in most updates, are taken from there, so that a streamed bundle need not be read for them.

What was bootable of the slot is removed first: from here on the slot's root is being overwritten. The new file is
written beside, synced, compared with its sha256, and renamed to NAME.staged, which no boot loader reads. To rename that
is the switch, and the boot loader backend's to do.

RAUC wants the sha256 of every block of the new root, so that it reads only blocks that no slot has: nearly 1 % of the
root. The lowest level of the root's hash tree is the same, and most of that is in a slot's tree already. From the top
down, only blocks of the tree that are in none are read from the bundle. What is made is RAUC's index, which the bundle
has a link to in the place of its own. RAUC also gets an index of what is in the slot that it writes to, be it a version
or the beginning of one, where an installation was interrupted.

Environment: RAUC's for slot hooks (RAUC's manual, "Slot Hooks"). RAUC_SLOT_DEVICE is where the boot partition is
mounted, or the partition of the root, RAUC_SLOT_BOOTNAME the slot. The hook runs with the
standard library only, so it repeats the few lines of `osbuild.shared.files` that it needs.
"""

import bisect
import errno
import hashlib
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

Local = dict[bytes, tuple[BinaryIO, int]]
INDEX = "root.index"  # beside the folder in which the bundle is mounted
TRUST = "/usr/lib/edge-osbuild/trust.json"  # whose updates the running image takes
DATA = "/var/lib/rauc"  # RAUC's `data-directory`
TREES = "root-?-verity"  # labels of the partitions that trees are on
TREE_BLOCK = 4096
# dm-verity's superblock: signature, version, hash type, algorithm, sizes, blocks, size of the salt (cryptsetup's wiki,
# DMVerity, "Verity superblock format").
TREE_HEAD = struct.Struct("<8sII16x32sIIQH")
TREE_KIND = (b"verity\0\0", 1, 1, b"sha256".ljust(32, b"\0"), TREE_BLOCK, TREE_BLOCK, 0)


class HookError(Exception):
    """Why the slot can't be written: RAUC's log and the agent show it."""


def check_trust(bundle: Path, device: Path) -> None:
    """Raises `HookError` if the new image trusts no root that the running one trusts: `device` says which those are.

    No bundle of this device's owner could be installed any more. The signer may permit it. A bundle or image that is
    too old to say is not judged. The agent checks the same before RAUC starts; older agents do not.
    """
    try:
        known = {root["sha256"] for root in json.loads(device.read_text())["roots"]}
        build = json.loads((bundle / "build.json").read_text())
        new = {root["sha256"] for root in build["trust"]["roots"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    if known and new and not known & new and build.get("change_owner") is not True:
        owner = build["trust"].get("owner")
        raise HookError(f"the image in this bundle takes updates of {owner} only: this device could take no other")


def find_boot_images(folder: Path, name: str) -> list[Path]:
    """Files that a boot loader may take for `name`, of whatever generation and with whatever boot counter.

    `edge-b.efi` is `edge-7-b+2-1.efi` there (systemd-boot(7), `osbuild.agent.boot.systemd_boot`).
    """
    first, _, rest = name.rpartition("-")
    stem, _, suffix = rest.rpartition(".")
    wanted = rf"{re.escape(first)}-(\d+-)?{re.escape(stem)}(\+\d+(-\d+)?)?\.{re.escape(suffix)}"
    return sorted(path for path in folder.iterdir() if re.fullmatch(wanted, path.name, re.IGNORECASE))


def map_local_blocks(paths: list[Path], size: int, digest: int = 32) -> Local:
    """`digest` bytes of the sha256 of each block of the files that are there -> where it is.

    A file that can't be read is left out.
    """
    found: Local = {}
    for path in paths:
        try:
            file, offset = path.open("rb"), 0
            while data := file.read(size):
                found.setdefault(hashlib.sha256(data).digest()[:digest], (file, offset))
                offset += size
        except OSError:
            continue
    return found


def open_unbuffered(path: Path) -> BinaryIO:
    """A file of the bundle of which only the blocks are read that are asked for, and none ahead."""
    file = path.open("rb", buffering=0)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def assemble_boot_image(
    bundle: Path, plan: dict[str, Any], slot: str, local: Local, output: BinaryIO
) -> tuple[int, int]:
    """Write the boot file of `slot` to `output`; how many blocks it has, and how many were read from the bundle."""
    size, width, entry = int(plan["block"]), int(plan["digest"]), plan["slots"][slot]
    hashes = (bundle / "boot.hashes").read_bytes()
    whole, left, total, fetched = hashlib.sha256(), int(entry["size"]), 0, 0
    with open_unbuffered(bundle / "boot.blocks") as store:
        for first, count in entry["runs"]:
            for number in range(first, first + count):
                wanted = hashes[width * number : width * number + width]
                source, offset = local.get(wanted, (store, number * size))
                source.seek(offset)
                data = source.read(min(size, left))
                fetched += source is store
                output.write(data)
                whole.update(data)
                left -= len(data)
                total += 1
    if left or whole.hexdigest() != entry["sha256"]:
        raise HookError(f"the boot file of slot {slot} does not have the sha256 {entry['sha256']}")
    return total, fetched


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in `folder` durable (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written to the file system of `folder`."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def install_boot_image(bundle: Path, partition: Path, slot: str) -> str:
    """Put the boot file of `slot` on the boot partition as NAME.staged; returns what was done. Raises `HookError`."""
    plan = json.loads((bundle / "boot.json").read_text())
    if plan["format"] != 1 or slot not in plan["slots"]:
        raise HookError(f"this bundle has no boot file for slot `{slot}`, only for {', '.join(plan['slots'])}")
    folder, name = partition / plan["folder"], plan["slots"][slot]["name"]
    if not folder.is_dir():
        raise HookError(f"there is no {folder}: is the boot partition mounted?")
    partial, staged, spare = (folder / f"{name}.{what}" for what in ("partial", "staged", "spare"))
    old = [path for path in (staged, spare, *find_boot_images(folder, name), partial) if path.exists()]
    # A power cut within a rename leaves two names for the same blocks: to free them twice, and not at once, would
    # destroy what has them by then. So all go, and those last that would go the next time too, should the power fail
    # between two. What an interrupted installation left under one name, which boots nothing, is kept if there is room
    # for it: most of its blocks will be needed.
    kept = old if old in ([staged], [spare]) and free_bytes(folder) >= plan["slots"][slot]["size"] else []
    for path in old if not kept else []:
        path.unlink()
    sync_folder(folder)
    others = [entry["name"] for each, entry in plan["slots"].items() if each != slot]
    near = [*kept, *(path for other in others for path in find_boot_images(folder, other))]
    local = map_local_blocks(near, int(plan["block"]), int(plan["digest"]))
    try:
        with partial.open("xb") as output:
            total, fetched = assemble_boot_image(bundle, plan, slot, local, output)
            output.flush()
            os.fsync(output.fileno())
        partial.rename(staged)
        sync_folder(folder)
        spare.unlink(missing_ok=True)
    except (OSError, HookError) as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, HookError):
            raise
        message = f"{name} can't be written: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message += f" ({plan['slots'][slot]['size']} bytes are needed, {free_bytes(folder)} are free)"
        raise HookError(message) from error
    return f"boot file {name}: {total} blocks, {fetched} of them from the bundle"


def read_leaves(tree: BinaryIO, local: Local) -> tuple[bytes, int, int]:
    """The lowest level of a hash tree, and of how many blocks the tree is, and how many were read from `tree`.

    `local` is where blocks can be had by their sha256. After the superblock's block the levels follow from the top,
    which is one block; each block has 128 digests, of blocks of the next level. Raises `HookError`, `OSError`.
    """
    head = tree.read(TREE_BLOCK)
    try:
        *first, blocks, salt = TREE_HEAD.unpack_from(head)
    except struct.error as error:
        raise HookError("the bundle has no hash tree") from error
    if (*first, salt) != TREE_KIND or blocks < 2:
        raise HookError("the hash tree in the bundle is of another kind: no index can be made from it")
    counts = []
    count = blocks
    while count > 1:
        count = -(-count // 128)
        counts.append(count)
    offset, level, fetched = 1, b"", 1
    for count in reversed(counts):
        above, level = level, b""
        for number in range(count):
            wanted = above[32 * number : 32 * number + 32]
            data = read_local_block(local, wanted)
            if data is None:
                tree.seek((offset + number) * TREE_BLOCK)
                data = tree.read(TREE_BLOCK)
                fetched += 1
                if len(data) != TREE_BLOCK or (above and hashlib.sha256(data).digest() != wanted):
                    raise HookError("the hash tree in the bundle is damaged")
            level += data
        offset += count
    return level[: 32 * blocks], offset, fetched


def read_partition_leaves(partition: Path) -> bytes:
    """The lowest level of the hash tree on a partition, empty where there is none."""
    try:
        with partition.open("rb") as tree:
            return read_leaves(tree, {})[0]
    except (HookError, OSError):
        return b""


def read_local_block(local: Local, wanted: bytes) -> bytes | None:
    """The block with that sha256, if it is there, and still what it was."""
    if wanted not in local:
        return None
    file, offset = local[wanted]
    file.seek(offset)
    data = file.read(TREE_BLOCK)
    return data if hashlib.sha256(data).digest() == wanted else None


def make_index(bundle: Path, device: Path) -> tuple[bytes, str]:
    """Make RAUC's index of the root in the bundle, which is about to be written to `device`: it, and what was done."""
    target = bundle.parent / INDEX
    target.unlink(missing_ok=True)
    local = map_local_blocks(sorted(device.parent.glob(TREES)), TREE_BLOCK)
    with open_unbuffered(bundle / "verity.img") as tree:
        made, total, fetched = read_leaves(tree, local)
    target.write_bytes(made)
    return made, f"index of the root: {total} blocks of its hash tree, {fetched} of them from the bundle"


def unknown_index_path(slot: str, data: Path) -> Path:
    """Where RAUC looks for the index of a slot while it writes it, or that it has not written; by RAUC's name of it."""
    return data / f"slot.{slot}" / "hash-unknown" / "block-hash-index"


def store_index(target: Path, made: bytes) -> None:
    """Have an index where RAUC looks for it, whole or not at all."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(made)
    partial.replace(target)


def index_target_slot(device: Path, name: str, data: Path, new: bytes) -> str:
    """Make the index of what is in the slot `name`, the partition `device`, which is about to be written with `new`.

    RAUC has the index of what it put there last, unless an installation has failed since: it would read and hash the
    whole partition then. What such an installation has written, or one that was interrupted, is in neither that index
    nor the tree that is still there. Blocks are written in their order: where those end that are new and there already
    is found by halving. RAUC hashes what it takes from a slot: where an index is wrong, that is a look in vain. Returns
    what was done.
    """
    target = unknown_index_path(name, data)
    old = target.read_bytes() if target.exists() else read_partition_leaves(device.with_name(f"{device.name}-verity"))
    places = [at for at in range(0, len(new), 32) if new[at : at + 32] != old[at : at + 32]]
    with device.open("rb", buffering=0) as slot:

        def missing(at: int) -> bool:
            slot.seek(at // 32 * TREE_BLOCK)
            return hashlib.sha256(slot.read(TREE_BLOCK)).digest() != new[at : at + 32]

        count = bisect.bisect_left(places, True, key=missing)
    end = places[count] if count < len(places) else len(new)
    made = new[:end] + old[end:] or new[:32]  # none at all is no index
    store_index(target, made)
    return f"index of this root: {len(old) // 32} blocks known, {count} of {len(places)} new ones there already"


def index_other_slot(device: Path, name: str, data: Path) -> str:
    """Make the index of the slot that is not written, where RAUC has none: of an image that it has not installed.

    It would read and hash the whole partition for that, however little of it the root is. `name` is RAUC's name of the
    slot that is written to `device`, such as `root.1`. Returns what was done, empty for nothing.
    """
    kind, _, number = name.rpartition(".")
    target = unknown_index_path(f"{kind}.{1 - int(number)}", data)
    trees = [path for path in device.parent.glob(TREES) if path.name != f"{device.name}-verity"]
    if len(trees) != 1 or any(path != target.parent for path in target.parent.parent.glob("hash-*")):
        return ""
    with trees[0].open("rb") as tree:
        made, _, _ = read_leaves(tree, {})
    store_index(target, made)
    return f"index of the other root: {len(made) // 32} blocks"


def main() -> int:
    """Entry point: RAUC gives the hook's kind as the only argument."""
    if sys.argv[1:] not in (["slot-install"], ["slot-pre-install"]):
        print(f"unknown hook: {' '.join(sys.argv[1:])}", file=sys.stderr)
        return 1
    try:
        environ = os.environ
        bundle, path = Path(environ["RAUC_BUNDLE_MOUNT_POINT"]), Path(environ["RAUC_SLOT_DEVICE"])
        if sys.argv[1] == "slot-install":
            check_trust(bundle, Path(TRUST))  # the boot file comes first: nothing was changed yet
            print(install_boot_image(bundle, path, environ["RAUC_SLOT_BOOTNAME"]))
        else:
            new, said = make_index(bundle, path)
            print(said)
            try:
                print(index_target_slot(path, environ["RAUC_SLOT_NAME"], Path(DATA), new))
                print(index_other_slot(path, environ["RAUC_SLOT_NAME"], Path(DATA)))
            except (HookError, OSError, ValueError) as error:  # RAUC makes it then
                print(f"no index of a slot's root: {error}")
    except (HookError, OSError, KeyError, ValueError) as error:
        print(f"hook: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
