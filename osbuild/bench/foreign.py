"""Roots of other architectures against this host's own."""

import statistics
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
from osbuild.paths import ELEMENTS
from osbuild.profile.load import find, load
from osbuild.rootfs import rootfs
from osbuild.tools import Tree
from osbuild.wheels import DISKIMAGE_BUILDER, unpacked

BASE = "minimal"
TIMES = 3


def measure(site: Site) -> Measured:
    """Make the root of one profile for every architecture. Raises `Error`."""
    seconds = {}
    for architecture in Architecture:
        lock = locked(site.cache, architecture)
        prepare(site.cache, lock)
        times = []
        for _ in range(TIMES):
            with log.step(f"root for {architecture}"):
                path, taken = root(site.cache, lock)
            remove(path)
            times.append(taken)
        seconds[architecture] = statistics.median(times)
    native = seconds[Architecture.native()]
    figures = [Figure(f"root_{name}", f"  root for {name}", value, "s") for name, value in seconds.items()]
    figures += [
        Figure(f"foreign_{name}", f"root for {name} / root for this host", value / native, "×", 1.25)
        for name, value in seconds.items()
        if name != Architecture.native()
    ]
    return Measured(
        figures,
        f"The step that makes the root of {BASE}: from its packages, downloaded, to a tar, by diskimage-builder. "
        f"Medians of {TIMES}.",
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
