"""Slots, and what the boot flow needs of a slot's image to boot it."""

from dataclasses import dataclass
from pathlib import Path

SLOTS = ("a", "b")


@dataclass(frozen=True)
class SlotImage:
    """`root` and `tree` are files; `roothash` is hex; `blocks` the number of 4096-byte blocks of `root`.

    `salt` is as dm-verity takes it: "-" is none.
    """

    root: Path
    tree: Path
    roothash: str
    salt: str
    blocks: int
