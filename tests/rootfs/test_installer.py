"""Installing packages into a root: what is worked out before anything is mounted or run in a chroot."""

import subprocess
import sys
from pathlib import Path

import pytest

from osbuild.host.architecture import Architecture
from osbuild.rootfs.installer import packages
from osbuild.rootfs.installer.abi import ABIS, MASK, Abi, read_elf_machine
from osbuild.rootfs.installer.emulation import registration_line
from osbuild.rootfs.installer.install import patch_dpkg
from osbuild.rootfs.installer.mounts import temporary_path
from osbuild.rootfs.installer.native_programs import copy_ownership, covered_programs, source_version
from osbuild.rootfs.installer.packages import Package

NATIVE = ABIS[Architecture.native().to_debian()]
INDEX = """\
Package: shell
Version: 1.0-1
Architecture: arm64
Essential: yes
Pre-Depends: libold (>= 2) | libnew, users:any
Description: a shell
 Package: not this one

Package: libnew
Version: 2.0-1+b3
Architecture: arm64
Multi-Arch: same
Provides: libold (= 2.0)
Filename: ./libnew.deb

Package: users
Version: 3
Architecture: all
Depends: base-passwd

Package: base-passwd
Version: 1
Architecture: arm64

Package: editor
Version: 1
Architecture: arm64
Depends: shell
"""


def index(folder: Path, text: str = INDEX) -> dict[str, Package]:
    path = folder / "Packages"
    path.write_text(text)
    return packages.read_packages(path)


def test_the_essential_packages_come_with_what_they_need_and_users_first(tmp_path: Path) -> None:
    parsed = index(tmp_path)
    assert parsed["shell"].needs == ("libold", "users")
    assert packages.essential_packages(parsed) == ["base-passwd", "libnew", "shell", "users"]


@pytest.mark.parametrize(
    ("status", "unpacked"),
    [("install ok installed", True), ("install ok unpacked", True), ("install ok triggers-pending", True),
     ("install ok half-configured", True), ("install ok triggers-awaited", True),
     ("install ok not-installed", False), ("install reinstreq half-installed", False)],
)  # fmt: skip
def test_a_package_is_unpacked_in_some_states_only(tmp_path: Path, status: str, unpacked: bool) -> None:
    assert index(tmp_path, f"Package: a\nStatus: {status}\nArchitecture: all\n")["a"].unpacked is unpacked


def test_emulators_are_registered_as_the_kernel_wants_it() -> None:
    # What Debian's qemu-user-binfmt has for the same architectures.
    assert registration_line(ABIS["arm64"], "name", Path("/usr/bin/qemu-aarch64")) == (
        r":name:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
        r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64:PF"
    )
    assert ABIS["armhf"].magic.hex() == "7f454c4601010100000000000000000002002800"


def test_a_program_of_this_machine_is_known_as_such() -> None:
    head = Path(sys.executable).resolve().read_bytes()[:20]
    assert read_elf_machine(Path(sys.executable).resolve()) == NATIVE.elf
    assert bytes(a & b for a, b in zip(head, MASK, strict=True)) == bytes(
        a & b for a, b in zip(NATIVE.magic, MASK, strict=True)
    )
    assert read_elf_machine(Path(__file__)) is None


@pytest.mark.parametrize("foreign", [abi for abi in ABIS.values() if abi != NATIVE], ids=lambda abi: abi.debian)
def test_dpkg_takes_another_architecture_for_its_own(tmp_path: Path, foreign: Abi) -> None:
    program = patch_dpkg(tmp_path / "dpkg", NATIVE, foreign)
    output = subprocess.run([program, "--print-architecture"], check=True, capture_output=True, text=True).stdout
    assert output.strip() == foreign.debian


def test_only_programs_of_the_same_source_version_are_covered(tmp_path: Path) -> None:
    assert source_version("1:2.0-1+b3") == source_version("1:2.0-1") != source_version("1:2.0-1+deb13u1")
    target, info = tmp_path / "root", tmp_path / "root/var/lib/dpkg/info"
    info.mkdir(parents=True)
    foreign = next(abi for abi in ABIS.values() if abi != NATIVE)
    lines = [
        "/usr/bin",
        "/usr/bin/env",
        "/usr/bin/link",
        "/usr/bin/script",
        "/usr/sbin/ldconfig",
        "/usr/bin/nobody-has",
    ]
    for line in lines[1:]:
        place = target / line[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if line.endswith("link"):
            place.symlink_to("env")
        else:
            place.write_bytes(b"#!/bin/sh\n" if line.endswith("script") else foreign.magic)
            place.chmod(0o755)
    (info / "tools:other.list").write_text("\n".join(lines) + "\n")

    def package(version: str) -> Package:
        return Package("tools", version, "other", False, (), (), "", True)

    def covered(version: str) -> list[Path]:
        return list(covered_programs(target, [package("1.0-1")], {"tools": package(version)}, NATIVE))

    assert covered("1.0-1+b2") == [Path("/usr/bin/env")]
    assert covered("1.0-2") == []
    assert list(covered_programs(target, [package("1.0-1")], {}, NATIVE)) == []


def test_a_mode_given_to_a_covered_program_goes_to_the_roots_own(tmp_path: Path) -> None:
    copy, place = tmp_path / "copy", tmp_path / "place"
    for path in (copy, place):
        path.touch(mode=0o755)
    place.chmod(0o755)
    copy.chmod(0o2755)
    copy_ownership(copy, place)
    assert place.stat().st_mode & 0o7777 == 0o2755


def test_mount_points_go_with_the_folders_made_for_them(tmp_path: Path) -> None:
    with temporary_path(tmp_path / "a/b/file", folder=False), temporary_path(tmp_path / "a/c", folder=True):
        assert (tmp_path / "a/b/file").is_file()
        assert (tmp_path / "a/c").is_dir()
    assert list(tmp_path.iterdir()) == []
