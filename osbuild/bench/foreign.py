"""Roots of other architectures: against this host's own, and against one whose every program is emulated."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from osbuild import log, tools
from osbuild.arch import Architecture
from osbuild.bench.figure import Figure, Measured
from osbuild.bench.site import Site
from osbuild.board import default
from osbuild.cache import Cache, content_key, remove
from osbuild.debian import Archive
from osbuild.lock import Lock, current
from osbuild.profile.load import find, load
from osbuild.rootfs import ELEMENTS, rootfs
from osbuild.tools import Tree
from osbuild.wheels import DISKIMAGE_BUILDER, unpacked

BASE = "minimal"
EMULATED = Path(__file__).with_name("emulated.bash")


def measure(site: Site) -> Measured:
    """Make the root of one profile for every architecture, then once more under emulation. Raises `Error`."""
    locks = {architecture: locked(site.cache, architecture) for architecture in Architecture}
    seconds = {}
    for architecture, lock in locks.items():
        prepare(site.cache, lock)
        with log.step(f"root for {architecture}"):
            path, seconds[architecture] = root(site.cache, lock)
            remove(path)
    with log.step("root for arm64, emulated"):
        path, slow = emulated_root(site.cache, locks[Architecture.arm64])
        remove(path)
    native = seconds[Architecture.native()]
    figures = [Figure(f"root_{name}", f"  root for {name}", value, "s") for name, value in seconds.items()]
    figures += [
        Figure(f"foreign_{name}", f"root for {name} / native root", value / native, "×", 1.25)
        for name, value in seconds.items()
        if name != Architecture.native()
    ]
    fast = seconds[Architecture.arm64]
    figures += [
        Figure("emulated_arm64", "  root for arm64, fully emulated", slow, "s"),
        Figure("accelerated", "root for arm64 / fully emulated", fast / slow, "×", 1 / 8),
    ]
    return Measured(
        figures,
        f"The step that makes the root of {BASE}: from its packages, downloaded, to a tar, by diskimage-builder. The "
        "emulated one runs mmdebstrap instead of ours, in the same sandbox, and has the same packages.",
    )


def locked(cache: Cache, architecture: Architecture) -> Lock:
    """The lock of the profile that is measured."""
    return current(load(find(BASE)), default(architecture), cache)


def prepare(cache: Cache, lock: Lock) -> Tree:
    """Have packages and tools in the cache. Returns the tree to compose with."""
    Archive(cache, lock.architecture).download(lock.packages)
    return tools.tree(cache, lock.compose_tools)


def root(
    cache: Cache, lock: Lock, *, sandbox: Tree | None = None, own: Path = ELEMENTS, elements: Sequence[Path] = ()
) -> tuple[Path, float]:
    """Make the root of `lock`, whether or not it is in the cache: a tar, which is the caller's, and seconds."""
    sandbox = sandbox or prepare(cache, lock)
    dib = [unpacked(cache, pin, None) for pin in DISKIMAGE_BUILDER]
    key = content_key("bench", time.time_ns())
    begin = time.monotonic()
    path = rootfs(cache, sandbox, dib, lock.packages, lock.architecture, own=own, elements=elements, key=key)
    return path, time.monotonic() - begin


def emulated_root(cache: Cache, lock: Lock) -> tuple[Path, float]:
    """The same with mmdebstrap, in a chroot where every program is emulated."""
    names = [*tools.compose_packages(lock.architecture), "mmdebstrap"]
    sandbox = tools.tree(cache, Archive(cache, Architecture.native()).resolve(names))
    with cache.scratch("elements") as own:
        shutil.copytree(ELEMENTS, own, dirs_exist_ok=True)
        shutil.copy(EMULATED, own / "edge-debian/root.d/10-install")
        return root(cache, lock, sandbox=sandbox, own=own)
