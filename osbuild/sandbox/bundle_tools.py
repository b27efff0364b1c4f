"""The tools tree with the programs that make, read and sign bundles."""

from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import ToolsTree, unlocked_tools_tree

PACKAGES = (
    "erofs-utils", "libengine-pkcs11-openssl", "openssl", "p11-kit", "p11-kit-modules", "rauc", "softhsm2",
    "squashfs-tools",
)  # fmt: skip


def bundle_tools(cache: Cache | None = None) -> ToolsTree:
    """Return the tools tree with RAUC, squashfs-tools, erofs-utils and OpenSSL with PKCS#11 from Debian.

    Its versions are chosen once per cache, so that a bundle made again has the same contents. Raises `Error`.
    """
    return unlocked_tools_tree(cache or Cache(), "bundle-tools", PACKAGES, "tools for bundles")
