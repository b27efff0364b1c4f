"""Checks whether this host can build and run images, with a command to fix each problem."""

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error
from osbuild.shared.files import file_system_space
from osbuild.shared.urls import redact_url

GIB = 2**30
PYTHON = (3, 11)
NEEDED_DISK = 15 * GIB  # the tools tree, packages, Go's cache, two images
NEEDED_MEMORY = 2 * GIB  # for the root file system; compiling Kubernetes and booting a node in QEMU need more
RECOMMENDED_MEMORY = 6 * GIB
EARLIEST_TIME = 1754697600  # 2025-08-09, the release of Debian 13: a correct clock is later
KEYRINGS = (Path("/usr/share/keyrings"), Path("/etc/apt/trusted.gpg.d"))
# program -> (Debian package, what for); the same packages are in host-packages.txt
PROGRAMS = {
    "apt-get": ("apt", "resolves and downloads packages"),
    "mmdebstrap": ("mmdebstrap", "creates tools trees"),
    "bwrap": ("bubblewrap", "runs build steps in tools trees"),
    "ssh": ("openssh-client", "connects to nodes in QEMU"),
}
EXTRAS = {"zstd": ("zstd", "lets `inspect` read disk.img.zst")}


@dataclass(frozen=True)
class HostCheck:
    """One result. A build needs the `required` ones. Installing `package` or following `fix` solves a problem."""

    name: str
    good: bool
    detail: str
    required: bool = True
    package: str | None = None
    fix: str | None = None


def diagnose_host(cache: Cache, build: Path) -> list[HostCheck]:
    """Run all checks; `build` is the folder for images. Changes nothing on the host."""
    root = os.geteuid() == 0
    checks = [
        HostCheck("root", root, "yes" if root else "no", fix="run it as root: sudo -E"),
        _python(),
        _architecture(),
        *_programs(),
        _certificates(),
        _keyring(),
        *_sources(),
        *_sandbox(),
        _paths(),
        _cache(cache),
        *_space(cache, build),
        *_memory(),
        _clock(),
        _kvm(),
    ]
    proxies = sorted(name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "no_proxy"))
    checks.append(HostCheck("proxy", True, ", ".join(proxies) or "none in the environment", required=False))
    # A `|` separates proxies too (go.dev/ref/mod, "GOPROXY").
    modules = "".join(map(redact_url, re.split("([,|])", os.environ.get("GOPROXY") or "Go's default")))
    checks.append(HostCheck("Go modules", True, modules, required=False))
    return checks


def missing_packages(checks: Sequence[HostCheck]) -> list[str]:
    """Return the packages whose installation fixes failed required checks."""
    return sorted({check.package for check in checks if check.required and not check.good and check.package})


def install_line(packages: Sequence[str]) -> str:
    """Return a command line that installs `packages`."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install --no-install-recommends --yes {' '.join(packages)}"


def install_packages(packages: Sequence[str]) -> None:
    """Install `packages` with apt. Raises `Error` without root, or if apt fails."""
    if os.geteuid() != 0:
        raise Error("only root can install packages", hint=install_line(packages))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    hint = "check that the package archive is reachable and that `dpkg --audit` reports nothing"
    run_command(["apt-get", "update"], env=env, hint=hint)
    run_command(["apt-get", "install", "--no-install-recommends", "--yes", *packages], env=env, hint=hint)


def _python() -> HostCheck:
    required = ".".join(map(str, PYTHON))
    return HostCheck(
        "Python", sys.version_info >= PYTHON, platform.python_version(), fix=f"install Python {required} or later"
    )


def _architecture() -> HostCheck:
    try:
        return HostCheck("architecture", True, str(Architecture.native()))
    except Error as error:
        return HostCheck("architecture", False, platform.machine(), fix=error.hint)


def _programs() -> Iterator[HostCheck]:
    for required, programs in ((True, PROGRAMS), (False, EXTRAS)):
        for program, (package, purpose) in programs.items():
            path = shutil.which(program)
            yield HostCheck(program, path is not None, path or purpose, required=required, package=package)


def _certificates() -> HostCheck:
    named = os.environ.get("SSL_CERT_FILE")
    path = Path(named or "/etc/ssl/certs/ca-certificates.crt")
    fix = f"SSL_CERT_FILE names {path}, which does not exist" if named else None
    return HostCheck("certificates", path.is_file(), str(path), package=None if named else "ca-certificates", fix=fix)


def _keyring() -> HostCheck:
    """Look for the key of Debian 13 or Debian 12. The archive of Debian 13 (trixie) is signed with both."""
    for release in ("trixie", "bookworm"):
        for folder in KEYRINGS:
            if any(folder.glob(f"debian-archive-{release}-automatic.*")):
                return HostCheck("Debian's keys", True, f"keys of {release}")
    return HostCheck("Debian's keys", False, "none for Debian 13", package="debian-archive-keyring")


def _sources() -> Iterator[HostCheck]:
    if shutil.which("apt-get") is None:
        return
    try:
        uris = set(run_command(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split())
    except Error as error:
        yield HostCheck("package archive", False, error.message.splitlines()[-1], fix="correct the files in /etc/apt")
        return
    detail = ", ".join(sorted(map(redact_url, uris))) or "none configured"
    yield HostCheck(
        "package archive", bool(uris), detail, fix="add an archive to /etc/apt/sources.list.d (sources.list(5))"
    )


def _sandbox() -> Iterator[HostCheck]:
    """Check namespaces and mounts with a sandbox like a build step's, because many containers do not allow them."""
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        return
    kinds = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-add", "ALL")
    mounts = ("--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--tmpfs", "/run")
    try:
        run_command(["bwrap", "--die-with-parent", *kinds, *mounts, "true"])
        yield HostCheck("sandbox", True, "namespaces and mounts work")
    except Error as error:
        yield HostCheck("sandbox", False, error.message.splitlines()[-1], fix="run the container privileged")


def _paths() -> HostCheck:
    """Check openat2(2), which keeps links of an image from leading to files of this host."""
    try:
        with ImageRoot(Path("/")).folder("."):
            return HostCheck("openat2", True, "paths are resolved inside an image")
    except (Error, OSError) as error:
        return HostCheck(
            "openat2", False, str(error), fix="use Linux 5.6 or later, and a container that allows openat2(2)"
        )


def _cache(cache: Cache) -> HostCheck:
    try:
        with tempfile.TemporaryFile(dir=cache.folder("scratch")):
            return HostCheck("cache", True, str(cache.root))
    except OSError as error:
        fix = "set EDGE_OSBUILD_CACHE to a folder that you can write to"
        return HostCheck("cache", False, f"{cache.root}: {error.strerror}", fix=fix)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _space(cache: Cache, build: Path) -> Iterator[HostCheck]:
    paths = {"cache space": _existing(cache.root), "build space": _existing(build)}
    needed = NEEDED_DISK * 2 // 3
    if len({path.stat().st_dev for path in paths.values()}) == 1:
        paths, needed = {"disk space": paths["cache space"]}, NEEDED_DISK
    if (cache.root / "tools").exists():  # most of the cache is filled already
        needed //= 3
    for name, path in paths.items():
        space = file_system_space(path)
        free = space.free if space else 0
        detail = f"{free / GIB:.0f} GiB free at {path}, {needed / GIB:.0f} needed"
        fix = "free some space, or set EDGE_OSBUILD_CACHE to a folder on a larger disk"
        yield HostCheck(name, free >= needed, detail, fix=fix)


def _memory() -> Iterator[HostCheck]:
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        available = next(int(fields[1]) * 1024 for fields in lines if fields[0] == "MemAvailable:")
    except (OSError, StopIteration, ValueError):
        return
    detail = f"{available / GIB:.1f} GiB available"
    if available < RECOMMENDED_MEMORY:
        detail += "; compiling Kubernetes and booting a node need 6 GiB"
    yield HostCheck(
        "memory", available >= NEEDED_MEMORY, detail, fix="at least 2 GiB are needed: end other programs or add swap"
    )


def _clock() -> HostCheck:
    seconds = time.time()
    detail = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    return HostCheck(
        "clock", seconds > EARLIEST_TIME, detail, fix="set the clock: certificates and signatures depend on it"
    )


def _kvm() -> HostCheck:
    if not Path("/dev/kvm").exists():
        return HostCheck("KVM", False, "not available: QEMU emulates, which is slower", required=False)
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return HostCheck("KVM", False, f"/dev/kvm: {error.strerror}", required=False)
    return HostCheck("KVM", True, "available; used after a guest has booted with it", required=False)
