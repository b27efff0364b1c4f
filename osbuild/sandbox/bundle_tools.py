"""The programs that bundles are made, read and signed with, in a tools tree of their own."""

from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = (
    "libengine-pkcs11-openssl", "openssl", "p11-kit", "p11-kit-modules", "rauc", "softhsm2", "squashfs-tools",
)  # fmt: skip


def bundle_tools(cache: Cache | None = None) -> ToolsTree:
    """RAUC, squashfs-tools and OpenSSL with PKCS#11, of Debian; always the same, so that a bundle made again has the
    same bytes in it."""
    return unlocked_tools_tree(cache or Cache(), "bundle-tools", PACKAGES, "tools for bundles")
