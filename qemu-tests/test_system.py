"""What every image must do, on the smallest one: identities from seeds, damage that is found, boots that fail."""

import re
from collections.abc import Callable
from pathlib import Path

from conftest import MachineFactory
from nodes import COMPLETE, USER, Node, make_seed

from osbuild import gpt
from osbuild.cache import Cache
from osbuild.inspect import inspect
from osbuild.lock import read
from osbuild.profile.load import find, load
from osbuild.qemu.config import MachineConfig
from osbuild.qemu.ssh import KeyPair
from osbuild.run import run
from osbuild.tools import tree

MEMORY = 1024 * 2**20


def copied(source: Path, target: Path) -> Path:
    """A sparse copy of a disk image, to be damaged."""
    run(["cp", "--sparse=always", source, target])
    return target


def extent(image: Path, path: str) -> int:
    """Offset in bytes, in the erofs `image`, of the first block of a file's data (dump.erofs(1))."""
    loaded = load(find("minimal"))
    lock = read(loaded, loaded.profile.architecture)
    assert lock is not None, "the image was built, so there is a lock"
    text = tree(Cache(), lock.finish_tools).run(["dump.erofs", f"--path={path}", "-e", image], [image])
    first = re.search(r"^\s*0:.*?\|\s*\d+\s*:\s*(\d+)\.\.", text, re.MULTILINE)
    assert first, text
    return int(first[1])


def flip(disk: Path, image: Path, path: str) -> None:
    """Flip one bit of one byte in the middle of a file's first block, in slot A of `disk`."""
    slot = next(part for part in gpt.read(disk).partitions if part.name == "root-a")
    with disk.open("r+b") as file:
        file.seek(slot.offset + extent(image, path) + 1024)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))


def entries(disk: Path) -> list[str]:
    """Names of the boot entries on a disk image."""
    return [Path(entry.path).name for entry in inspect(disk).entries]


def boot(machine: MachineFactory, disk: Path, seed: Path, key: KeyPair, *, persist: Path | None = None) -> Node:
    made = machine(MachineConfig(image=disk, memory=MEMORY, media=(seed,), persist=persist))
    return Node(made, made.guest(USER, key))


def test_two_seeds_make_two_nodes_of_one_image(
    machine: MachineFactory, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    found = {}
    for name in ("first", "second"):
        node = boot(
            machine, image("minimal") / "disk.img", make_seed("minimal", name, key, tmp_path / f"{name}.iso"), key
        )
        node.wait_complete()
        node.guest.wait_ready(60)
        host_key = node.run("cat /var/lib/edge-osbuild/identity/ssh/ssh_host_ed25519_key.pub").split()[1]
        found[name] = (node.run("hostname").strip(), node.run("cat /etc/machine-id").strip(), host_key)
        assert node.status()["health"]["healthy"] is True
        node.machine.power_cut()
    first, second = found["first"], found["second"]
    assert (first[0], second[0]) == ("first", "second")
    assert first[1] != second[1] and first[2] != second[2]


def test_a_flipped_byte_in_a_program_is_found_by_verity_and_never_executed(
    machine: MachineFactory, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    disk = copied(image("minimal") / "disk.img", tmp_path / "disk.img")
    flip(disk, image("minimal") / "root.erofs", "/usr/bin/less")
    node = boot(machine, disk, make_seed("minimal", "damaged", key, tmp_path / "seed.iso"), key)
    node.wait_complete()
    node.guest.wait_ready(60)
    said = node.fails("less --version")
    assert "less 6" not in said and "GNU" not in said
    assert "data block" in node.run("dmesg | grep -i verity") and "corrupted" in node.run("dmesg | grep -i verity")


def test_a_slot_that_cannot_start_uses_up_its_tries(
    machine: MachineFactory, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    disk = copied(image("minimal") / "disk.img", tmp_path / "disk.img")
    flip(disk, image("minimal") / "root.erofs", "/usr/lib/systemd/systemd")
    assert entries(disk) == ["edge-a+3.efi"]
    made = machine(MachineConfig(memory=MEMORY, disks=(disk,)))
    made.console.wait_for(r"corrupted|Kernel panic|not syncing", 180, through_panic=True)
    assert not made.console.text.count("boot complete")
    made.wait_for_event("RESET", 120)
    made.console.skip()
    made.console.wait_for(r"corrupted|Kernel panic|not syncing", 180, through_panic=True)
    made.power_cut()
    assert entries(disk) == ["edge-a+1-2.efi"], "two boots failed"


def test_a_boot_that_is_not_healthy_falls_back_a_try(
    machine: MachineFactory, image: Callable[[str], Path], key: KeyPair, tmp_path: Path
) -> None:
    check = {
        "path": "/etc/edge-osbuild/health.d/99-bad",
        "permissions": "0755",
        "content": "#!/bin/sh\necho no till; exit 1\n",
    }
    seed = make_seed("minimal", "unhealthy", key, tmp_path / "seed.iso", more={"write_files": [check]})
    node = boot(machine, image("minimal") / "disk.img", seed, key)
    node.guest.wait_ready(300)
    node.until("systemctl is-active multi-user.target", 120)
    assert node.run("ls /efi/EFI/Linux").split() == ["edge-a+2-1.efi"]
    status = node.status()
    assert status["health"]["healthy"] is False
    assert {c["name"]: c["output"] for c in status["health"]["checks"] if not c["ok"]} == {"99-bad": "no till"}
    assert COMPLETE not in node.machine.console.text
    node.machine.console.skip()
    node.guest.run("sudo systemd-run --no-block edge-agent health --boot --deadline 0", check=False)
    node.machine.wait_for_event("RESET", 120)
    node.guest.disconnect()
    node.guest.wait_ready(300)
    assert node.run("ls /efi/EFI/Linux").split() == ["edge-a+1-2.efi"]
