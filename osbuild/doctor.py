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

from osbuild.arch import Architecture
from osbuild.cache import Cache
from osbuild.errors import Error
from osbuild.http import public
from osbuild.image.target import Target
from osbuild.run import run

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
class Check:
    """One finding. `required` says whether a build fails without it; `package` and `fix` say what mends it."""

    name: str
    good: bool
    detail: str
    required: bool = True
    package: str | None = None
    fix: str | None = None


def diagnose(cache: Cache, build: Path) -> list[Check]:
    """Look at everything; `build` is the folder that images go to. Changes nothing on the host."""
    root = os.geteuid() == 0
    checks = [
        Check("root", root, "yes" if root else "no", fix="run it as root: sudo -E"),
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
    checks.append(Check("proxy", True, ", ".join(proxies) or "none in the environment", required=False))
    # A `|` separates proxies too (go.dev/ref/mod, "GOPROXY").
    modules = "".join(map(public, re.split("([,|])", os.environ.get("GOPROXY") or "Go's default")))
    checks.append(Check("Go modules", True, modules, required=False))
    return checks


def missing(checks: Sequence[Check]) -> list[str]:
    """The packages that mend what is required and not there."""
    return sorted({check.package for check in checks if check.required and not check.good and check.package})


def install_line(packages: Sequence[str]) -> str:
    """A command line that installs `packages`, to be copied."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install --no-install-recommends --yes {' '.join(packages)}"


def install(packages: Sequence[str]) -> None:
    """Install `packages` with apt. Raises `Error` without root, and where apt fails."""
    if os.geteuid() != 0:
        raise Error("only root can install packages", hint=install_line(packages))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    hint = "is the package archive reachable, and the host's own package state in order?"
    run(["apt-get", "update"], env=env, hint=hint)
    run(["apt-get", "install", "--no-install-recommends", "--yes", *packages], env=env, hint=hint)


def _python() -> Check:
    wanted = ".".join(map(str, PYTHON))
    return Check(
        "Python", sys.version_info >= PYTHON, platform.python_version(), fix=f"install Python {wanted} or later"
    )


def _architecture() -> Check:
    try:
        return Check("architecture", True, str(Architecture.native()))
    except Error as error:
        return Check("architecture", False, platform.machine(), fix=error.hint)


def _programs() -> Iterator[Check]:
    for required, programs in ((True, PROGRAMS), (False, EXTRAS)):
        for program, (package, purpose) in programs.items():
            found = shutil.which(program)
            yield Check(program, found is not None, found or purpose, required=required, package=package)


def _certificates() -> Check:
    named = os.environ.get("SSL_CERT_FILE")
    path = Path(named or "/etc/ssl/certs/ca-certificates.crt")
    fix = f"SSL_CERT_FILE names {path}, which is not there" if named else None
    return Check("certificates", path.is_file(), str(path), package=None if named else "ca-certificates", fix=fix)


def _keyring() -> Check:
    """Trixie's archive is signed by the key of Debian 13 and by that of Debian 12; a host needs one of them."""
    for release in ("trixie", "bookworm"):
        for folder in KEYRINGS:
            if any(folder.glob(f"debian-archive-{release}-automatic.*")):
                return Check("Debian's keys", True, f"those of {release}")
    return Check("Debian's keys", False, "none for Debian 13", package="debian-archive-keyring")


def _sources() -> Iterator[Check]:
    if shutil.which("apt-get") is None:
        return
    try:
        uris = set(run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split())
    except Error as error:
        yield Check("package archive", False, error.message.splitlines()[-1], fix="mend /etc/apt")
        return
    detail = ", ".join(sorted(map(public, uris))) or "none configured"
    yield Check("package archive", bool(uris), detail, fix="add one to /etc/apt/sources.list.d (sources.list(5))")


def _sandbox() -> Iterator[Check]:
    """Namespaces and mounts, by making a sandbox like a build step's: a container often may not."""
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        return
    kinds = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-add", "ALL")
    places = ("--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--tmpfs", "/run")
    try:
        run(["bwrap", "--die-with-parent", *kinds, *places, "true"])
        yield Check("sandbox", True, "namespaces and mounts work")
    except Error as error:
        yield Check("sandbox", False, error.message.splitlines()[-1], fix="in a container, run it privileged")


def _paths() -> Check:
    """Whether the kernel resolves paths inside a folder, which keeps links of an image away from this host."""
    try:
        with Target(Path("/")).folder("."):
            return Check("openat2", True, "paths are resolved inside an image")
    except (Error, OSError) as error:
        return Check("openat2", False, str(error), fix="use Linux 5.6 or later, and a container that allows openat2(2)")


def _cache(cache: Cache) -> Check:
    try:
        with tempfile.TemporaryFile(dir=cache.folder("scratch")):
            return Check("cache", True, str(cache.root))
    except OSError as error:
        fix = "name a folder that can be written in EDGE_OSBUILD_CACHE"
        return Check("cache", False, f"{cache.root}: {error.strerror}", fix=fix)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _space(cache: Cache, build: Path) -> Iterator[Check]:
    places = {"cache space": _existing(cache.root), "build space": _existing(build)}
    wanted = DISK * 2 // 3
    if len({place.stat().st_dev for place in places.values()}) == 1:
        places, wanted = {"disk space": places["cache space"]}, DISK
    if (cache.root / "tools").exists():  # most of it is there already
        wanted //= 3
    for name, place in places.items():
        free = shutil.disk_usage(place).free
        detail = f"{free / GIB:.0f} GiB free at {place}, {wanted / GIB:.0f} wanted"
        yield Check(name, free >= wanted, detail, fix="free some, or set EDGE_OSBUILD_CACHE to a larger disk")


def _memory() -> Iterator[Check]:
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        available = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    except (OSError, StopIteration, ValueError):
        return
    detail = f"{available / GIB:.1f} GiB available"
    if available < COMFORT:
        detail += "; compiling Kubernetes and booting a node want 6"
    yield Check("memory", available >= MEMORY, detail, fix="2 GiB are needed: end other programs or add swap")


def _clock() -> Check:
    now = time.time()
    detail = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    return Check("clock", now > RELEASED, detail, fix="set the clock: certificates and signatures depend on it")


def _kvm() -> Check:
    if not Path("/dev/kvm").exists():
        return Check("KVM", False, "not there: QEMU emulates, which is slower", required=False)
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Check("KVM", False, f"/dev/kvm: {error.strerror}", required=False)
    return Check("KVM", True, "opens; used once a guest has booted with it", required=False)
