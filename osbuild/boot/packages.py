"""Packages of the board's architecture with boot loaders and firmware. They are unpacked, not installed."""

from collections.abc import Sequence
from pathlib import Path

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb, PackageArchive, stored_path
from osbuild.sandbox.tools_tree import ToolsTree


def boot_packages_key(debs: Sequence[Deb]) -> str:
    """Return the content key of the unpacked packages."""
    return content_key("boot", [deb.sha256 for deb in debs])


def unpack_boot_packages(
    context: BuildContext, tools: ToolsTree, debs: Sequence[Deb], architecture: Architecture
) -> Path:
    """Return a folder with the files of all `debs`. It is cached. Raises `Error`."""
    cache = context.cache

    def make(path: Path) -> None:
        with log.step(f"firmware and boot loader: {', '.join(deb.name for deb in debs)}"):
            PackageArchive(cache, architecture).download_packages(debs, folder=context.downloads)
            path.mkdir()
            for deb in debs:
                package = stored_path(cache, deb)
                tools.run_command(["dpkg-deb", "--extract", package, path], [path, package])

    return cache.get_or_make("boot", boot_packages_key(debs), make)
