"""The root of another architecture against one whose every program is emulated, as it is usually made."""

import shutil
from pathlib import Path

from osbuild import log, tools
from osbuild.arch import Architecture
from osbuild.bench.figure import Figure, Measured
from osbuild.bench.foreign import BASE, locked, prepare, root
from osbuild.bench.site import Site
from osbuild.cache import Cache, remove
from osbuild.debian import Archive
from osbuild.lock import Lock
from osbuild.paths import ELEMENTS

HOOK = Path(__file__).with_suffix(".bash")
TARGET = Architecture.arm64


def measure(site: Site) -> Measured:
    """Make one root both ways. Raises `Error`."""
    lock = locked(site.cache, TARGET)
    prepare(site.cache, lock)
    with log.step(f"root for {TARGET}, emulated"):
        path, slow = emulated_root(site.cache, lock)
        remove(path)
    with log.step(f"root for {TARGET}"):
        path, fast = root(site.cache, lock)
        remove(path)
    return Measured(
        [
            Figure("emulated_ratio", f"root for {TARGET} / the same fully emulated", fast / slow, "×", 1 / 8),
            Figure("emulated_root", "  fully emulated", slow, "s"),
            Figure("emulated_ours", "  ours", fast, "s"),
        ],
        f"The step that makes the root of {BASE}, as for `foreign`. The emulated one runs mmdebstrap in the place of "
        "our installer, in the same sandbox, with the same packages and the same qemu-user.",
    )


def emulated_root(cache: Cache, lock: Lock) -> tuple[Path, float]:
    """The same with mmdebstrap, in a chroot where every program is emulated."""
    names = [*tools.compose_packages(lock.architecture), "mmdebstrap"]
    sandbox = tools.tree(cache, Archive(cache, Architecture.native()).resolve(names))
    with cache.scratch("elements") as own:
        shutil.copytree(ELEMENTS, own, dirs_exist_ok=True)
        shutil.copy(HOOK, own / "edge-debian/root.d/10-install")
        return root(cache, lock, sandbox=sandbox, own=own)
