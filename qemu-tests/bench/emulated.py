"""The time to make the root of another architecture, against the usual way, which emulates every program."""

import shutil
from pathlib import Path

from bench.figure import Figure, Measured
from bench.foreign import BASE, measured_lock, prepare_inputs, time_root
from bench.site import BenchSite
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.paths import ELEMENTS
from osbuild.host.scratch import remove_tree
from osbuild.inputs.debian import PackageArchive
from osbuild.inputs.lock import Lock
from osbuild.sandbox import tools_tree

HOOK = Path(__file__).with_suffix(".bash")
TARGET = Architecture.arm64


def measure(site: BenchSite) -> Measured:
    """Make the same root with our installer and with mmdebstrap. Raises `Error`."""
    lock = measured_lock(site.cache, TARGET)
    prepare_inputs(site.cache, lock)
    with log.step(f"root for {TARGET}, emulated"):
        path, slow = emulated_root(site.cache, lock)
        remove_tree(path)
    with log.step(f"root for {TARGET}"):
        path, fast = time_root(site.cache, lock)
        remove_tree(path)
    return Measured(
        [
            Figure(
                "emulated_ratio",
                f"time to make the root for {TARGET} ÷ the same fully emulated",
                fast / slow,
                "×",
                1 / 8,
            ),
            Figure("emulated_root", "  fully emulated", slow, "s"),
            Figure("emulated_ours", "  with edge-osbuild's installer", fast, "s"),
        ],
        f"The step that makes the root of {BASE}, as for `foreign`. The emulated root is made by mmdebstrap instead "
        "of edge-osbuild's installer, in the same sandbox, with the same packages and the same qemu-user.",
    )


def emulated_root(cache: Cache, lock: Lock) -> tuple[Path, float]:
    """Make the root with mmdebstrap, in a chroot that emulates every program. Returns its tar and seconds."""
    names = [*tools_tree.root_tools(lock.architecture), "mmdebstrap"]
    sandbox = tools_tree.make_tools_tree(cache, PackageArchive(cache, Architecture.native()).resolve_packages(names))
    with cache.scratch("elements") as elements:
        shutil.copytree(ELEMENTS, elements, dirs_exist_ok=True)
        shutil.copy(HOOK, elements / "edge-debian/root.d/10-install")
        return time_root(cache, lock, sandbox=sandbox, shipped=elements)
