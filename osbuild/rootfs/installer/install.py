"""Install a repository of Debian packages into an empty folder, for this processor or for another.

    python3 -m osbuild.rootfs.installer.install REPOSITORY TARGET ARCHITECTURE

The repository is flat and complete in itself. Everything is unpacked, then configured in a chroot; both by this
system's dpkg. For another architecture the native programs of `farm` are in place while scripts run, and programs of
that architecture must run here (see `emulation`).
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
OPTIONS = (
    "force-unsafe-io",
    *(f"path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
    "path-include=/usr/share/doc/*/copyright",
)
DENY_SERVICES = "#!/bin/sh\nexit 101\n"
DPKG = Path("/usr/bin/dpkg")
EMULATING = "not all of it worked with native programs: the rest is emulated"
DO_NOTHING = "#!/bin/sh\nexit 0\n"


class Installation:
    """One root in the making. `scratch` is an empty folder outside of it, which is kept."""

    def __init__(self, repository: Path, target: Path, architecture: str, scratch: Path) -> None:
        self.repository = repository
        self.target = target
        self.scratch = scratch
        self.packages = packages.read_packages(repository / "Packages")
        self.here = packages.read_packages(Path("/var/lib/dpkg/status"))
        self.native = ABIS[self.here["dpkg"].architecture]
        self.foreign = ABIS[architecture]
        self.begin = time.monotonic()
        self.dpkg = patch_dpkg(scratch / "dpkg", self.native, self.foreign)

    def say(self, text: str) -> None:
        """A line for the log, with the seconds since the start."""
        print(f"{time.monotonic() - self.begin:6.1f} s  {text}", flush=True)

    def run(self, *command: str | Path, check: bool = True) -> int:
        """Run a program as maintainer scripts expect it. Raises `subprocess.CalledProcessError`."""
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
        env |= {"TMPDIR": "/tmp", "HOME": "/root", "PATH": "/usr/sbin:/usr/bin"}
        return subprocess.run(command, env=env, check=check, stdin=subprocess.DEVNULL).returncode

    def unpack_essential(self) -> None:
        """Unpack the essential packages. Their scripts need each other, so their files are laid out before."""
        make_skeleton(self.target)
        names = packages.essential_packages(self.packages)
        for name in names:
            extract_package(self.repository / self.packages[name].filename, self.target)
        self.unpack_packages(names)
        self.say(f"{len(names)} essential packages")

    def unpack_packages(self, names: Iterable[str], *, check: bool = True) -> int:
        """Unpack packages, whatever they depend on. Returns dpkg's status."""
        archives = [self.repository / self.packages[name].filename for name in names]
        options = [f"--{option}" for option in OPTIONS]
        return self.run(
            self.dpkg, f"--root={self.target}", *options, "--force-depends", "--unpack", *archives, check=check
        )

    def install_rest(self) -> None:
        """Unpack the others, configure all. What does not work with native programs is done again without."""
        with quiet_chroot(self.target, self.scratch):
            if self.foreign != self.native:
                if self.install_with_native():
                    return self.say("configured with native programs")
                self.say(EMULATING)
            if missing := self.missing_packages():
                self.unpack_packages(missing)
                self.say(f"{len(missing)} more packages unpacked")
            self.configure_packages()
            self.say("configured")

    def install_with_native(self) -> bool:
        """The same with native programs; whether that worked.

        A program is covered when its package is unpacked, not before: dpkg could not put it in its place.
        """
        copies, empty = self.scratch / "programs", self.scratch / "empty"
        copies.mkdir()
        empty.mkdir()
        missing = self.missing_packages()
        with NativePrograms(self.target, self.native, self.foreign, copies) as farm:
            farm.show_libraries(empty)
            for names in (self.packages.keys() - set(missing), missing):
                for own in covered_programs(
                    self.target, [self.packages[name] for name in names], self.here, self.native
                ):
                    farm.cover_program(own, self.dpkg if own == DPKG else own)
                if names != missing and self.unpack_packages(missing, check=False):
                    return False
                self.say(f"{len(names)} packages unpacked, {farm.count} native programs in place")
            return not self.configure_packages(check=False)

    def configure_packages(self, *, check: bool = True) -> int:
        """Configure what is unpacked, Python uncompiled: the element does that, all at once. Returns dpkg's status."""
        with Mounts() as mounts:
            if (compiler := self.target / "usr/bin/py3compile").exists():
                replace_program(mounts, compiler, DO_NOTHING, self.scratch)
            return self.run("chroot", self.target, "dpkg", "--configure", "--pending", check=check)

    def missing_packages(self) -> list[str]:
        """Packages that dpkg has not unpacked yet."""
        status = packages.read_packages(self.target / "var/lib/dpkg/status")
        return sorted(name for name in self.packages if name not in status or not status[name].unpacked)


def patch_dpkg(path: Path, native: Abi, foreign: Abi) -> Path:
    """A dpkg that runs here and takes `foreign` for its own architecture, written to `path`.

    That is compiled into dpkg, and no option changes it: with another one, packages of `Architecture: all` find none
    of their dependencies. The names are of one length, so that in a copy of the program one can be put for the other.
    """
    if native == foreign:
        return DPKG
    path.write_bytes(DPKG.read_bytes().replace(native.debian.encode(), foreign.debian.encode()))
    path.chmod(0o755)
    said = subprocess.run([path, "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    if said != foreign.debian:
        raise SystemExit(f"dpkg can't be made to take {foreign.debian} for its architecture: it says {said}")
    return path


def make_skeleton(target: Path) -> None:
    """What dpkg and the first scripts find: merged /usr, an empty database, options for what is installed later."""
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
    """Lay a package's files out, without dpkg's database. Raises `subprocess.CalledProcessError`."""
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
def quiet_chroot(target: Path, scratch: Path) -> Iterator[None]:
    """The root as a chroot in which nothing is started: kernel file systems, and no services (invoke-rc.d(8))."""
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
    """Show a script, kept in `scratch`, in the place of a program of the root."""
    script = scratch / path.name
    script.write_text(text)
    script.chmod(0o755)
    mounts.bind(script, path)


def main(repository: str, target: str, architecture: str) -> int:
    """Install. Returns the status for the shell; what went wrong has been printed."""
    enter_private_namespace()
    scratch = Path("/run/edge-install")
    scratch.mkdir()
    installation = Installation(Path(repository), Path(target), architecture, scratch)
    try:
        installation.unpack_essential()
        installation.install_rest()
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} ended with status {error.returncode}: its own words are above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
