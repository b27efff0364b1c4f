"""Media with seeds at the boots of a node: which are applied, by the image's policy or by root on the running node."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.machines import MachineFactory
from support.nodes import CONNECT, MEMORY, USER, Node, make_seed, render_seed_of
from support.second_disk import copy_disk
from support.versions import Versions

from osbuild.config.board import Board
from osbuild.formats import gpt
from osbuild.host import paths
from osbuild.host.cache import Cache
from osbuild.host.run import Argument, run_command
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.ssh import KeyPair
from osbuild.seed import esp_seed
from osbuild.seed.iso import make_iso

pytestmark = pytest.mark.slow
EMPTY = bytes(2**20)  # an empty medium


def hostname(node: Node) -> str:
    """Wait for a complete boot, and return the host name, which the seed sets."""
    node.wait_complete()
    node.guest.wait_ready(CONNECT)
    return node.run("hostname").strip()


def seed_status(node: Node) -> dict[str, Any]:
    """Return the part `seed` of `edge-agent status`."""
    status: dict[str, Any] = node.status()["seed"]
    return status


def with_seed(image: Path, profile: Path, name: str, key: KeyPair, target: Path) -> Path:
    """Make a copy of a disk image with the seed of the node `name` on its ESP."""
    offset = next(partition.offset for partition in gpt.read_table(image).partitions if partition.name == "esp")
    files = render_seed_of(profile, name, key).with_sums()
    esp_seed.write_seed(files, copy_disk(image, target), offset, wrap=esp_seed.find_mtools(Cache()))
    return target


def signed_by_command(profile: Path, name: str, key: KeyPair, keys: Path, output: Path) -> bytes:
    """Make a medium with `edge-osbuild seed --sign`."""
    users = f"users=[{{name: {USER}, sudo: true, ssh_keys: ['{key.public.strip()}']}}]"
    command: list[Argument] = [sys.executable, "-m", "osbuild", "seed", profile, "--node", name, "--set", users]
    run_command([*command, "--sign", "--keys", keys, "-o", output], cwd=paths.PROJECT)
    return output.read_bytes()


@pytest.fixture
def media(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two media whose contents tests replace while the machine is off."""
    paths = (tmp_path / "medium-1.iso", tmp_path / "medium-2.iso")
    for path in paths:
        path.write_bytes(EMPTY)
    yield paths


def test_if_media_need_a_signature_only_a_valid_one_is_accepted(
    machine: MachineFactory, board: Board, versions: Versions, key: KeyPair, media: tuple[Path, Path], tmp_path: Path
) -> None:
    version, profile = versions.get("signed", bundle=False), versions.profile("signed", "light")
    medium, second_medium = media
    disk = with_seed(version.image, profile, "own", key, tmp_path / "disk.img")
    make_seed(profile, "stranger", key, medium)
    booted = machine(MachineConfig(board=board, image=disk, memory=MEMORY, media=media))
    node = Node(booted, booted.guest(USER, key))

    assert hostname(node) == "own"
    refused = "the seed is not signed; sign it with `edge-osbuild seed --sign`"
    status = seed_status(node)
    assert status["source"] == "EFI system partition"
    (error,) = status["errors"]
    assert error.startswith("seed on medium /dev/") and error.endswith(f"refused: {refused}")
    assert f"edge-osbuild: seed error: {error}" in booted.console.text
    assert f"seed error: {error}" in node.run("edge-agent status")
    # Root on the running node is trusted. The file is mounted only while it is read.
    node.guest.put(make_iso(render_seed_of(profile, "applied", key).with_sums()), "/tmp/new.iso")
    assert "it is applied at the next boot" in node.run("edge-agent seed apply /tmp/new.iso")
    assert "new.iso" not in node.run("losetup --list; findmnt --list")
    booted.power_cut()

    untrusted = signed_by_command(profile, "stranger", key, versions.strange_keys.folder, tmp_path / "strange.iso")
    medium.write_bytes(untrusted)
    booted.boot_again()
    assert hostname(node) == "applied", "a power cut keeps what was applied, and it replaces the seed on the disk"
    status = seed_status(node)
    assert status["source"] == "stored"
    (error,) = status["errors"]
    assert "refused: the signature is not valid: " in error
    assert f"edge-osbuild: seed error: {error}" in booted.console.text
    booted.power_cut()

    second_medium.write_bytes(signed_by_command(profile, "signed", key, versions.keys.folder, tmp_path / "signed.iso"))
    booted.boot_again()
    assert hostname(node) == "signed", "a refused medium does not hide a good one"
    status = seed_status(node)
    assert status["source"].startswith("medium /dev/")
    assert len(status["errors"]) == 1
    booted.power_cut()

    second_medium.write_bytes(EMPTY)
    booted.boot_again()
    assert (hostname(node), seed_status(node)["source"]) == ("signed", "stored")


def test_by_default_a_medium_is_read_only_until_the_node_has_a_seed(
    machine: MachineFactory, board: Board, image: Callable[[str], Path], key: KeyPair, media: tuple[Path, Path]
) -> None:
    medium, _ = media
    make_seed("minimal", "first", key, medium)
    booted = machine(MachineConfig(board=board, image=image("minimal") / "disk.img", memory=MEMORY, media=media))
    node = Node(booted, booted.guest(USER, key))
    assert hostname(node) == "first"
    assert seed_status(node)["source"].startswith("medium /dev/")
    booted.power_cut()

    make_seed("minimal", "second", key, medium)
    booted.boot_again()
    assert hostname(node) == "first"
    status = seed_status(node)
    assert (status["source"], status["errors"], status["warnings"]) == ("stored", [], [])
    (note,) = status["notes"]
    assert note.startswith("medium /dev/") and "was not read, because this node has a seed" in note
    assert note in node.run("edge-agent status")
    _, hint, _ = note.split("`")
    node.guest.run(hint)
    booted.power_cut()

    booted.boot_again()
    assert (hostname(node), seed_status(node)["source"]) == ("second", "stored")
