"""Roots of other architectures: they have only programs of their own architecture, as under full emulation."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.emulated import emulated_root
from bench.foreign import BASE, measured_lock, prepare_inputs, time_root
from support.exclusive import hold_lock

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, tree_digest
from osbuild.host.paths import ELEMENTS, PROJECT
from osbuild.host.run import run_command
from osbuild.inputs.lock import Lock, lock_to_json
from osbuild.rootfs.installer.abi import ABIS
from osbuild.rootfs.installer.install import EMULATING, patch_dpkg

NATIVE = Architecture.native()
FOREIGN = [architecture for architecture in Architecture if architecture != NATIVE]


@dataclass(frozen=True)
class ListedFile:
    """A file's metadata and digest, without times, which the build sets (osbuild.rootfs.assembly.clamp)."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    link: str
    digest: str


def list_entries(path: Path) -> dict[str, ListedFile]:
    """Return every file of a root in a tar."""
    files = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(file.read()).hexdigest() if file else ""
            name = member.name.removeprefix(".")
            files[name] = ListedFile(member.type, member.mode, (member.uid, member.gid), member.linkname, digest)
    return files


def read_text(path: Path, name: str) -> str:
    """Return a text file of a root in a tar."""
    with tarfile.open(path) as tar:
        file = tar.extractfile(f".{name}")
        assert file is not None
        return file.read().decode()


@pytest.fixture(scope="module")
def foreign_roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Architecture, tuple[Lock, Path]]]:
    """A fresh root for every other architecture, with an element whose hook runs a program in the chroot."""
    folder = tmp_path_factory.mktemp("foreign")
    hook = folder / "elements/probe/install.d/10-probe"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/bash\nuname -m > /usr/lib/probe\n")
    hook.chmod(0o755)
    roots = {}
    for architecture in FOREIGN:
        with hold_lock(f"profile-{BASE}"):
            lock = measured_lock(Cache(), architecture)
        path, _ = time_root(Cache(), lock, elements=[hook.parent.parent])
        roots[architecture] = lock, path
    yield roots
    for _, path in roots.values():
        path.unlink()


@pytest.mark.parametrize("architecture", FOREIGN)
def test_a_foreign_root_is_complete_and_has_only_programs_of_its_architecture(
    architecture: Architecture, foreign_roots: dict[Architecture, tuple[Lock, Path]], tmp_path: Path
) -> None:
    lock, path = foreign_roots[architecture]
    abi = ABIS[architecture.to_debian()]
    strangers, programs = [], 0
    with tarfile.open(path) as tar:
        for member in tar:
            if file := tar.extractfile(member) if member.isreg() else None:
                head = file.read(20)
                if head[:4] == b"\x7fELF":
                    programs += 1
                    if (head[4], int.from_bytes(head[18:20], "little")) != abi.elf:
                        strangers.append(member.name)
    assert programs > 500
    assert strangers == []
    names = list_entries(path).keys()
    unwanted = {"/lib64", "/usr/lib64", "/" + ABIS[NATIVE.to_debian()].libraries, "/usr/sbin/policy-rc.d"}
    assert not unwanted & names
    assert (
        read_text(path, "/usr/lib/probe").strip()
        in {"arm64": ("aarch64",), "armv7": ("armv7l", "armv8l")}[architecture]
    )

    run_command(["tar", "-x", "-C", tmp_path, "-f", path, "./var/lib/dpkg"])
    patched_dpkg = patch_dpkg(tmp_path / "dpkg", ABIS[NATIVE.to_debian()], abi)
    database = f"--admindir={tmp_path / 'var/lib/dpkg'}"
    assert run_command([patched_dpkg, database, "--audit"]) == ""
    listed = run_command(
        ["dpkg-query", database, "--show", "--showformat=${Package} ${Version} ${Architecture} ${Status}\n"]
    )
    expected = {f"{deb.name} {deb.version} {deb.architecture} install ok installed" for deb in lock.packages}
    assert set(listed.splitlines()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FOREIGN)
def test_a_second_foreign_root_of_the_same_lock_is_identical(
    architecture: Architecture, foreign_roots: dict[Architecture, tuple[Lock, Path]]
) -> None:
    lock, first = foreign_roots[architecture]
    second, _ = time_root(Cache(), lock)
    first_files, second_files = list_entries(first), list_entries(second)
    second.unlink()
    del first_files["/usr/lib/probe"]
    assert first_files == second_files


# name -> why the emulated root may have another file there, or none
ALLOWED = {
    "/etc/passwd": "mmdebstrap configures in another order, in which users get other numbers: compared by name",
    "/etc/group": "the same",
    "/etc/shadow": "the same",
    "/etc/gshadow": "the same",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper": "its group has such a number",
    "/var/lib/systemd/network": "its owner has such a number",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap": "mmdebstrap's name for options given to dpkg",
    "/etc/dpkg/dpkg.cfg.d/edge-osbuild": "ours",
    "/etc/fstab": "mmdebstrap writes a comment",
    "/etc/.resolv.conf.systemd-resolved.bak": "mmdebstrap copies the host's resolv.conf, which systemd-resolved keeps",
    "/var/lib/dpkg/arch": "mmdebstrap lists the one architecture",
    "/var/lib/dpkg/triggers/File": "the same lines in another order: compared sorted",
}  # fmt: skip
SORTED = ("/var/lib/dpkg/triggers/File",)
BY_NAME = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")


@pytest.mark.slow
def test_a_foreign_root_is_the_same_as_under_full_emulation(
    foreign_roots: dict[Architecture, tuple[Lock, Path]],
) -> None:
    lock, native_root = foreign_roots[Architecture.arm64]
    emulated, _ = emulated_root(Cache(), lock)
    native_files, emulated_files = list_entries(native_root), list_entries(emulated)
    del native_files["/usr/lib/probe"]
    different = {
        name
        for name in native_files.keys() | emulated_files.keys()
        if native_files.get(name) != emulated_files.get(name)
    }
    assert {name for name in different if not name.startswith("/dev/")} <= ALLOWED.keys()  # /dev is emptied later
    for name in SORTED:
        assert sorted(read_text(native_root, name).splitlines()) == sorted(read_text(emulated, name).splitlines())
    for name in BY_NAME:
        for files in (native_files, emulated_files):
            assert files[name].owner[0] == 0
        assert accounts_by_name(read_text(native_root, name)) == accounts_by_name(read_text(emulated, name)), name
    emulated.unlink()


def accounts_by_name(table: str) -> set[tuple[str, ...]]:
    """Return the lines of passwd(5) and similar files without numbers, which are assigned in order."""
    return {tuple(field for field in line.split(":") if not field.isdecimal()) for line in table.splitlines()}


@pytest.mark.slow
def test_a_killed_foreign_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mount and no registration is left, and the tools tree is unchanged."""
    lock = measured_lock(Cache(), Architecture.arm64)
    sandbox = prepare_inputs(Cache(), lock)
    before = tree_digest(sandbox.root)
    cache = tmp_path / "cache"
    cache.mkdir()
    for kind in ("tools", "debs", "wheels", "downloads", "locks"):
        (cache / kind).symlink_to(Cache().folder(kind))
    code = (
        "import json, sys; from bench.foreign import time_root; from osbuild.host.cache import Cache; "
        "from osbuild.inputs.lock import lock_from_json; time_root(Cache(), lock_from_json(json.load(sys.stdin)))"
    )
    monkeypatch.setenv("EDGE_OSBUILD_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{PROJECT / 'qemu-tests'}")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as build:
        assert build.stdin
        json.dump(lock_to_json(lock), build.stdin)
        build.stdin.close()
        end = time.monotonic() + 300
        while not any("native programs in use" in log.read_text() for log in cache.glob("rootfs/.partial-*/dib.log")):
            assert build.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        build.send_signal(signal.SIGKILL)
    time.sleep(2)
    assert str(cache) not in Path("/proc/self/mountinfo").read_text()
    assert not any(str(cache) in process for process in processes())
    assert tree_digest(sandbox.root) == before
    path, _ = time_root(Cache(), lock)  # cleans up after the killed build, and works
    assert path.is_file()
    assert not list(cache.glob("rootfs/.partial-*"))


def processes() -> Iterator[str]:
    """Yield the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


BROKEN = """\
#!/usr/bin/python3
import os, pathlib, sys
from osbuild.rootfs.installer import install
from osbuild.rootfs.installer.native_programs import NativePrograms

class Broken(NativePrograms):
    def cover_program(self, own, program):
        super().cover_program(own, pathlib.Path("/usr/bin/false") if own.name == "systemd-sysusers" else program)

install.NativePrograms = Broken
pathlib.Path(os.environ["TMP_BUILD_DIR"], "started").touch()
sys.exit(install.main(*(os.environ[name] for name in ("EDGE_REPOSITORY", "TARGET_ROOT", "EDGE_ARCHITECTURE"))))
"""


@pytest.mark.slow
def test_a_native_program_that_fails_is_emulated(
    foreign_roots: dict[Architecture, tuple[Lock, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, first = foreign_roots[Architecture.arm64]
    shutil.copytree(ELEMENTS, tmp_path / "elements")
    (tmp_path / "elements/edge-debian/root.d/10-install").write_text(BROKEN)
    second, _ = time_root(Cache(), lock, shipped=tmp_path / "elements")
    assert EMULATING in capsys.readouterr().err
    first_files, second_files = list_entries(first), list_entries(second)
    second.unlink()
    different = {
        name for name in first_files.keys() | second_files.keys() if first_files.get(name) != second_files.get(name)
    }
    assert different <= ALLOWED.keys() | {"/usr/lib/probe"}
