"""A slot's image: the root as erofs, and the dm-verity hash tree over it."""

import re
import uuid
from pathlib import Path

from osbuild.boot.slot import SlotImage
from osbuild.image.layers import BaseLayer, pack_root
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

BLOCK = 4096
NAMESPACE = uuid.UUID("a7b1a3a0-6c1e-5a55-9b1e-0e1f5b1e6a3d")  # of the UUIDs that this project derives from names


def derived_uuid(*names: str) -> str:
    """The same UUID for the same names, always (RFC 9562 version 5)."""
    return str(uuid.uuid5(NAMESPACE, "/".join(names)))


def make_slot_image(
    tools: ToolsTree, base: BaseLayer, system: Path, folder: Path, *, identity: str, epoch: int
) -> SlotImage:  # fmt: skip
    """Pack the folder `system` over `base` as `folder`/root.erofs and hash it into `folder`/root.verity.

    `identity` seeds UUIDs.
    """
    root, tree = folder / "root.erofs", folder / "root.verity"
    pack_root(tools, base, system, root, uuid=derived_uuid(identity, "root"), epoch=epoch)
    size = root.stat().st_size
    if size % BLOCK:
        with root.open("r+b") as file:
            file.truncate(size + BLOCK - size % BLOCK)
    # Without a salt the tree's lowest level is the sha256 of each block: the very index by which an update finds what a
    # device has already. So the device gets that index out of its own tree and the few blocks of the new one that
    # differ (`osbuild.bundle.hook`), and need not download it. What a salt is good for, that work done to forge blocks
    # of one image helps against no other, does not matter where a second preimage of SHA-256 is needed.
    salt = "-"
    text = tools.run_command(
        ["veritysetup", "format", f"--salt={salt}", f"--uuid={derived_uuid(identity, 'verity')}", "--hash=sha256",
         f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", root, tree],
        [folder],
    )  # fmt: skip
    match = re.search(r"Root hash:\s+([0-9a-f]{64})", text)
    if match is None:
        raise Error(f"veritysetup named no root hash: {text}")
    return SlotImage(root, tree, match[1], salt, root.stat().st_size // BLOCK)
