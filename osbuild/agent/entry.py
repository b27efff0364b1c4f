"""A slot's boot entry, as every boot flow has it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from osbuild.agent.system import flush


@dataclass(frozen=True)
class Entry:
    """One slot's entry. `left` and `done` are tries; `left` is None once the slot has been found good.

    `file` is its boot file's name on the boot partition. `generation` orders entries where their names do.
    """

    file: str
    slot: str
    left: int | None
    done: int
    generation: int = 0

    @property
    def state(self) -> str:
        """`good`, `trial`, or `bad` where every try was used."""
        if self.left is None:
            return "good"
        return "trial" if self.left else "bad"


def remove(paths: Iterable[Path], aside: Path) -> None:
    """Remove names that may be those of one file: what a power cut within a rename leaves (see `osbuild.agent.uefi`).

    The first of them that goes frees the blocks of all. A power cut then must not leave one that is booted, or one
    alone that the bundle's hook keeps to copy from, while what it writes gets these blocks. So the last one gets the
    name `aside` before, which no boot loader takes, and the hook never keeps. Raises `OSError`.
    """
    there = [path for path in paths if path.exists()]
    if len(there) > 1 and not aside.exists():
        there[-1] = there[-1].rename(aside)
        flush(aside.parent)
    for path in there:
        path.unlink()
    flush(aside.parent)
