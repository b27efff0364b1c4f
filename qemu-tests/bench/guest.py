"""A booted image, and the offset between its clock and the host's."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.site import NODE, BenchSite
from osbuild.config.board import Board, load_board
from osbuild.host import log
from osbuild.inputs.build_manifest import DISK
from osbuild.qemu.acceleration import choose_accelerator
from osbuild.qemu.config import MachineConfig, MachineNetwork
from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.qemu.emulator import find_emulator
from osbuild.qemu.machine import Machine
from osbuild.qemu.serial import strip_controls
from osbuild.qemu.ssh import Guest
from osbuild.shared.errors import Error

COMPLETE = "boot-complete.target"
BOOT_SECONDS = 900.0
SAMPLES = 8
VERDICT = r"edge-osbuild: boot (complete|failed)[^\n]*\n"  # edge-health.service, on the console
# EDK2's boot device selection hands over to the boot loader, U-Boot to the kernel.
FIRMWARE_DONE = re.compile(r"BdsDxe: starting Boot|Starting kernel \.\.\.")


@dataclass
class ConsoleWatch:
    """Watches the console for the end of the firmware: `handed_over`, in seconds since 1970 by the host's clock."""

    handed_over: float | None = None
    _text: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, data: bytes) -> None:
        """Called in the thread that reads the console."""
        with self._lock:
            if self.handed_over is None:
                self._text = (self._text + data.decode(errors="replace"))[-4096:]
                if FIRMWARE_DONE.search(strip_controls(self._text)):
                    self.handed_over = time.time()


@dataclass
class Booted:
    """A machine whose image has been powered on."""

    machine: Machine
    guest: Guest
    watch: ConsoleWatch

    def wait_complete(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the boot is complete. Raises `Error`."""
        deadline = Deadline(seconds)
        # No login before the verdict is on the console: a login takes time from the guest.
        verdict = self.machine.console.wait_for(VERDICT, seconds)
        if verdict[1] != "complete":
            raise Error(verdict[0].strip(), hint=f"the whole log is in {self.machine.console.path}")
        self.guest.wait_ready(deadline.remaining)
        while self.guest.run(["systemctl", "is-active", "--quiet", COMPLETE], check=False).status:
            if deadline.passed:
                raise TimedOut(f"{COMPLETE} was not reached within {seconds:g} s")
            deadline.pause(1)

    def complete(self) -> float:
        """Return seconds from power-on to boot-complete.target, by the guest's clock. Raises `Error` if not reached."""
        timestamp = self.guest.run(
            ["systemctl", "show", "--value", "-p", "ActiveEnterTimestampMonotonic", COMPLETE]
        ).stdout
        if not int(timestamp or 0):
            raise Error(f"{COMPLETE} was never reached")
        zero, _ = self.kernel_start()
        return zero + int(timestamp) / 1e6 - self.power_on()

    def power_on(self) -> float:
        """Return when the machine began to run (QEMU's event RESUME), in seconds since 1970 by the host's clock."""
        for event in self.machine.events:
            if event["event"] == "RESUME":
                stamp = event["timestamp"]
                return float(stamp["seconds"]) + float(stamp["microseconds"]) / 1e6
        raise Error("QEMU did not report when the machine began to run")

    def kernel_start(self) -> tuple[float, float]:
        """Return when the guest's monotonic clock was 0, in seconds since 1970 by the host's clock, and its error."""
        answers = []
        for _ in range(SAMPLES):
            before = time.time()
            uptime = float(self.guest.run(["cat", "/proc/uptime"]).stdout.split()[0])
            after = time.time()
            answers.append(((after - before) / 2, (before + after) / 2 - uptime))
        uncertain, zero = min(answers)
        return zero, uncertain

    def again(self) -> None:
        """Shut the guest down and power it on again."""
        self.guest.run("sudo systemctl poweroff", check=False)
        self.machine.wait_off(180)
        self.machine.boot_again()
        self.watch = ConsoleWatch()
        self.machine.line.listen(self.watch.hear)


@contextmanager
def boot_image(
    site: BenchSite, profile: Path, memory: int | None, *, board: Board | None = None, extra: tuple[str, ...] = ()
) -> Iterator[Booted]:
    """Boot the image of `profile` for the first time, under TCG even if the host has KVM, without outgoing network.

    `board` is the board it was built for, by default that of the architecture; `memory` is in bytes, None for the
    board's own; `extra` are further arguments of QEMU. The console's log is stored in the site's results.
    """
    manifest = site.manifest(profile, board.name if board else None)
    folder = site.folder_of(profile, board.name if board else None)
    board = board or load_board(manifest.architecture)
    seed, _ = site.seed(profile)
    config = MachineConfig(
        board=board,
        image=folder / DISK,
        memory=memory,
        media=(seed,),
        network=MachineNetwork(restrict=True),
        extra=extra,
    )
    with power_on(site, config, manifest.name) as machine:
        yield machine


@contextmanager
def power_on(site: BenchSite, config: MachineConfig, name: str) -> Iterator[Booted]:
    """Boot a machine for the first time, under TCG even if the host has KVM. `name` is for the console's log."""
    board = config.board
    qemu = find_emulator(board.architecture, site.cache)
    accelerator = choose_accelerator(board, "tcg")
    console = site.results / f"bench-{name}-{board.name}.log"
    with log.step(f"booting {name} on {board.name}"):
        with Machine(config, log=console, emulator=qemu, accelerator=accelerator) as machine:
            watch = ConsoleWatch()
            machine.line.listen(watch.hear)
            yield Booted(machine, machine.guest(NODE, site.key()), watch)
