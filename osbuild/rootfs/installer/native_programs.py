"""Native programs in the place of foreign ones, so that a foreign root configures itself at nearly native speed.

Most of what maintainer scripts run does the same on every processor: shells, Perl, Python, openssl, systemd's tools.
While the farm stands, each program that this system has too, from the same source package version, is covered by this
system's own. Its libraries lie in a folder of their own architecture (multiarch), so nothing of the root's collides.
A program that is not here, or in another version, stays what it is and runs under emulation: slower, never wrong.
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

# What these do depends on the architecture that they were made for.
OWN = frozenset({"/usr/sbin/ldconfig", "/usr/bin/ldd"})
# Modules of these interpreters lie in the folder of the architecture: native ones only where the root has them too.
PERL = ("perl", "perl5")


def source_version(version: str) -> str:
    """A version without the suffix of a rebuild that one architecture alone had (`+b1`)."""
    return re.sub(r"\+b\d+$", "", version)


def covered_programs(
    target: Path, wanted: Iterable[Package], here: Mapping[str, Package], native: Abi
) -> Iterator[Path]:
    """Absolute paths of programs in the root `target` that this system has too."""
    for package in wanted:
        mine = here.get(package.name)
        if mine is None or source_version(mine.version) != source_version(package.version):
            continue
        for line in list_package_files(target, package):
            path = target / line.lstrip("/")
            if line in OWN or ".so" in path.name or path.is_symlink() or not path.is_file():
                continue
            own = Path(line)
            if (
                os.access(path, os.X_OK)
                and read_elf_machine(path)
                and own.is_file()
                and read_elf_machine(own) == native.elf
            ):
                yield own


def list_package_files(target: Path, package: Package) -> list[str]:
    """The files that dpkg has unpacked from a package (dpkg-query(1), --listfiles)."""
    for name in (package.name, f"{package.name}:{package.architecture}"):
        path = target / f"var/lib/dpkg/info/{name}.list"
        if path.exists():
            return path.read_text().splitlines()
    return []


class NativePrograms(Mounts):
    """While the block runs, programs of the root `target` are native ones; `copies` is an empty folder."""

    def __init__(self, target: Path, native: Abi, foreign: Abi, copies: Path) -> None:
        super().__init__()
        self.target = target
        self.native = native
        self.foreign = foreign
        self.copies = copies
        self.count = 0

    def cover_program(self, own: Path, program: Path) -> None:
        """Cover the root's program at `own` by a copy of `program`.

        It is a copy so that a script can change owner and mode, as some do; they go to the root's own file in the end.
        """
        path = self.target / own.relative_to("/")
        status = path.stat()
        copy = self.copies / str(own).replace("/", "\\")
        shutil.copyfile(program, copy)
        os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(stat.S_IMODE(status.st_mode))
        self.callback(copy_ownership, copy, path)
        self.bind(copy, path)
        self.count += 1

    def show_libraries(self, empty: Path) -> None:
        """Show native libraries and the loader. `empty` is an empty folder."""
        libraries = Path("/", self.native.libraries)
        self.bind(libraries, self.target / self.native.libraries)
        for name in PERL:
            if (libraries / name).is_dir() and not (self.target / self.foreign.libraries / name).is_dir():
                self.bind(empty, self.target / self.native.libraries / name)
        loader = self.target / self.native.loader
        if loader.parent.exists():
            self.add_link(loader, str(libraries / loader.name))
        else:  # base-files removes /lib64 if it is anything else than a link to a folder of that name below /usr
            self.bind(Path("/usr", loader.parent.name), self.target / "usr" / loader.parent.name)
            self.add_link(loader.parent, f"usr/{loader.parent.name}")
        for modules in Path("/usr/lib").glob("python3.*/lib-dynload"):
            if (path := self.target / modules.relative_to("/")).is_dir():
                self.bind(modules, path)

    def add_link(self, place: Path, to: str) -> None:
        """A symbolic link for as long as the block runs."""
        place.symlink_to(to)
        self.callback(place.unlink)


def copy_ownership(copy: Path, path: Path) -> None:
    """Give the root's own file the owner and mode that scripts have given to the copy in its place."""
    was, now = path.stat(), copy.stat()
    if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
        os.chown(path, now.st_uid, now.st_gid)
    if (was.st_uid, was.st_gid, was.st_mode) != (now.st_uid, now.st_gid, now.st_mode):
        path.chmod(stat.S_IMODE(now.st_mode))
