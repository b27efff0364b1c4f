#!/usr/bin/python3 -I
"""The hook of a bundle, which RAUC runs on the device: writes a slot's staged boot image, and makes adaptive indexes.

The environment is RAUC's for slot hooks (RAUC's manual, "Slot Hooks"): RAUC_SLOT_DEVICE is the mount point of the ESP
or the partition of the root, RAUC_SLOT_BOOTNAME the slot. The hook runs with the
standard library only, so it repeats the few lines of `osbuild.shared.files` that it needs.
"""

# Boot images: a bundle fits either slot, and the boot images of the slots differ in few bytes. So the bundle contains
# every block of both only once (boot.blocks), with its hash (boot.hashes) and the list of blocks of each boot image
# (boot.json). Most blocks of most updates are on the ESP already; the hook copies these and does not read the bundle.
#
# The slot's old boot images are removed first, because RAUC then overwrites the slot's root. The new one is written to
# another file, synced, verified and renamed to NAME.staged, which no boot loader reads. The boot loader backend renames
# it again to switch slots.
#
# Indexes: RAUC needs the SHA-256 of every block of the new root, nearly 1 % of the root's size, to read only the blocks
# that no slot has. The lowest level of the root's hash tree has the same hashes, and a slot's old hash tree has most of
# its blocks. So the hook reads the tree from the top and takes only missing blocks from the bundle. It writes the
# result to the path to which the bundle's own index is a link. The hook also writes an index of the target slot, which
# may contain a version or, after an interruption, the beginning of one.

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
INDEX = "root.index"  # beside the mount point of the bundle
TRUST = "/usr/lib/edge-osbuild/trust.json"  # the roots that the running image trusts
DATA = "/var/lib/rauc"  # RAUC's `data-directory`
TREES = "root-?-verity"  # labels of the partitions with hash trees
TREE_BLOCK = 4096
# dm-verity's superblock: signature, version, hash type, algorithm, sizes, blocks, size of the salt (cryptsetup's wiki,
# DMVerity, "Verity superblock format").
TREE_HEAD = struct.Struct("<8sII16x32sIIQH")
TREE_KIND = (b"verity\0\0", 1, 1, b"sha256".ljust(32, b"\0"), TREE_BLOCK, TREE_BLOCK, 0)


class HookError(Exception):
    """The slot can't be written. RAUC's log and the edge agent show the message."""


def check_trust(bundle: Path, device: Path) -> None:
    """Raise `HookError` if the new image trusts none of the roots in the running image's trust.json, `device`."""
    # After such an update, the device could not install any bundle of its owner. The signer may allow it. Bundles and
    # images without this information are accepted. Current edge agents check the same before RAUC starts.
    try:
        old = {root["sha256"] for root in json.loads(device.read_text())["roots"]}
        build = json.loads((bundle / "build.json").read_text())
        new = {root["sha256"] for root in build["trust"]["roots"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    if old and new and not old & new and build.get("change_owner") is not True:
        owner = build["trust"].get("owner")
        raise HookError(
            f"the image in this bundle accepts only updates of {owner}: this device could not install any others"
        )


def find_boot_images(folder: Path, name: str) -> list[Path]:
    """Return the files in `folder` that are the boot image `name` with any generation and boot counter.

    On the ESP, `edge-b.efi` may be called `edge-7-b+2-1.efi` (systemd-boot(7), `osbuild.agent.boot.systemd_boot`).
    """
    prefix, _, slot_name = name.rpartition("-")
    stem, _, suffix = slot_name.rpartition(".")
    pattern = rf"{re.escape(prefix)}-(\d+-)?{re.escape(stem)}(\+\d+(-\d+)?)?\.{re.escape(suffix)}"
    return sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name, re.IGNORECASE))


def map_local_blocks(paths: list[Path], size: int, digest: int = 32) -> Local:
    """Map the first `digest` bytes of the SHA-256 of each block of the files to file and offset of the block.

    Files that can't be read are skipped.
    """
    blocks: Local = {}
    for path in paths:
        try:
            file, offset = path.open("rb"), 0
            while data := file.read(size):
                blocks.setdefault(hashlib.sha256(data).digest()[:digest], (file, offset))
                offset += size
        except OSError:
            continue
    return blocks


def open_unbuffered(path: Path) -> BinaryIO:
    """Open a file of the bundle without buffering and readahead, so that only requested blocks are downloaded."""
    file = path.open("rb", buffering=0)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def assemble_boot_image(
    bundle: Path, plan: dict[str, Any], slot: str, local: Local, output: BinaryIO
) -> tuple[int, int]:
    """Write the boot image of `slot` to `output`. Returns its blocks, and those that were read from the bundle.

    Raises `HookError` if the result is wrong, and `OSError`.
    """
    size, width, entry = int(plan["block"]), int(plan["digest"]), plan["slots"][slot]
    hashes = (bundle / "boot.hashes").read_bytes()
    sha256, remaining, total, fetched = hashlib.sha256(), int(entry["size"]), 0, 0
    with open_unbuffered(bundle / "boot.blocks") as store:
        for first, count in entry["runs"]:
            for number in range(first, first + count):
                digest = hashes[width * number : width * number + width]
                source, offset = local.get(digest, (store, number * size))
                source.seek(offset)
                data = source.read(min(size, remaining))
                fetched += source is store
                output.write(data)
                sha256.update(data)
                remaining -= len(data)
                total += 1
    if remaining or sha256.hexdigest() != entry["sha256"]:
        raise HookError(f"the boot image of slot {slot} does not have the sha256 {entry['sha256']}")
    return total, fetched


def sync_folder(folder: Path) -> None:
    """Write the directory entries of `folder` to the disk (fsync(2)). Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system of `folder`. Raises `OSError`."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def install_boot_image(bundle: Path, partition: Path, slot: str) -> str:
    """Write the boot image of `slot` as NAME.staged to the ESP mounted at `partition`. Returns a line for the log.

    Raises `HookError`, and `OSError` if an old boot image can't be removed.
    """
    plan = json.loads((bundle / "boot.json").read_text())
    if plan["format"] != 1 or slot not in plan["slots"]:
        raise HookError(f"this bundle has no boot image for slot `{slot}`, only for {', '.join(plan['slots'])}")
    folder, name = partition / plan["folder"], plan["slots"][slot]["name"]
    if not folder.is_dir():
        raise HookError(f"{folder} does not exist: check that the ESP is mounted")
    partial, staged, spare = (folder / f"{name}.{suffix}" for suffix in ("partial", "staged", "spare"))
    old = [path for path in (staged, spare, *find_boot_images(folder, name), partial) if path.exists()]
    # After a power cut during a rename on FAT, two names may share the same blocks. Removing the names at different
    # times would free the blocks twice and damage the file that uses them by then. So all names are removed together.
    # The names that a next attempt might keep are removed first: after a power cut in between, it removes the others
    # too. A staged image of an interrupted installation is kept if it is the only name and there is enough space,
    # because most of its blocks are needed.
    kept = old if old in ([staged], [spare]) and free_bytes(folder) >= plan["slots"][slot]["size"] else []
    for path in old if not kept else []:
        path.unlink()
    sync_folder(folder)
    other_names = [entry["name"] for letter, entry in plan["slots"].items() if letter != slot]
    sources = [*kept, *(path for other in other_names for path in find_boot_images(folder, other))]
    local = map_local_blocks(sources, int(plan["block"]), int(plan["digest"]))
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
    return f"boot image {name}: {total} blocks, {fetched} of them from the bundle"


def read_leaves(tree: BinaryIO, local: Local) -> tuple[bytes, int, int]:
    """Return the lowest level of a hash tree, the number of its blocks, and how many were read from `tree`.

    `local` maps the SHA-256 of blocks to copies. Raises `HookError` if the hash tree is damaged or of another kind, and
    `OSError`.
    """
    # The superblock takes one block. The levels follow from the top, which is one block. Each block has the 128 digests
    # of blocks of the next level.
    head = tree.read(TREE_BLOCK)
    try:
        *first, blocks, salt = TREE_HEAD.unpack_from(head)
    except struct.error as error:
        raise HookError("the bundle contains no hash tree") from error
    if (*first, salt) != TREE_KIND or blocks < 2:
        raise HookError("the hash tree in the bundle has an unsupported format: no index can be made from it")
    counts = []
    count = blocks
    while count > 1:
        count = -(-count // 128)
        counts.append(count)
    offset, level, fetched = 1, b"", 1
    for count in reversed(counts):
        parent, level = level, b""
        for number in range(count):
            digest = parent[32 * number : 32 * number + 32]
            data = read_local_block(local, digest)
            if data is None:
                tree.seek((offset + number) * TREE_BLOCK)
                data = tree.read(TREE_BLOCK)
                fetched += 1
                if len(data) != TREE_BLOCK or (parent and hashlib.sha256(data).digest() != digest):
                    raise HookError("the hash tree in the bundle is damaged")
            level += data
        offset += count
    return level[: 32 * blocks], offset, fetched


def read_partition_leaves(partition: Path) -> bytes:
    """Return the lowest level of the hash tree on a partition, empty if there is none."""
    try:
        with partition.open("rb") as tree:
            return read_leaves(tree, {})[0]
    except (HookError, OSError):
        return b""


def read_local_block(local: Local, digest: bytes) -> bytes | None:
    """Return the local block with the SHA-256 `digest`; None if there is none, or it has changed."""
    if digest not in local:
        return None
    file, offset = local[digest]
    file.seek(offset)
    data = file.read(TREE_BLOCK)
    return data if hashlib.sha256(data).digest() == digest else None


def make_index(bundle: Path, device: Path) -> tuple[bytes, str]:
    """Write the index of the bundle's root, which RAUC will write to `device`. Returns it and a line for the log."""
    target = bundle.parent / INDEX
    target.unlink(missing_ok=True)
    local = map_local_blocks(sorted(device.parent.glob(TREES)), TREE_BLOCK)
    with open_unbuffered(bundle / "verity.img") as tree:
        index, total, fetched = read_leaves(tree, local)
    target.write_bytes(index)
    return index, f"index of the root: {total} blocks of its hash tree, {fetched} of them from the bundle"


def unknown_index_path(slot: str, data: Path) -> Path:
    """Return the path of RAUC's index of a slot (RAUC's name) that it writes, or that it has not installed."""
    return data / f"slot.{slot}" / "hash-unknown" / "block-hash-index"


def store_index(target: Path, index: bytes) -> None:
    """Write an index atomically. Raises `OSError`."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(index)
    partial.replace(target)


def index_target_slot(device: Path, name: str, data: Path, new: bytes) -> str:
    """Write the index of the slot `name` on the partition `device`, before RAUC writes the root with the index `new`.

    Returns a line for the log. Raises `OSError`.
    """
    # RAUC has the index of the version that it installed last, unless a later installation has failed: then RAUC would
    # read and hash the whole partition. Neither that index nor the slot's hash tree includes blocks that a failed or
    # interrupted installation has written. Blocks are written in order, so a binary search finds the last new one. A
    # wrong entry costs only one read, because RAUC verifies each block that it copies from a slot.
    target = unknown_index_path(name, data)
    old = target.read_bytes() if target.exists() else read_partition_leaves(device.with_name(f"{device.name}-verity"))
    changed = [at for at in range(0, len(new), 32) if new[at : at + 32] != old[at : at + 32]]
    with device.open("rb", buffering=0) as slot:

        def missing(at: int) -> bool:
            slot.seek(at // 32 * TREE_BLOCK)
            return hashlib.sha256(slot.read(TREE_BLOCK)).digest() != new[at : at + 32]

        count = bisect.bisect_left(changed, True, key=missing)
    end = changed[count] if count < len(changed) else len(new)
    index = new[:end] + old[end:] or new[:32]  # RAUC does not accept an empty index
    store_index(target, index)
    return f"index of this root: {len(old) // 32} blocks known, {count} of {len(changed)} new ones already written"


def index_other_slot(device: Path, name: str, data: Path) -> str:
    """Write the index of the slot that is not written, if RAUC has none, because it did not install its image.

    `name` is RAUC's name of the slot that is written to `device`, such as `root.1`. Returns a line for the log, or an
    empty one. Raises `HookError` and `OSError`.
    """
    # Without an index, RAUC would read and hash the whole partition, even if the root takes little of it.
    kind, _, number = name.rpartition(".")
    target = unknown_index_path(f"{kind}.{1 - int(number)}", data)
    trees = [path for path in device.parent.glob(TREES) if path.name != f"{device.name}-verity"]
    if len(trees) != 1 or any(path != target.parent for path in target.parent.parent.glob("hash-*")):
        return ""
    with trees[0].open("rb") as tree:
        index, _, _ = read_leaves(tree, {})
    store_index(target, index)
    return f"index of the other root: {len(index) // 32} blocks"


def main() -> int:
    """Entry point: RAUC passes the kind of hook as the only argument. Returns the exit status."""
    if sys.argv[1:] not in (["slot-install"], ["slot-pre-install"]):
        print(f"unknown hook: {' '.join(sys.argv[1:])}", file=sys.stderr)
        return 1
    try:
        environ = os.environ
        bundle, path = Path(environ["RAUC_BUNDLE_MOUNT_POINT"]), Path(environ["RAUC_SLOT_DEVICE"])
        if sys.argv[1] == "slot-install":
            check_trust(bundle, Path(TRUST))  # the boot image is installed first: nothing is changed yet
            print(install_boot_image(bundle, path, environ["RAUC_SLOT_BOOTNAME"]))
        else:
            new, log_line = make_index(bundle, path)
            print(log_line)
            try:
                print(index_target_slot(path, environ["RAUC_SLOT_NAME"], Path(DATA), new))
                print(index_other_slot(path, environ["RAUC_SLOT_NAME"], Path(DATA)))
            except (HookError, OSError, ValueError) as error:  # RAUC then makes the index itself
                print(f"no index of a slot's root: {error}")
    except (HookError, OSError, KeyError, ValueError) as error:
        print(f"hook: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
