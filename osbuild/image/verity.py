"""A slot's image: the root file system as erofs, and its dm-verity hash tree."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from osbuild.boot.slot import SlotImage
from osbuild.image.layers import BaseLayer, FileSystemStamp, pack_root
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

BLOCK = 4096
NAMESPACE = uuid.UUID("a7b1a3a0-6c1e-5a55-9b1e-0e1f5b1e6a3d")  # for all UUIDs that this project derives from names


def derived_uuid(*names: str) -> str:
    """Return the UUID derived from `names` (RFC 9562 version 5)."""
    return str(uuid.uuid5(NAMESPACE, "/".join(names)))


@dataclass(frozen=True)
class SlotIdentity:
    """The key from which a slot's UUIDs are derived, and the time of its file system in seconds since 1970."""

    key: str
    epoch: int


def make_slot_image(
    tools: ToolsTree, base: BaseLayer, system: Path, folder: Path, identity: SlotIdentity
) -> SlotImage:  # fmt: skip
    """Pack the folder `system` over `base` as `folder`/root.erofs, with the hash tree `folder`/root.verity.

    Raises `Error`.
    """
    root, hash_tree = folder / "root.erofs", folder / "root.verity"
    pack_root(tools, base, system, root, FileSystemStamp(derived_uuid(identity.key, "root"), identity.epoch))
    size = root.stat().st_size
    if size % BLOCK:
        with root.open("r+b") as file:
            file.truncate(size + BLOCK - size % BLOCK)
    # Without a salt, the lowest level of the hash tree is the SHA-256 of each block, which is the adaptive index. A
    # device computes the index from its own hash tree and the changed blocks of the new one (`osbuild.bundle.hook`)
    # instead of downloading it. A salt only stops precomputation across images; a forger would need a SHA-256 second
    # preimage anyway.
    salt = "-"
    text = tools.run_command(
        ["veritysetup", "format", f"--salt={salt}", f"--uuid={derived_uuid(identity.key, 'verity')}", "--hash=sha256",
         f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", root, hash_tree],
        [folder],
    )  # fmt: skip
    hash_tree.chmod(0o644)  # veritysetup creates it with 0600, whatever the umask
    match = re.search(r"Root hash:\s+([0-9a-f]{64})", text)
    if match is None:
        raise Error(f"veritysetup printed no root hash: {text}")
    return SlotImage(root, hash_tree, match[1], salt, root.stat().st_size // BLOCK)
