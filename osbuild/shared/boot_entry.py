"""The boot entry of a slot, the same for every boot flow."""

from dataclasses import dataclass

TRIES = 3  # boots of a slot on trial


@dataclass(frozen=True)
class BootEntry:
    """The entry of one slot. `left` and `done` count tries; `left` is None if the slot is good.

    `file` is the name of the boot image on the ESP. `generation` orders the entries of systemd-boot.
    """

    file: str
    slot: str
    left: int | None
    done: int
    generation: int = 0

    @property
    def state(self) -> str:
        """`good`, `trial`, or `bad` if no try is left."""
        if self.left is None:
            return "good"
        return "trial" if self.left else "bad"
