"""The programs that bundles are made, read and signed with, in a tools tree of their own."""

from osbuild.cache import Cache
from osbuild.tools import Tree, kept_tree

PACKAGES = (
    "libengine-pkcs11-openssl", "openssl", "p11-kit", "p11-kit-modules", "rauc", "softhsm2", "squashfs-tools",
)  # fmt: skip


def programs(cache: Cache | None = None) -> Tree:
    """RAUC, squashfs-tools and OpenSSL with PKCS#11, of Debian; always the same, so that a bundle made again has the
    same bytes in it."""
    return kept_tree(cache or Cache(), "bundle-tools", PACKAGES, "tools for bundles")
