"""Bundles installed by the real RAUC service, with this project's configuration, into slots on a real disk."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import LOGS
from support import updatable
from support.nodes import LOGS_FOLDER
from support.updatable import run_in_shell

from osbuild.bundle import pack, signing, source
from osbuild.config.board import load_board
from osbuild.host.cache import Cache
from osbuild.image.rauc_config import render_system_conf
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.key_folder import KeyFolder
from osbuild.qemu.acceleration import choose_accelerator
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.sandbox.bundle_tools import bundle_tools
from tests.support.builds import hash_tree, make_build, random_blocks

pytestmark = pytest.mark.slow  # 2 to 3 minutes, and an image and two trees of its own

CACHE = Cache()
BLOCKS = 1000
ROOT, KERNEL = random_blocks("root", BLOCKS), random_blocks("kernel", 300)
NEWER = random_blocks("newer", 50)
NEXT = random_blocks("new", 10) + ROOT[: 900 * 4096] + NEWER + ROOT[900 * 4096 :]
BOOT = 90.0


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def root_options(root: bytes) -> dict[str, Any]:
    """Return options of `make_build` for a root with a real hash tree, from which the hook makes indexes."""
    tree, roothash = hash_tree(root)
    return {"root": root, "tree": tree, "metadata": {"board": "test", "roothash": roothash}}


@dataclass(frozen=True)
class BundleSite:
    """Builds and bundles of two versions, and bundles that must be refused."""

    folder: Path
    keys: KeyFolder

    def build(self, name: str) -> Path:
        return self.folder / f"build-{name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> BundleSite:
    """The folder `bundles` has the contents of /bundles in the machine."""
    folder = tmp_path_factory.mktemp("site")
    out, tools = folder / "bundles", bundle_tools(CACHE)
    out.mkdir()
    keys = authority.create_keys(folder / "keys", "Example", PrivateKeyAccess())
    stranger = authority.create_keys(folder / "stranger", "Stranger", PrivateKeyAccess())
    board = {"board": "test"}
    builds = (
        ("one", keys, {"version": "1.0.0", "kernel": KERNEL, **root_options(ROOT)}),
        ("two", keys, {"version": "1.1.0", "kernel": KERNEL, **root_options(NEXT)}),
        ("older", keys, {"version": "0.9.9", "metadata": board}),
        ("stranger", stranger, {"version": "1.2.0", "metadata": board}),
        ("board", keys, {"version": "1.2.0", "metadata": {"board": "other"}}),
    )
    for name, signer, options in builds:
        build = make_build(folder / f"build-{name}", **options)
        pack.make_bundle(source.read_build(build), out / f"{name}.raucb", signing.prepare_signing(signer, tools), CACHE)
    rotated = authority.rotate_signer(keys.folder, PrivateKeyAccess())
    revoked_build = source.read_build(make_build(folder / "build-revoked", version="1.2.0", metadata=board))
    pack.make_bundle(revoked_build, out / "revoked.raucb", signing.prepare_signing(rotated, tools), CACHE)
    authority.revoke_key(keys.folder, "signer-2", PrivateKeyAccess(), reason="compromised")
    intact = (out / "two.raucb").read_bytes()
    (out / "cut.raucb").write_bytes(intact[: len(intact) // 2])
    flipped = bytearray(intact)
    flipped[2_000_000] ^= 1
    (out / "flipped.raucb").write_bytes(flipped)
    late = bytearray(intact)
    late[intact.index(NEWER[40 * 4096 : 41 * 4096])] ^= 1
    (out / "late.raucb").write_bytes(late)
    (out / "none.raucb").write_bytes(b"no bundle at all" * 1000)
    (out / "keyring.pem").write_bytes(keys.keyring())
    conf = render_system_conf("edge-osbuild-tiny-test", boot="/efi", minimum_version="1.0.0")
    (out / "system.conf").write_text(conf)
    (out / "nofloor.conf").write_text(conf.replace("min-bundle-version=1.0.0\n", ""))
    return BundleSite(folder, keys)


@pytest.fixture
def device(request: pytest.FixtureRequest, site: BundleSite, tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs slot A; slot B has an older boot entry. RAUC's service is not started yet.

    It is always an x86_64 machine, because installing a bundle does not depend on the board.
    """
    kernel, disk = updatable.make_guest(CACHE)
    system, board = updatable.guest_tools(CACHE), load_board("x86_64")
    updatable.make_slot_disk(system, tmp_path / "slots.img")
    updatable.make_ext4(system, site.folder / "bundles", tmp_path / "bundles.img", 64 * 2**20)
    config = MachineConfig(
        board=board, image=disk, disks=(tmp_path / "slots.img", tmp_path / "bundles.img"), direct=kernel,
        memory=512 * 2**20, network=None,
    )  # fmt: skip
    log = LOGS_FOLDER / f"{request.node.name}.log"
    request.node.stash.setdefault(LOGS, []).append(log)
    qemu = find_emulator(board.architecture)
    accelerator = choose_accelerator(board, wrap=qemu.wrap, root=qemu.root)
    with Machine(config, log=log, emulator=qemu, accelerator=accelerator) as machine:
        machine.console.wait_for("READY", BOOT)
        run_ok(machine, "mkdir -p /usr/lib/rauc && cp /bundles/system.conf /bundles/keyring.pem /usr/lib/rauc/")
        run_ok(machine, "cd /efi/EFI/Linux && echo running > edge-1-a.efi && echo old > edge-2-b.efi")
        yield machine


def run_ok(machine: Machine, line: str, timeout: float = 120.0) -> str:
    status, output = run_in_shell(machine, line, timeout)
    assert status == 0, f"{line}: {output}"
    return output


def start_rauc_service(machine: Machine, slot: str) -> None:
    """(Re)start RAUC's service as in a system that booted from `slot`."""
    run_ok(machine, "if p=$(cat /run/rauc.pid); then kill $p; while kill -0 $p; do sleep 0.2; done; fi 2>/dev/null")
    run_ok(machine, f"(rauc --override-boot-slot={slot} service > /run/rauc.log 2>&1 & echo $! > /run/rauc.pid)")
    run_ok(machine, "for i in $(seq 20); do rauc status > /dev/null 2>&1 && break; sleep 0.5; done")
    run_ok(machine, "rauc status > /dev/null || { cat /run/rauc.log; false; }")


def slot_digest(machine: Machine, partition: str, size: int) -> str:
    """Return the sha256 of the first `size` bytes of a partition on the disk, not in the page cache."""
    run_ok(machine, "sync; echo 3 > /proc/sys/vm/drop_caches")
    return run_ok(machine, f"head -c {size} /dev/edge/{partition} | sha256sum").split()[0]


def assert_slot_holds(machine: Machine, slot: str, build: Path) -> None:
    """Assert that the slot has exactly the files of the build, and that its boot image is staged."""
    for partition, name in ((f"root-{slot}", "root.erofs"), (f"root-{slot}-verity", "root.verity")):
        data = (build / name).read_bytes()
        assert slot_digest(machine, partition, len(data)) == digest(data), partition
    staged = run_ok(machine, f"sha256sum /efi/EFI/Linux/edge-{slot}.efi.staged").split()[0]
    assert staged == digest((build / f"edge-{slot}.efi").read_bytes())


def test_one_bundle_installs_into_either_slot_and_the_switch_is_last(device: Machine, site: BundleSite) -> None:
    start_rauc_service(device, "a")
    run_ok(device, "rauc install /bundles/one.raucb")
    assert_slot_holds(device, "b", site.build("one"))
    assert run_ok(device, "ls /efi/EFI/Linux").split() == ["edge-1-a.efi", "edge-b.efi.staged"]
    calls = run_ok(device, "grep set- /run/loader/log").splitlines()
    assert calls[0] == "set-state b bad"
    assert calls[-1] == "set-state b bad", "the slot is not switched to yet"
    run_ok(device, "rauc status mark-active other")
    assert run_ok(device, "tail -n 1 /run/loader/log") == "set-primary b"
    assert not [line for line in calls if " a" in line], "nothing is done to the slot that runs"
    run_ok(device, "grep 'edge-b.efi: 301 blocks, 301 of them from the bundle' /run/rauc.log")

    run_ok(device, "cd /efi/EFI/Linux && mv edge-b.efi.staged edge-2-b+3.efi")
    start_rauc_service(device, "b")
    run_ok(device, "rauc install /bundles/two.raucb")
    assert_slot_holds(device, "a", site.build("two"))
    assert run_ok(device, "cat /run/loader/primary /run/loader/state-a").split() == ["b", "bad"]
    assert run_ok(device, "ls /efi/EFI/Linux").split() == ["edge-2-b+3.efi", "edge-a.efi.staged"]
    # Adaptive: only the kernel command line and the new blocks of the root are read from the bundle.
    run_ok(device, "grep 'edge-a.efi: 301 blocks, 1 of them from the bundle' /run/rauc.log")
    run_ok(device, "grep 'source_image: count=60 ' /run/rauc.log")


def test_blocks_written_before_an_interruption_are_not_read_again(device: Machine, site: BundleSite) -> None:
    """For an empty slot, and for a slot with a version that RAUC knows. A damaged block interrupts the installation."""
    start_rauc_service(device, "a")
    run_ok(device, "rm -rf /var/lib/rauc/*")
    for before in (None, "one"):
        if before:
            run_ok(device, f"rauc install /bundles/{before}.raucb")
            assert_slot_holds(device, "b", site.build(before))
        assert run_in_shell(device, "rauc install /bundles/late.raucb")[0] != 0
        start_rauc_service(device, "a")  # starts a new log
        run_ok(device, "rauc install /bundles/two.raucb")
        assert_slot_holds(device, "b", site.build("two"))
        log = run_ok(device, "grep -e source_image -e 'index for target_slot' -e 'of this root' /run/rauc.log")
        match = re.search(r"source_image: count=(\d+)", log)
        assert match and int(match[1]) <= 1060 - 949 + 32, log  # up to the damage, with read-ahead
        assert "Building new hash index for target_slot with 2048 chunks" not in log, "a whole partition was read"
        assert f"index of this root: {0 if before is None else BLOCKS} blocks known, 949 of 1060" in log


REFUSED = {
    "older": "Version mismatch",
    "stranger": "unable to get local issuer certificate",
    "revoked": "certificate revoked",
    "board": "ompatible",
    "cut": "ignature|bundle",
    "none": "ignature|bundle",
}


def test_bad_bundles_are_refused_before_a_slot_is_touched(device: Machine, site: BundleSite) -> None:
    start_rauc_service(device, "a")
    before = [slot_digest(device, partition, 2**20) for partition in ("root-a", "root-b", "root-b-verity")]
    run_ok(device, "echo -n > /run/loader/log")
    for name, reason in REFUSED.items():
        status, output = run_in_shell(device, f"rauc install /bundles/{name}.raucb")
        assert status != 0, name
        assert re.search(reason, output), f"{name}: {output}"
    assert run_in_shell(device, "grep set- /run/loader/log") == (1, ""), "the boot loader was not asked for anything"
    assert run_ok(device, "cat /efi/EFI/Linux/edge-2-b.efi") == "old"
    assert [slot_digest(device, partition, 2**20) for partition in ("root-a", "root-b", "root-b-verity")] == before

    # A flipped bit in the middle is detected when it is read: after the slot was touched, but before the switch.
    status, output = run_in_shell(device, "rauc install /bundles/flipped.raucb")
    assert status != 0, output
    assert run_ok(device, "cat /run/loader/primary /run/loader/state-b").split() == ["a", "bad"]
    assert run_in_shell(device, "ls /efi/EFI/Linux | grep -x 'edge-.*b.*efi'")[0] == 1, "nothing can boot the slot"
    assert slot_digest(device, "root-a", 2**20) == before[0]

    # Without a minimum version, as for a permitted downgrade, an older version installs over the failed one.
    run_ok(device, "cp /bundles/nofloor.conf /usr/lib/rauc/system.conf")
    start_rauc_service(device, "a")
    run_ok(device, "rauc install /bundles/older.raucb")
    assert_slot_holds(device, "b", site.build("older"))
