"""The QEMU driver's support for tests of failures: logs of writes, failing sectors, starts from a saved state."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.machines import MachineFactory
from support.updatable import run_in_shell
from support.write_log import Flag, WriteLog, position

from osbuild.config.board import Board
from osbuild.qemu.config import DirectKernel, MachineConfig
from osbuild.qemu.machine import Machine

pytestmark = pytest.mark.slow

BOOT = 60.0
READ = "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=4096 skip=2 count=1 2>/dev/null | head -n 1"


@pytest.fixture
def boot_kernel(machine: MachineFactory, board: Board, kernel: DirectKernel) -> Callable[[MachineConfig], Machine]:
    """Boots a kernel with a shell."""

    def boot(config: MachineConfig) -> Machine:
        guest = machine(replace(config, board=board, memory=256 * 2**20, direct=kernel, network=None))
        guest.console.wait_for("READY", BOOT)
        return guest

    return boot


def run(machine: Machine, line: str) -> str:
    """Run a line in the guest's shell, which must succeed, and return its output."""
    status, output = run_in_shell(machine, line)
    assert status == 0, output
    return output


def write_block(word: str, block: int, how: str = "conv=fsync,notrunc") -> str:
    return f"echo {word} | dd of=/dev/vda bs=4096 seek={block} {how} 2>/dev/null"


def test_a_machine_continues_from_the_saved_state_after_every_power_cut(
    boot_kernel: Callable[[MachineConfig], Machine], disk: Path
) -> None:
    guest = boot_kernel(MachineConfig(image=disk))
    run(guest, f"word=before; {write_block('before', 2)}")
    guest.save("one")
    for word in ("first", "second"):
        run(guest, f"word={word}; {write_block(word, 2)}")
        guest.power_cut()
        guest.boot_again("one")
        assert run(guest, f"echo $word; {READ}").split() == ["before", "before"]


def test_every_write_is_in_the_log_before_the_flush_that_follows_it(
    boot_kernel: Callable[[MachineConfig], Machine], disk: Path, tmp_path: Path
) -> None:
    log = tmp_path / "writes.log"
    guest = boot_kernel(MachineConfig(image=disk, write_log=log))
    run(guest, f"exec 3</dev/vda; {write_block('one', 2)}")
    run(guest, write_block("two", 4, "conv=notrunc,sync oflag=direct"))
    entries = position(log)
    guest.power_cut()
    guest.boot_again()
    guest.console.wait_for("READY", BOOT)
    run(guest, write_block("three", 6))
    guest.power_cut()
    with WriteLog(log) as write_log:
        flushes = [entry.number for entry in write_log.entries() if entry.flags & Flag.FLUSH]
        writes = [entry for entry in write_log.entries() if entry.size]
        contents = [(entry.offset, write_log.data(entry, 0, 5).rstrip(b"\n\0")) for entry in writes]
    assert contents == [(8192, b"one"), (16384, b"two"), (24576, b"three")]
    first, second, third = (entry.number for entry in writes)
    assert any(first < number < second for number in flushes)
    assert second < entries <= third, "the log of a machine that is cut off is complete, and continues after it"
    assert any(third < number for number in flushes)


def test_sectors_fail_and_are_repaired_while_the_machine_runs(
    boot_kernel: Callable[[MachineConfig], Machine], disk: Path
) -> None:
    guest = boot_kernel(MachineConfig(disks=(disk,)))
    run(guest, "echo 1 >/proc/sys/kernel/printk")  # the kernel reports errors on this console too

    def writes(*blocks: int) -> list[str]:
        line = "dd if=/dev/zero of=/dev/vda bs=4096 seek={} count=1 conv=notrunc oflag=direct 2>/dev/null; echo $?"
        return [run(guest, line.format(block)) for block in blocks]

    guest.break_sectors([2**20 + 512], kinds=["write"])
    assert writes(255, 256, 257) == ["0", "1", "0"]
    assert run(guest, "dd if=/dev/vda of=/dev/null bs=4096 skip=256 count=1 iflag=direct 2>/dev/null; echo $?") == "0"
    guest.break_sectors([2**20 + 4096])
    assert writes(256, 257) == ["0", "1"]
    guest.mend_sectors()
    assert writes(256, 257) == ["0", "0"]
