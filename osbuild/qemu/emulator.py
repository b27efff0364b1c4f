"""Where QEMU comes from: the tools tree, or the host itself."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from osbuild import log
from osbuild.arch import Architecture
from osbuild.cache import Cache, content_key
from osbuild.debian import SUITE, Archive, Deb
from osbuild.qemu.config import Wrap, direct
from osbuild.tools import emulator_packages, tree


@dataclass(frozen=True)
class Emulator:
    """How to run QEMU (`wrap`), and the root in which it finds its firmware."""

    wrap: Wrap = direct
    root: Path = Path("/")


def emulator(architecture: Architecture, cache: Cache | None = None) -> Emulator:
    """Debian's QEMU for `architecture`, in a tree of its own.

    Which versions it is made of is decided once and kept in `cache`: a machine should not change under its tests.
    Making it takes root, the network and a minute; after that nothing is done.
    """
    cache = cache or Cache()
    packages = emulator_packages([architecture])

    def resolve(path: Path) -> None:
        with log.step("choosing the emulator's packages"):
            archive = Archive(cache, Architecture.native())
            archive.update()
            path.write_text(json.dumps([asdict(deb) for deb in archive.resolve(packages)]))

    chosen = cache.entry("emulators", content_key(SUITE, Architecture.native(), packages), resolve)
    debs = [Deb(**entry) for entry in json.loads(chosen.read_text())]
    made = tree(cache, debs, title=f"emulator for {architecture}")
    return Emulator(made.wrap, made.root)
