"""The names and numbers of each processor architecture in the kernel, the dynamic loader and Debian."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Abi:
    """One binary interface: `elf` is the ELF header's class and machine (elf(5)), `qemu` the suffix of qemu-user(1).

    `libraries` and `loader` are paths in a root (multiarch specification; the psABI's program interpreter).
    """

    debian: str
    elf: tuple[int, int]
    qemu: str
    libraries: str
    loader: str

    @property
    def magic(self) -> bytes:
        """The first 20 bytes of a program: the ELF header up to the machine. Compare with `MASK`."""
        bits, machine = self.elf
        return b"\x7fELF" + bytes([bits, 1, 1, 0]) + bytes(8) + b"\x02\0" + machine.to_bytes(2, "little")


ABIS = {
    abi.debian: abi
    for abi in (
        Abi("amd64", (2, 62), "x86_64", "usr/lib/x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"),
        Abi("arm64", (2, 183), "aarch64", "usr/lib/aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"),
        Abi("armhf", (1, 40), "arm", "usr/lib/arm-linux-gnueabihf", "lib/ld-linux-armhf.so.3"),
    )
}
# The bits of `magic` that matter: any ABI byte, and type 2 (fixed) or 3 (position independent).
MASK = b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe" + b"\xff" * 3


def read_elf_machine(path: Path) -> tuple[int, int] | None:
    """Return class and machine of an ELF file, None for any other file."""
    with path.open("rb") as file:
        head = file.read(20)
    return (head[4], int.from_bytes(head[18:20], "little")) if head[:4] == b"\x7fELF" and len(head) == 20 else None
