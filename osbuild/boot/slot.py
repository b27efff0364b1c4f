"""Slots, and the properties of a slot's image that the boot flow needs."""

from dataclasses import dataclass
from pathlib import Path

SLOTS = ("a", "b")


@dataclass(frozen=True)
class SlotImage:
    """`root` and `hash_tree` are files; `roothash` is hex; `blocks` is the number of 4096-byte blocks of `root`.

    `salt` is written as for dm-verity: "-" is no salt.
    """

    root: Path
    hash_tree: Path
    roothash: str
    salt: str
    blocks: int
