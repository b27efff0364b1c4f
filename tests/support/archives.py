"""Debian's archive for tests that need any recent index, and do not test how it is downloaded."""

import time

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.inputs.debian import PackageArchive

DAY = 86400  # seconds


def recent_archive(cache: Cache) -> PackageArchive:
    """Return the archive with an index of the last day, which it downloads if `cache` has none. Raises `Error`."""
    archive = PackageArchive(cache, Architecture.native())
    if not archive.root.exists() or archive.root.stat().st_mtime < time.time() - DAY:
        archive.update_index()
    return archive
