"""What this host lacks for building and running images, and the command that mends it."""

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
from osbuild.host.http import redact_url
from osbuild.host.run import run_command
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error
from osbuild.shared.files import file_system_space

GIB = 2**30
PYTHON = (3, 11)
DISK = 15 * GIB  # the tools tree, packages, Go's cache, two images
MEMORY = 2 * GIB  # for composing; compiling Kubernetes and a node in QEMU want more
COMFORT = 6 * GIB
RELEASED = 1754697600  # 2025-08-09, when Debian 13 came out: no clock that is right shows less
KEYRINGS = (Path("/usr/share/keyrings"), Path("/etc/apt/trusted.gpg.d"))
# program -> (Debian package, what for); the same packages are in host-packages.txt
PROGRAMS = {
    "apt-get": ("apt", "resolves and downloads packages"),
    "mmdebstrap": ("mmdebstrap", "makes the tools tree"),
    "bwrap": ("bubblewrap", "runs build steps in the tools tree"),
    "ssh": ("openssh-client", "reaches nodes in QEMU"),
}
EXTRAS = {"zstd": ("zstd", "lets `inspect` read disk.img.zst")}


@dataclass(frozen=True)
class HostCheck:
    """One finding. `required` says whether a build fails without it; `package` and `fix` say what mends it."""

    name: str
    good: bool
    detail: str
    required: bool = True
    package: str | None = None
    fix: str | None = None


def diagnose_host(cache: Cache, build: Path) -> list[HostCheck]:
    """Look at everything; `build` is the folder that images go to. Changes nothing on the host."""
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
    """The packages that mend what is required and not there."""
    return sorted({check.package for check in checks if check.required and not check.good and check.package})


def install_line(packages: Sequence[str]) -> str:
    """A command line that installs `packages`, to be copied."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install --no-install-recommends --yes {' '.join(packages)}"


def install_packages(packages: Sequence[str]) -> None:
    """Install `packages` with apt. Raises `Error` without root, and where apt fails."""
    if os.geteuid() != 0:
        raise Error("only root can install packages", hint=install_line(packages))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    hint = "is the package archive reachable, and the host's own package state in order?"
    run_command(["apt-get", "update"], env=env, hint=hint)
    run_command(["apt-get", "install", "--no-install-recommends", "--yes", *packages], env=env, hint=hint)


def _python() -> HostCheck:
    wanted = ".".join(map(str, PYTHON))
    return HostCheck(
        "Python", sys.version_info >= PYTHON, platform.python_version(), fix=f"install Python {wanted} or later"
    )


def _architecture() -> HostCheck:
    try:
        return HostCheck("architecture", True, str(Architecture.native()))
    except Error as error:
        return HostCheck("architecture", False, platform.machine(), fix=error.hint)


def _programs() -> Iterator[HostCheck]:
    for required, programs in ((True, PROGRAMS), (False, EXTRAS)):
        for program, (package, purpose) in programs.items():
            found = shutil.which(program)
            yield HostCheck(program, found is not None, found or purpose, required=required, package=package)


def _certificates() -> HostCheck:
    named = os.environ.get("SSL_CERT_FILE")
    path = Path(named or "/etc/ssl/certs/ca-certificates.crt")
    fix = f"SSL_CERT_FILE names {path}, which is not there" if named else None
    return HostCheck("certificates", path.is_file(), str(path), package=None if named else "ca-certificates", fix=fix)


def _keyring() -> HostCheck:
    """Trixie's archive is signed by the key of Debian 13 and by that of Debian 12; a host needs one of them."""
    for release in ("trixie", "bookworm"):
        for folder in KEYRINGS:
            if any(folder.glob(f"debian-archive-{release}-automatic.*")):
                return HostCheck("Debian's keys", True, f"those of {release}")
    return HostCheck("Debian's keys", False, "none for Debian 13", package="debian-archive-keyring")


def _sources() -> Iterator[HostCheck]:
    if shutil.which("apt-get") is None:
        return
    try:
        uris = set(run_command(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split())
    except Error as error:
        yield HostCheck("package archive", False, error.message.splitlines()[-1], fix="mend /etc/apt")
        return
    detail = ", ".join(sorted(map(redact_url, uris))) or "none configured"
    yield HostCheck("package archive", bool(uris), detail, fix="add one to /etc/apt/sources.list.d (sources.list(5))")


def _sandbox() -> Iterator[HostCheck]:
    """Namespaces and mounts, by making a sandbox like a build step's: a container often may not."""
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        return
    kinds = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-add", "ALL")
    places = ("--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--tmpfs", "/run")
    try:
        run_command(["bwrap", "--die-with-parent", *kinds, *places, "true"])
        yield HostCheck("sandbox", True, "namespaces and mounts work")
    except Error as error:
        yield HostCheck("sandbox", False, error.message.splitlines()[-1], fix="in a container, run it privileged")


def _paths() -> HostCheck:
    """Whether the kernel resolves paths inside a folder, which keeps links of an image away from this host."""
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
        fix = "name a folder that can be written in EDGE_OSBUILD_CACHE"
        return HostCheck("cache", False, f"{cache.root}: {error.strerror}", fix=fix)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _space(cache: Cache, build: Path) -> Iterator[HostCheck]:
    places = {"cache space": _existing(cache.root), "build space": _existing(build)}
    wanted = DISK * 2 // 3
    if len({path.stat().st_dev for path in places.values()}) == 1:
        places, wanted = {"disk space": places["cache space"]}, DISK
    if (cache.root / "tools").exists():  # most of it is there already
        wanted //= 3
    for name, path in places.items():
        space = file_system_space(path)
        free = space.free if space else 0
        detail = f"{free / GIB:.0f} GiB free at {path}, {wanted / GIB:.0f} wanted"
        yield HostCheck(name, free >= wanted, detail, fix="free some, or set EDGE_OSBUILD_CACHE to a larger disk")


def _memory() -> Iterator[HostCheck]:
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        available = next(int(arguments[1]) * 1024 for arguments in lines if arguments[0] == "MemAvailable:")
    except (OSError, StopIteration, ValueError):
        return
    detail = f"{available / GIB:.1f} GiB available"
    if available < COMFORT:
        detail += "; compiling Kubernetes and booting a node want 6"
    yield HostCheck("memory", available >= MEMORY, detail, fix="2 GiB are needed: end other programs or add swap")


def _clock() -> HostCheck:
    now = time.time()
    detail = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    return HostCheck("clock", now > RELEASED, detail, fix="set the clock: certificates and signatures depend on it")


def _kvm() -> HostCheck:
    if not Path("/dev/kvm").exists():
        return HostCheck("KVM", False, "not there: QEMU emulates, which is slower", required=False)
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return HostCheck("KVM", False, f"/dev/kvm: {error.strerror}", required=False)
    return HostCheck("KVM", True, "opens; used once a guest has booted with it", required=False)
