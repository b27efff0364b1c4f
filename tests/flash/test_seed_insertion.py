"""`seed --into`: the protection that `flash` has, for devices and images in use, builds' own images, and secrets."""

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from osbuild import cli
from osbuild.flash.file_usage import FLOCK
from osbuild.formats import gpt
from osbuild.formats.fat import Fat
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.seed.esp_seed import find_mtools
from tests.support.disks import unpack_disk
from tests.support.mounted import full, mount_tmpfs


def status(*arguments: str | Path) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk image with an empty EFI system partition."""
    path = unpack_disk("disk.img", tmp_path_factory.mktemp("empty"))
    esp = gpt.read_table(path).partitions[0]
    # mtools reads no FAT with sectors of 4096 bytes, which that one has; real images have 512.
    arguments = ["mformat", "-i", f"{path}@@{esp.offset}", "-T", "69632", "-h", "64", "-s", "32", "::"]
    run_command(find_mtools(Cache())(arguments, [path]))
    return path


@pytest.fixture
def disk(empty: Path, tmp_path: Path) -> Path:
    """A copy of it that others may read."""
    path = tmp_path / "disk.img"
    run_command(["cp", "--sparse=always", empty, path])
    path.chmod(0o644)
    return path


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\nversion: 1.0.0\nextends: edge-server\nkubernetes: {token: 'file:token'}\n")
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    return path


@pytest.fixture
def loop(disk: Path) -> Iterator[Path]:
    """The image as a block device."""
    result = subprocess.run(["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True)
    device = Path(result.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def seeded(disk: Path) -> dict[str, bytes]:
    with disk.open("rb") as image:
        fat = Fat(image, gpt.read_table(disk).partitions[0].offset, str(disk))
        return {file.path.name: fat.read(file) for file in fat.walk() if not file.folder}


def refused(capsys: pytest.CaptureFixture[str], disk: Path, *arguments: str | Path) -> str:
    """What is said where `disk` is refused; it must not change."""
    before, mode = disk.read_bytes(), disk.stat().st_mode
    capsys.readouterr()
    assert status(*arguments) == 1
    assert disk.read_bytes() == before
    assert disk.stat().st_mode == mode
    messages = capsys.readouterr().err
    assert "hint:" in messages
    assert "should not happen" not in messages
    return messages


@pytest.mark.parametrize("command", ["seed", "flash"])
class TestInUse:
    """What may not be written to is refused by both commands that write seeds."""

    def command_line(self, command: str, profile: Path, disk: Path, target: Path) -> list[str | Path]:
        if command == "seed":
            return ["seed", profile, "--node", "n1", "--into", target]
        source = disk.with_name("source.img")
        run_command(["cp", "--sparse=always", disk, source])
        return ["flash", source, target, "--yes"]

    def test_an_image_behind_a_loop_device(
        self, command: str, disk: Path, profile: Path, loop: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert f"in use as {loop}" in refused(capsys, disk, *self.command_line(command, profile, disk, disk))
        other = disk.with_name("other.img")
        os.link(disk, other)
        assert f"in use as {loop}" in refused(capsys, disk, *self.command_line(command, profile, disk, other))

    def test_an_image_with_another_name(
        self, command: str, disk: Path, profile: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        os.link(disk, disk.with_name("other.img"))
        assert "has another name" in refused(capsys, disk, *self.command_line(command, profile, disk, disk))

    def test_the_image_of_a_build(
        self, command: str, disk: Path, profile: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        disk.with_name("manifest.json").write_text(json.dumps({"files": {"disk.img": {}}}))
        link = disk.with_name("link")
        link.symlink_to(disk)
        for target in (disk, link):
            assert "belongs to a build" in refused(capsys, disk, *self.command_line(command, profile, disk, target))

    def test_an_image_that_a_guest_runs_from(
        self, command: str, disk: Path, profile: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = self.command_line(command, profile, disk, disk)
        with disk.open("rb") as file:  # as QEMU does with the image below an overlay
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0))
            assert "another program, such as QEMU, has locked this file" in refused(capsys, disk, *arguments)
        assert status(*arguments) == 0


def test_a_device_that_is_mounted_is_refused(
    disk: Path, profile: Path, loop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(["mkfs.ext4", "-q", loop])
    (tmp_path / "mnt").mkdir()
    run_command(["mount", loop, tmp_path / "mnt"])
    try:
        messages = refused(capsys, disk, "seed", profile, "--node", "n1", "--into", loop)
        assert f"mounted at {tmp_path}/mnt" in messages
    finally:
        run_command(["umount", tmp_path / "mnt"])


def test_a_device_that_is_free_gets_the_seed(disk: Path, profile: Path, loop: Path) -> None:
    assert status("seed", profile, "--node", "n1", "--into", loop) == 0
    assert {"user-data", "meta-data", "SHA256SUMS"} <= seeded(disk).keys()


def test_an_image_with_a_token_is_private_and_only_its_boot_partition_changes(disk: Path, profile: Path) -> None:
    before = disk.read_bytes()
    assert status("seed", profile, "--node", "n1", "--into", disk) == 0
    assert b"0123456789abcdef0123456789abcdef" in b"".join(seeded(disk).values())
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    esp, after = gpt.read_table(disk).partitions[0], disk.read_bytes()
    assert after[: esp.offset] == before[: esp.offset]
    assert after[esp.offset + esp.size :] == before[esp.offset + esp.size :]


def test_a_seed_that_does_not_fit_changes_nothing(
    disk: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler, numbers = disk.parent / "filler", count()
    for size in (16 * 2**20, 2**20, 65536, 4096, 512):
        filler.write_bytes(b"x" * size)
        while mtools_copy(disk, filler, f"x{next(numbers)}"):
            pass
    assert "the ESP is not full" in refused(capsys, disk, "seed", profile, "--node", "n1", "--into", disk)


def mtools_copy(disk: Path, file: Path, name: str) -> bool:
    """Copy `file` to the new `name` on the boot partition; False when that is full."""
    esp = gpt.read_table(disk).partitions[0]
    command = find_mtools(Cache())(["mcopy", "-i", f"{disk}@@{esp.offset}", str(file), f"::{name}"], [disk, file])
    return subprocess.run(command, capture_output=True).returncode == 0


def test_an_image_on_a_full_disk_is_changed_in_place_or_not_at_all(
    disk: Path, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = disk.stat().st_blocks * 512 + 2**20
    with mount_tmpfs(tmp_path / "small", size) as folder:
        run_command(["cp", "--sparse=always", disk, folder / "disk.img"])
        with full(folder):
            code = status("seed", profile, "--node", "n1", "--into", folder / "disk.img")
        assert "should not happen" not in capsys.readouterr().err
        files = seeded(folder / "disk.img")
        assert (code == 0) == ("SHA256SUMS" in files)
        assert status("seed", profile, "--node", "n1", "--into", folder / "disk.img") == 0
