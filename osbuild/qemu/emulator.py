"""Where QEMU comes from: the tools tree, or the host itself."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.arch import Architecture
from osbuild.cache import Cache
from osbuild.qemu.config import Wrap, direct
from osbuild.tools import emulator_packages, kept_tree


@dataclass(frozen=True)
class Emulator:
    """How to run QEMU (`wrap`), and the root in which it finds its firmware."""

    wrap: Wrap = direct
    root: Path = Path("/")


def emulator(architecture: Architecture, cache: Cache | None = None) -> Emulator:
    """Debian's QEMU for `architecture`, in a tree of its own.

    It is always of the same versions: a machine should not change under its tests.
    """
    packages = emulator_packages([architecture])
    made = kept_tree(cache or Cache(), "emulators", packages, f"emulator for {architecture}")
    return Emulator(made.wrap, made.root)
