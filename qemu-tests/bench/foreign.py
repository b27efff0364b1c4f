"""The time to make roots of other architectures, against the root of this host's own architecture."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.config.board import default_board
from osbuild.config.load import find_profile, load_profile
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.paths import ELEMENTS
from osbuild.host.scratch import remove_tree
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import PackageArchive
from osbuild.inputs.lock import Lock
from osbuild.inputs.wheels import DISKIMAGE_BUILDER, unpack_wheel
from osbuild.pipeline.resolve import current_lock
from osbuild.rootfs.debian_root import RootfsRecipe, make_rootfs
from osbuild.sandbox import tools_tree
from osbuild.sandbox.tools_tree import ToolsTree

BASE = "minimal"
TIMES = 3


def measure(site: BenchSite) -> Measured:
    """Make the root of one profile for every architecture. Raises `Error`."""
    seconds = {}
    for architecture in Architecture:
        lock = measured_lock(site.cache, architecture)
        prepare_inputs(site.cache, lock)
        times = []
        for _ in range(TIMES):
            with log.step(f"root for {architecture}"):
                path, elapsed = time_root(site.cache, lock)
            remove_tree(path)
            times.append(elapsed)
        seconds[architecture] = statistics.median(times)
    native = seconds[Architecture.native()]
    figures = [Figure(f"root_{name}", f"  root for {name}", value, "s") for name, value in seconds.items()]
    figures += [
        Figure(f"foreign_{name}", f"time to make the root for {name} ÷ root for this host", value / native, "×", 1.25)
        for name, value in seconds.items()
        if name != Architecture.native()
    ]
    return Measured(
        figures,
        f"The step that makes the root of {BASE}: from the downloaded packages to a tar file, by diskimage-builder. "
        f"Medians of {TIMES}.",
    )


def measured_lock(cache: Cache, architecture: Architecture) -> Lock:
    """Return the lock of the measured profile."""
    return current_lock(load_profile(find_profile(BASE)), default_board(architecture), BuildContext(cache))


def prepare_inputs(cache: Cache, lock: Lock) -> ToolsTree:
    """Download packages and tools to the cache. Returns the root tools tree."""
    PackageArchive(cache, lock.architecture).download_packages(lock.packages)
    return tools_tree.make_tools_tree(cache, lock.root_tools)


def time_root(
    cache: Cache, lock: Lock, *, sandbox: ToolsTree | None = None, shipped: Path = ELEMENTS,
    elements: Sequence[Path] = (),
) -> tuple[Path, float]:  # fmt: skip
    """Make the root of `lock` even if it is in the cache. Returns its tar, which the caller removes, and seconds."""
    sandbox = sandbox or prepare_inputs(cache, lock)
    dib = [unpack_wheel(cache, pin, None) for pin in DISKIMAGE_BUILDER]
    # No two runs have the same key, so the root is always made.
    recipe = RootfsRecipe(lock.packages, lock.architecture, f"bench {time.time_ns()}", tuple(elements), shipped)
    begin = time.monotonic()
    path = make_rootfs(BuildContext(cache), sandbox, dib, recipe, recipe.key)
    return path, time.monotonic() - begin
