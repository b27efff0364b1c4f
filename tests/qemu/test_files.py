"""Images that a machine is given, and how the `run` command takes wrong ones."""

import json
import os
import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from osbuild.cli.options import parse_size_option
from osbuild.cli.run import command
from osbuild.config.board import default_board, load_board
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.run import run_command
from osbuild.qemu.bootable import find_bootable
from osbuild.qemu.config import run_directly
from osbuild.qemu.disk import card_size, image_format, keep_overlay, make_overlay
from osbuild.qemu.files import locked_log
from osbuild.qemu.firmware import extract_files
from osbuild.qemu.ssh import Guest, GuestMachine, KeyPair, NoConnection
from osbuild.seed.esp_seed import find_esp, find_mtools
from osbuild.shared.errors import Error, UsageError
from tests.support.disks import unpack_disk


def gpt(path: Path) -> Path:
    path.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"EFI PART" + b"\0" * 504)
    return path


def test_raw_and_qcow2_images_are_distinguished_by_their_contents(tmp_path: Path) -> None:
    assert image_format(gpt(tmp_path / "a.qcow2")) == "raw"
    (tmp_path / "b.img").write_bytes(b"QFI\xfb" + b"\0" * 508)
    assert image_format(tmp_path / "b.img") == "qcow2"


def test_two_machines_do_not_share_a_consoles_log(tmp_path: Path) -> None:
    log = tmp_path / "logs/console.log"
    with locked_log(log):
        log.write_text("boot complete")
        with pytest.raises(Error, match="another machine writes its console") as caught, locked_log(log):
            pass
        assert caught.value.hint and log.read_text() == "boot complete", "the other's log is as it was"
    with locked_log(log):
        assert not log.read_bytes()


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "this disk image does not exist", "edge-osbuild build"),
        (b"", "no partition table", "disk.img"),
        (b"name: minimal\n", "no partition table", "disk.img"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 600, "compressed", "zstd -d"),
        (b"\x1f\x8b", "compressed", "gunzip"),
    ],
)
def test_a_file_that_is_not_an_image_is_refused_with_a_hint(
    tmp_path: Path, content: bytes | None, message: str, hint: str
) -> None:
    path = tmp_path / "image"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Error, match=message) as caught:
        image_format(path)
    assert caught.value.where == str(path)
    assert hint in (caught.value.hint or "")


def test_a_build_folder_stands_for_its_image_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="this is a folder"):
        image_format(tmp_path)
    with pytest.raises(Error, match=r"contains no disk\.img"):
        find_bootable(tmp_path)
    image = gpt(tmp_path / "disk.img")
    assert find_bootable(tmp_path).seed is None
    (tmp_path / "seed.iso").touch()
    (tmp_path / "manifest.json").write_text(json.dumps({"architecture": "arm64"}))
    source = find_bootable(tmp_path)
    assert (source.image, source.seed, source.board) == (
        image,
        tmp_path / "seed.iso",
        default_board(Architecture.arm64),
    )
    assert find_bootable(image).seed is None
    assert find_bootable(tmp_path, board=load_board("armv7")).board.name == "armv7"
    (tmp_path / "manifest.json").write_text(json.dumps({"architecture": "arm64", "board": "armv7"}))
    assert find_bootable(tmp_path).board.name == "armv7"
    (tmp_path / "manifest.json").write_text("[]")
    assert find_bootable(tmp_path).board.architecture is Architecture.native()


def test_a_disk_smaller_than_its_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="the disk would be smaller"):
        make_overlay(gpt(tmp_path / "i"), tmp_path / "o", 512, run_directly)


def test_an_sd_card_has_the_next_power_of_two_of_bytes(tmp_path: Path) -> None:
    image = gpt(tmp_path / "i")
    for length, requested, card in ((3 * 2**20, None, 2**22), (2**22, None, 2**22), (2**22, 2**22 + 1, 2**23)):
        os.truncate(image, length)
        assert card_size(image, requested) == card
    image.write_bytes(b"QFI\xfb" + b"\0" * 508)
    assert card_size(image, 3 * 2**20) == 2**22
    with pytest.raises(Error, match="is unknown") as caught:
        card_size(image, None)
    assert "--disk-size" in (caught.value.hint or "")


def test_what_a_board_without_a_boot_rom_starts_with_is_read_off_its_disk(tmp_path: Path) -> None:
    wrap, disk = find_mtools(Cache()), unpack_disk("disk.img", tmp_path)
    place = f"{disk}@@{find_esp(disk).offset}"
    (tmp_path / "program").write_bytes(bytes(range(256)) * 300)
    run_command(wrap(["mformat", "-i", place, "-T", "69632", "-h", "64", "-s", "32", "::"], [disk]))
    run_command(wrap(["mmd", "-i", place, "::/dtbs"], [disk]))
    for target in ("u-boot.bin", "dtbs/Board.dtb"):
        run_command(wrap(["mcopy", "-i", place, str(tmp_path / "program"), f"::/{target}"], [disk, tmp_path]))
    (tmp_path / "out").mkdir()
    files = extract_files(disk, ["U-Boot.bin", "dtbs/board.dtb"], tmp_path / "out")
    assert list(files) == ["U-Boot.bin", "dtbs/board.dtb"]
    assert all(path.read_bytes() == (tmp_path / "program").read_bytes() for path in files.values())
    with pytest.raises(Error, match=r"the ESP does not contain start\.elf"):
        extract_files(disk, ["start.elf"], tmp_path / "out")


def test_changes_to_an_older_image_are_not_put_on_a_newer_one(tmp_path: Path) -> None:
    image, overlay = gpt(tmp_path / "disk.img"), tmp_path / "kept.qcow2"
    overlay.write_bytes(b"QFI\xfb" + b"\0" * 600)
    keep_overlay(image, overlay, None, run_directly)
    os.utime(image, (2**31, 2**31))
    with pytest.raises(Error, match="built again since") as caught:
        keep_overlay(image, overlay, None, run_directly)
    assert f"rm {overlay}" in (caught.value.hint or "")
    with pytest.raises(Error, match="not a qcow2"):
        keep_overlay(image, gpt(tmp_path / "other"), None, run_directly)


@pytest.mark.parametrize(
    ("text", "amount"), [("2G", 2**31), ("512M", 2**29), ("1.5 GiB", 3 * 2**29), ("256", 2**28), ("1gb", 2**30)]
)
def test_sizes(text: str, amount: int) -> None:
    assert parse_size_option(text) == amount


@pytest.mark.parametrize("text", ["", "0", "2T", "-1G", "G", "1e3"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size_option(text)


def test_the_run_command_refuses_contradictions_and_wrong_images_before_any_work(tmp_path: Path) -> None:
    runner = CliRunner()
    image = str(gpt(tmp_path / "disk.img"))
    assert isinstance(runner.invoke(command, [image, "--no-network", "--ssh-port", "22"]).exception, UsageError)
    wrong = runner.invoke(command, [str(tmp_path / "no.img")]).exception
    assert isinstance(wrong, Error)
    assert wrong.status == 1
    assert runner.invoke(command, [image, "--memory", "lots"]).exit_code == 2
    assert isinstance(runner.invoke(command, [image, "--board", "toaster"]).exception, UsageError)
    assert runner.invoke(command, []).exit_code == 2


def test_a_throw_away_key_is_made_once_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    pair = KeyPair.generate(tmp_path / "keys")
    assert pair.public.startswith("ssh-ed25519 ")
    assert pair.private.stat().st_mode & 0o077 == 0
    assert KeyPair.generate(tmp_path / "keys") == pair


def test_ssh_without_a_guest_fails_and_never_reaches_this_host_instead(tmp_path: Path) -> None:
    pair = KeyPair.generate(tmp_path)
    with socket.socket() as taken:  # bound, nobody listens: connections are refused
        taken.bind(("127.0.0.1", 0))
        guest = Guest(GuestMachine(lambda: taken.getsockname()[1]), user="root", key=pair.private, folder=tmp_path)
        with pytest.raises(NoConnection, match="refused"):
            guest.run("true", timeout=10)
        (tmp_path / "ssh-root").touch()  # a master that died and left its socket
        with pytest.raises(NoConnection, match="the connection broke"):
            guest.run("true", timeout=10)
        with pytest.raises(NoConnection, match="no SSH within 1 s"):
            guest.wait_ready(1)
