"""What boots a machine comes out of packages of its own architecture: unpacked natively, never installed."""

from collections.abc import Sequence
from pathlib import Path

from osbuild import log
from osbuild.arch import Architecture
from osbuild.cache import Cache, content_key
from osbuild.debian import Archive, Deb, stored
from osbuild.tools import Tree


def boot_files_key(debs: Sequence[Deb]) -> str:
    """Content key of the unpacked packages."""
    return content_key("boot", [deb.sha256 for deb in debs])


def boot_files(
    cache: Cache, tools: Tree, debs: Sequence[Deb], architecture: Architecture, *, folder: Path | None = None
) -> Path:
    """A folder with the files of `debs`, laid over each other, from the cache if it is there."""

    def make(path: Path) -> None:
        with log.step(f"boot files: {', '.join(deb.name for deb in debs)}"):
            Archive(cache, architecture).download(debs, folder=folder)
            path.mkdir()
            for deb in debs:
                package = stored(cache, deb)
                tools.run(["dpkg-deb", "--extract", package, path], [path, package])

    return cache.entry("boot", boot_files_key(debs), make)
