"""A slot's boot entry, as every boot flow has it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BootEntry:
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
