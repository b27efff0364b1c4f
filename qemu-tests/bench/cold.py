"""A cold build against a plain mmdebstrap of the same packages."""

import os
import time
from dataclasses import replace
from pathlib import Path

from bench.figure import Figure, Measured
from bench.site import BenchSite
from osbuild.config import upstream_versions
from osbuild.config.load import LoadedProfile, load_profile
from osbuild.host import log
from osbuild.host.run import Argument, run_command
from osbuild.host.scratch import remove_tree
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import host_apt_settings
from osbuild.inputs.lock import Lock, read_lock
from osbuild.kubernetes import component
from osbuild.kubernetes.distribution import ComponentSources
from osbuild.sandbox import tools_tree
from osbuild.shared.errors import Error

BASE = "edge-server"
# Stated here, because the search for a K3s release that cannot be downloaded would add to the time of the build.
UPSTREAM = {"distribution": "upstream", "version": None, "if_unavailable": None}
# Kinds of cache entries that compiling Kubernetes needs and makes. All other kinds start empty.
WARM = ("kubernetes", "components", "go", "wheels", "downloads")


def measure(site: BenchSite) -> Measured:
    """Compile Kubernetes, build with an otherwise empty cache, then install the same packages with mmdebstrap."""
    profile = site.profile("cold", BASE, {"kubernetes": UPSTREAM}, lock=False)
    compiled, compile_seconds = compile_kubernetes(site, load_profile(profile))
    cache = site.folder / "cold-cache"
    cache.mkdir()
    for kind in WARM:
        (cache / kind).symlink_to(site.cache.folder(kind).resolve())
    with log.step("cold build"):
        build_seconds = site.build(profile, cache=cache)
    loaded = load_profile(profile)
    lock = read_lock(loaded, loaded.profile.architecture)
    if lock is None:
        raise Error("the cold build has left no lock", where=str(profile))
    with log.step("mmdebstrap of the same packages"):
        mmdebstrap_seconds, package_count = mmdebstrap(lock, site.folder / "plain")
    figures = [
        Figure("cold_ratio", "cold image build / plain mmdebstrap", build_seconds / mmdebstrap_seconds, "×", 2),
        Figure("cold_build", "  cold image build", build_seconds, "s"),
        Figure("cold_mmdebstrap", "  plain mmdebstrap", mmdebstrap_seconds, "s"),
    ]
    if compiled:
        figures.append(Figure("kubernetes_compile", "  compiling Kubernetes, not included", compile_seconds, "s"))
    timings = site.manifest(profile).to_json()["timings"]
    meaning = (
        f"`edge-osbuild build` of {BASE} (upstream Kubernetes), with a cache that contains only {', '.join(WARM)}. The "
        "build reads the archive's index, makes the lock, downloads the packages, and makes the tools trees and "
        "everything up to the compressed disk image. The other side is `mmdebstrap --variant=custom` into a folder, "
        f"from the same archive with an empty package cache: the image's {len(lock.packages)} packages and "
        f"{lock.kernel.name}, with their dependencies {package_count}. Kubernetes is compiled before, and neither time "
        "includes that."
    )
    remove_tree(cache)
    return Measured(figures, meaning, {"steps": timings, "mmdebstrap_packages": package_count})


def compile_kubernetes(site: BenchSite, loaded: LoadedProfile) -> tuple[bool, float]:
    """Compile Kubernetes unless it is in the cache. Returns whether it was compiled, and the seconds."""
    settings = loaded.profile.kubernetes
    settings = replace(settings, version=upstream_versions.find_release(None).version)
    folder = site.cache.folder("kubernetes")
    before = {path.name for path in folder.iterdir()}
    begin = time.monotonic()
    with log.step("Kubernetes, if it is not in the cache"):
        # The upstream distribution is compiled: no tool is needed to unpack it.
        sources = ComponentSources(
            BuildContext(site.cache),
            lambda: tools_tree.unlocked_tools_tree(site.cache, "finish", tools_tree.IMAGE_TOOLS, "tools"),
        )
        component.build_component(settings, loaded.profile.architecture, replace(sources, base=loaded.folder))
    seconds = time.monotonic() - begin
    return {path.name for path in folder.iterdir()} != before, seconds


def mmdebstrap(lock: Lock, target: Path) -> tuple[float, int]:
    """Install the packages of `lock` and its kernel into a folder. Returns seconds and the number of packages."""
    names = ",".join([*(deb.name for deb in lock.packages), lock.kernel.name])
    mirror = os.environ.get("EDGE_OSBUILD_MIRROR")
    command: list[Argument] = [
        "mmdebstrap", "--variant=custom", "--mode=root", f"--include={names}",
        f"--architectures={lock.architecture.to_debian()}", *(f"--aptopt={line}" for line in host_apt_settings()),
        SUITE, target, *([mirror] if mirror else []),
    ]  # fmt: skip
    begin = time.monotonic()
    run_command(command, hint="is the Debian archive reachable from here? `apt-get update` uses the same settings")
    seconds = time.monotonic() - begin
    status = (target / "var/lib/dpkg/status").read_text()
    remove_tree(target)
    return seconds, status.count("\nStatus: install ok installed\n")
