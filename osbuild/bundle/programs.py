"""The programs that bundles are made, read and signed with, in a tools tree of their own."""

import json
from dataclasses import asdict
from pathlib import Path

from osbuild import log
from osbuild.arch import Architecture
from osbuild.cache import Cache, content_key
from osbuild.debian import SUITE, Archive, Deb
from osbuild.tools import Tree, tree

PACKAGES = (
    "libengine-pkcs11-openssl", "openssl", "p11-kit", "p11-kit-modules", "rauc", "softhsm2", "squashfs-tools",
)  # fmt: skip


def programs(cache: Cache | None = None) -> Tree:
    """RAUC, squashfs-tools and OpenSSL with PKCS#11, of Debian.

    Which versions these are is decided once and kept in `cache`, so that a bundle made again has the same bytes in it.
    Making the tree takes root, the network and a minute; after that nothing is done.
    """
    cache = cache or Cache()

    def resolve(path: Path) -> None:
        with log.step("choosing the packages of RAUC"):
            archive = Archive(cache, Architecture.native())
            archive.update()
            path.write_text(json.dumps([asdict(deb) for deb in archive.resolve(PACKAGES)]))

    chosen = cache.entry("bundle-tools", content_key(SUITE, Architecture.native(), PACKAGES), resolve)
    return tree(cache, [Deb(**entry) for entry in json.loads(chosen.read_text())], title="tools for bundles")
