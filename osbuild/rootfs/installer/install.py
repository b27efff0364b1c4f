"""Installs a repository of Debian packages into an empty folder, for this or another architecture.

    python3 -m osbuild.rootfs.installer.install REPOSITORY TARGET ARCHITECTURE

The repository is flat and contains all dependencies. This system's dpkg unpacks all packages, then configures them in a
chroot. For another architecture, `native_programs` replace programs of the root while scripts run, and `emulation` must
be active for the others.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.rootfs.installer import packages
from osbuild.rootfs.installer.abi import ABIS, Abi
from osbuild.rootfs.installer.mounts import BIND, RECURSIVE, Mounts, enter_private_namespace
from osbuild.rootfs.installer.native_programs import NativePrograms, covered_programs

EXCLUDED = ("doc", "man", "info", "locale", "i18n", "lintian", "bug", "bash-completion", "zsh")
# Programs that nothing here starts: shims of containerd that its own documentation calls obsolete, and the CNI plugins
# that K3s does not have either.
UNUSED = (
    "/usr/bin/containerd-shim",
    "/usr/bin/containerd-shim-runc-v1",
    *(
        f"/usr/lib/cni/{name}"
        for name in ("dhcp", "host-device", "ipvlan", "macvlan", "ptp", "sbr", "static", "tuning", "vlan", "vrf")
    ),
)
OPTIONS = (
    "force-unsafe-io",
    *(f"path-exclude={path}" for path in UNUSED),
    *(f"path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
    "path-include=/usr/share/doc/*/copyright",
    "path-include=/usr/share/bash-completion/bash_completion",  # the library, without completions of other programs
)
DENY_SERVICES = "#!/bin/sh\nexit 101\n"
DPKG = Path("/usr/bin/dpkg")
EMULATING = "the installation with native programs failed: it continues under emulation"
DO_NOTHING = "#!/bin/sh\nexit 0\n"


class Installation:
    """The installation of one root. `scratch` is an empty folder outside the root."""

    def __init__(self, repository: Path, target: Path, architecture: str, scratch: Path) -> None:
        self.repository = repository
        self.target = target
        self.scratch = scratch
        self.packages = packages.read_packages(repository / "Packages")
        self.host_packages = packages.read_packages(Path("/var/lib/dpkg/status"))
        self.native = ABIS[self.host_packages["dpkg"].architecture]
        self.foreign = ABIS[architecture]
        self.begin = time.monotonic()
        self.dpkg = patch_dpkg(scratch / "dpkg", self.native, self.foreign)

    def log(self, text: str) -> None:
        """Print a line for the log, with the seconds since the start."""
        print(f"{time.monotonic() - self.begin:6.1f} s  {text}", flush=True)

    def run(self, *command: str | Path, check: bool = True) -> int:
        """Run a program in the environment that maintainer scripts expect; return its exit status.

        Raises `subprocess.CalledProcessError` if `check`.
        """
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
        env |= {"TMPDIR": "/tmp", "HOME": "/root", "PATH": "/usr/sbin:/usr/bin"}
        return subprocess.run(command, env=env, check=check, stdin=subprocess.DEVNULL).returncode

    def unpack_essential(self) -> None:
        """Unpack the essential packages. Their files are extracted before, because their scripts need each other."""
        make_skeleton(self.target)
        names = packages.essential_packages(self.packages)
        for name in names:
            extract_package(self.repository / self.packages[name].filename, self.target)
        self.unpack_packages(names)
        self.log(f"{len(names)} essential packages unpacked")

    def unpack_packages(self, names: Iterable[str], *, check: bool = True) -> int:
        """Unpack packages regardless of their dependencies. Returns dpkg's exit status."""
        archives = [self.repository / self.packages[name].filename for name in names]
        options = [f"--{option}" for option in OPTIONS]
        return self.run(
            self.dpkg, f"--root={self.target}", *options, "--force-depends", "--unpack", *archives, check=check
        )

    def install_rest(self) -> None:
        """Unpack the other packages and configure all. If native programs fail, continue under emulation."""
        with chroot_without_services(self.target, self.scratch):
            if self.foreign != self.native:
                if self.install_with_native():
                    return self.log("configured with native programs")
                self.log(EMULATING)
            if missing := self.missing_packages():
                self.unpack_packages(missing)
                self.log(f"{len(missing)} more packages unpacked")
            self.configure_packages()
            self.log("configured")

    def install_with_native(self) -> bool:
        """Unpack and configure with native programs. Returns whether that succeeded."""
        # A program is covered after its package is unpacked, because dpkg can't replace a mount point.
        copies, empty = self.scratch / "programs", self.scratch / "empty"
        copies.mkdir()
        empty.mkdir()
        missing = self.missing_packages()
        with NativePrograms(self.target, self.native, self.foreign, copies) as native_programs:
            native_programs.show_libraries(empty)
            for names in (self.packages.keys() - set(missing), missing):
                for program in covered_programs(
                    self.target, [self.packages[name] for name in names], self.host_packages, self.native
                ):
                    native_programs.cover_program(program, self.dpkg if program == DPKG else program)
                if names != missing and self.unpack_packages(missing, check=False):
                    return False
                self.log(f"{len(names)} packages unpacked, {native_programs.count} native programs in use")
            return not self.configure_packages(check=False)

    def configure_packages(self, *, check: bool = True) -> int:
        """Configure the unpacked packages. Returns dpkg's exit status."""
        # Without compiling Python modules: the element compiles all of them at once.
        with Mounts() as mounts:
            if (compiler := self.target / "usr/bin/py3compile").exists():
                replace_program(mounts, compiler, DO_NOTHING, self.scratch)
            return self.run("chroot", self.target, "dpkg", "--configure", "--pending", check=check)

    def missing_packages(self) -> list[str]:
        """Return the packages that dpkg has not unpacked yet."""
        status = packages.read_packages(self.target / "var/lib/dpkg/status")
        return sorted(name for name in self.packages if name not in status or not status[name].unpacked)


def patch_dpkg(path: Path, native: Abi, foreign: Abi) -> Path:
    """Write a dpkg to `path` that runs on this system and has `foreign` as native architecture. Returns its path."""
    # dpkg's architecture is compiled in, and no option changes it. With the wrong one, dependencies of packages with
    # `Architecture: all` are not met. Debian's names have the same length, so the name in a copy can be replaced.
    if native == foreign:
        return DPKG
    path.write_bytes(DPKG.read_bytes().replace(native.debian.encode(), foreign.debian.encode()))
    path.chmod(0o755)
    printed = subprocess.run([path, "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    if printed != foreign.debian:
        raise SystemExit(f"dpkg can't be patched for the architecture {foreign.debian}: it prints {printed}")
    return path


def make_skeleton(target: Path) -> None:
    """Create what dpkg and the first scripts need: merged /usr, an empty database, and dpkg's options."""
    for name in ("bin", "sbin", "lib"):
        (target / "usr" / name).mkdir(parents=True)
        (target / name).symlink_to(f"usr/{name}")
    for name in ("info", "updates"):
        (target / "var/lib/dpkg" / name).mkdir(parents=True)
    (target / "var/lib/dpkg/status").touch()
    (target / "etc").mkdir()
    (target / "etc/fstab").touch()
    (target / "var/log").mkdir()
    (target / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
    (target / "etc/dpkg/dpkg.cfg.d/edge-osbuild").write_text("".join(f"{option}\n" for option in OPTIONS))


def extract_package(archive: Path, target: Path) -> None:
    """Extract a package's files without dpkg's database. Raises `subprocess.CalledProcessError`."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        subprocess.run(
            ["tar", "--extract", f"--directory={target}", *(f"--exclude=./usr/share/{name}/*" for name in EXCLUDED)],
            stdin=process.stdout,
            check=True,
        )
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


@contextmanager
def chroot_without_services(target: Path, scratch: Path) -> Iterator[None]:
    """Mount kernel file systems in the root, and prevent packages from starting services (invoke-rc.d(8))."""
    with Mounts() as mounts:
        mounts.add("/dev", target / "dev", None, BIND | RECURSIVE)
        mounts.add("/sys", target / "sys", None, BIND | RECURSIVE)
        mounts.add("proc", target / "proc", "proc")
        for name, mode in (("run", 0o755), ("tmp", 0o1777)):
            (scratch / name).mkdir()
            (scratch / name).chmod(mode)
            mounts.bind(scratch / name, target / name)
        for name, text in (("usr/sbin/policy-rc.d", DENY_SERVICES), ("usr/sbin/start-stop-daemon", DO_NOTHING)):
            replace_program(mounts, target / name, text, scratch)
        yield


def replace_program(mounts: Mounts, path: Path, text: str, scratch: Path) -> None:
    """Mount a script, stored in `scratch`, over a program of the root."""
    script = scratch / path.name
    script.write_text(text)
    script.chmod(0o755)
    mounts.bind(script, path)


def main(repository: str, target: str, architecture: str) -> int:
    """Install and return the exit status. Prints errors."""
    enter_private_namespace()
    scratch = Path("/run/edge-install")
    scratch.mkdir()
    installation = Installation(Path(repository), Path(target), architecture, scratch)
    try:
        installation.unpack_essential()
        installation.install_rest()
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} ended with status {error.returncode}: its output is above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
