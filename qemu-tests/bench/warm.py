"""The time of builds with a warm cache: after no change, a change of a node's configuration, or of one overlay file."""

import statistics
from pathlib import Path
from typing import Any

import yaml

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.host import log
from osbuild.inputs.build_manifest import MANIFEST
from osbuild.shared.errors import Error

BASE = "edge-server"
TIMES = 3
ADDED = "usr/lib/edge-osbuild/bench"


def measure(site: BenchSite) -> Measured:
    """Time the three builds with one copy of a profile. Raises `Error` if a build was or was not skipped by mistake."""
    profile = site.image(BASE)
    with log.step("nothing changed"):
        nothing = statistics.median(time_build(site, profile, fresh=False) for _ in range(TIMES))
    with log.step("only the node's configuration changed"):
        config = statistics.median(time_first_boot_change(site, profile, f"bench-{number}") for number in range(TIMES))
    with log.step("one overlay file changed"):
        overlay = time_overlay_change(site, profile)
    return Measured(
        [
            Figure("nothing", "build, nothing changed", nothing, "s", 2),
            Figure("config", "build and seed, only the node's configuration changed", config, "s", 2),
            Figure("overlay", "build, one overlay file changed", overlay, "s", 25),
        ],
        f"`edge-osbuild build` of {BASE} as a process of its own, from start to end; the first two are medians of "
        f"{TIMES}. The key that changes is `hostname`, and `edge-osbuild seed` is part of that time. The overlay "
        "file is one more in the first of the profile's overlays.",
    )


def time_build(site: BenchSite, profile: Path, *, fresh: bool) -> float:
    """Return the seconds of a build. Raises `Error` if it made an image, but `fresh` is false, or the reverse."""
    before = image_state(site, profile)
    seconds = site.build(profile)
    if (image_state(site, profile) != before) != fresh:
        raise Error(
            "the build should have made another image" if fresh else "the build has made the image again",
            where=str(profile),
            hint="does anything else change the checkout while this runs?",
        )
    return seconds


def image_state(site: BenchSite, profile: Path) -> Any:
    """Return what changes only if an image is made: its root hash, and when the manifest was written."""
    return site.manifest(profile).roothash, (site.folder_of(profile) / MANIFEST).stat().st_mtime_ns


def time_first_boot_change(site: BenchSite, profile: Path, name: str) -> float:
    """Change the host name. Returns the seconds of a build and a seed."""
    document = yaml.safe_load(profile.read_text())
    profile.write_text(yaml.safe_dump({**document, "hostname": name}, sort_keys=False))
    seconds = time_build(site, profile, fresh=False)
    seed, seed_seconds = site.seed(profile)
    if name.encode() not in seed.read_bytes():
        raise Error(f"the seed does not have the host name {name}", where=str(seed))
    return seconds + seed_seconds


def time_overlay_change(site: BenchSite, profile: Path) -> float:
    """Add a file to an overlay, and return the seconds of the build. The file is removed afterwards."""
    path = profile.parent / yaml.safe_load(profile.read_text())["overlays"][0] / ADDED
    path.write_text("changed\n")
    try:
        return time_build(site, profile, fresh=True)
    finally:
        path.unlink()
