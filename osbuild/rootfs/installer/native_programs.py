"""Replaces programs of a foreign root with native ones, so that it is configured at nearly native speed.

Most programs of maintainer scripts do the same on every architecture: shells, Perl, Python, openssl, systemd's tools.
If this system has the same program from the same source version, its own is mounted over the root's. Native libraries
are in a folder of their architecture (multiarch), so they do not conflict with the root's. Other programs run under
emulation, which is slower.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from osbuild.rootfs.installer.abi import Abi, read_elf_machine
from osbuild.rootfs.installer.mounts import Mounts
from osbuild.rootfs.installer.packages import Package

# The behaviour of these programs depends on the architecture that they were built for.
OWN = frozenset({"/usr/sbin/ldconfig", "/usr/bin/ldd"})
# Perl's modules are in the architecture's folder. Native ones are used only if the root has them too.
PERL = ("perl", "perl5")


def source_version(version: str) -> str:
    """Return a version without the suffix of a binary rebuild of one architecture (`+b1`)."""
    return re.sub(r"\+b\d+$", "", version)


def covered_programs(
    target: Path, packages: Iterable[Package], host_packages: Mapping[str, Package], native: Abi
) -> Iterator[Path]:
    """Yield absolute paths of the programs of `packages` in the root `target` that this system has too."""
    for package in packages:
        host_package = host_packages.get(package.name)
        if host_package is None or source_version(host_package.version) != source_version(package.version):
            continue
        for line in list_package_files(target, package):
            path = target / line.lstrip("/")
            if line in OWN or ".so" in path.name or path.is_symlink() or not path.is_file():
                continue
            program = Path(line)
            if (
                os.access(path, os.X_OK)
                and read_elf_machine(path)
                and program.is_file()
                and read_elf_machine(program) == native.elf
            ):
                yield program


def list_package_files(target: Path, package: Package) -> list[str]:
    """Return the files that dpkg has unpacked from a package (dpkg-query(1), --listfiles)."""
    for name in (package.name, f"{package.name}:{package.architecture}"):
        path = target / f"var/lib/dpkg/info/{name}.list"
        if path.exists():
            return path.read_text().splitlines()
    return []


class NativePrograms(Mounts):
    """Covers programs of the root `target` with native ones until the block ends. `copies` is an empty folder."""

    def __init__(self, target: Path, native: Abi, foreign: Abi, copies: Path) -> None:
        super().__init__()
        self.target = target
        self.native = native
        self.foreign = foreign
        self.copies = copies
        self.count = 0

    def cover_program(self, covered: Path, program: Path) -> None:
        """Mount a copy of `program` over the root's program at the absolute path `covered`. Raises `OSError`."""
        # A copy, because some scripts change owner or mode. `copy_ownership` applies the change to the root's file.
        path = self.target / covered.relative_to("/")
        status = path.stat()
        copy = self.copies / str(covered).replace("/", "\\")
        shutil.copyfile(program, copy)
        os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(stat.S_IMODE(status.st_mode))
        self.callback(copy_ownership, copy, path)
        self.bind(copy, path)
        self.count += 1

    def show_libraries(self, empty: Path) -> None:
        """Mount native libraries and the loader in the root. `empty` is an empty folder."""
        libraries = Path("/", self.native.libraries)
        self.bind(libraries, self.target / self.native.libraries)
        for name in PERL:
            if (libraries / name).is_dir() and not (self.target / self.foreign.libraries / name).is_dir():
                self.bind(empty, self.target / self.native.libraries / name)
        loader = self.target / self.native.loader
        if loader.parent.exists():
            self.add_link(loader, str(libraries / loader.name))
        else:  # base-files removes /lib64 unless it is a link to usr/lib64
            self.bind(Path("/usr", loader.parent.name), self.target / "usr" / loader.parent.name)
            self.add_link(loader.parent, f"usr/{loader.parent.name}")
        for modules in Path("/usr/lib").glob("python3.*/lib-dynload"):
            if (path := self.target / modules.relative_to("/")).is_dir():
                self.bind(modules, path)

    def add_link(self, path: Path, to: str) -> None:
        """Create a symbolic link, which is removed when the block ends."""
        path.symlink_to(to)
        self.callback(path.unlink)


def copy_ownership(copy: Path, path: Path) -> None:
    """Apply changes that scripts have made to owner and mode of `copy` to the root's own file `path`."""
    old, new = path.stat(), copy.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(path, new.st_uid, new.st_gid)
    if (old.st_uid, old.st_gid, old.st_mode) != (new.st_uid, new.st_gid, new.st_mode):
        path.chmod(stat.S_IMODE(new.st_mode))
