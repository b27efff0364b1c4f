"""Finds QEMU in a tools tree."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.qemu.config import Wrap, run_directly
from osbuild.sandbox.tools_tree import emulator_packages, unlocked_tools_tree


@dataclass(frozen=True)
class Emulator:
    """How to run QEMU (`wrap`), and the root with its firmware."""

    wrap: Wrap = run_directly
    root: Path = Path("/")


HOST_EMULATOR = Emulator()


def find_emulator(architecture: Architecture, cache: Cache | None = None) -> Emulator:
    """Return Debian's QEMU for `architecture`, in its own tools tree. Raises `Error`.

    Its version is chosen once per cache, so that machines do not change between tests.
    """
    packages = emulator_packages([architecture])
    tools = unlocked_tools_tree(cache or Cache(), "emulators", packages, f"emulator for {architecture}")
    return Emulator(tools.wrap_command, tools.root)
