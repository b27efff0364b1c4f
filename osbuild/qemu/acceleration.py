"""Chooses KVM if a guest has run with it, else QEMU's own translator (TCG)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osbuild.config.board import Board
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.host.run import run_command
from osbuild.qemu.config import Wrap, run_directly
from osbuild.qemu.deadline import Deadline
from osbuild.qemu.firmware import find_firmware
from osbuild.qemu.process import Guarded
from osbuild.qemu.serial import Console
from osbuild.shared.errors import Error, UsageError

KVM = Path("/dev/kvm")
PROBE_SECONDS = 15.0
CHOICES = ("auto", "kvm", "tcg")


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions are executed. `name` is kvm or tcg; `cpu` is the guest's processor model.

    `cpu` is empty if the machine supports only one. Without `parallel`, one thread runs all processors in turn.
    """

    # `parallel` is off for boards with a fixed number of processors. On Raspberry Pis, processors that are not started
    # yet spin, and with a thread for each they take time from the working one: U-Boot then reads an SD card at 0.4 MB/s
    # instead of several MB/s.

    name: str
    cpu: str
    parallel: bool = True

    @property
    def arguments(self) -> list[str]:
        """QEMU's options. tb-size is the cache of translated code in MiB; a Kubernetes node needs this much."""
        translator = f"tcg,thread={'multi' if self.parallel else 'single'},tb-size=512"
        options = ["-accel", "kvm" if self.name == "kvm" else translator]
        return [*options, "-cpu", self.cpu] if self.cpu else options


def choose_accelerator(
    board: Board,
    requested: str = "auto",
    *,
    wrap: Wrap = run_directly,
    root: Path = Path("/"),
    cache: Cache | None = None,
) -> Accelerator:
    """Return the accelerator for a guest on `board`. Raises `UsageError` and `Error`.

    `requested` is auto, kvm or tcg. With auto, KVM is used only if the firmware has started in it; the result is cached
    until the host reboots or QEMU changes. `wrap` and `root` are as for `Machine`.
    """
    if requested not in CHOICES:
        raise UsageError(f"there is no accelerator {requested}", hint="use one of " + ", ".join(CHOICES))
    tcg = Accelerator("tcg", board.qemu.cpu, parallel=board.qemu.cpus is None)
    kvm = Accelerator("kvm", "host")
    if requested == "tcg":
        return tcg
    reason = _obstacle(board)
    if requested == "kvm":
        if reason:
            raise Error(f"KVM cannot run this guest: {reason}", hint="use --accel tcg")
        return kvm
    if reason is None:
        reason = _kvm_problem(board, wrap, root, cache or Cache())
    if reason is None:
        return kvm
    log.debug(f"no KVM: {reason}")
    return tcg


def _obstacle(board: Board) -> str | None:
    if board.architecture is not Architecture.native():
        return f"this host is {Architecture.native()}, the guest {board.architecture}"
    if not board.qemu.cpu:
        return f"the machine {board.qemu.machine} has a fixed processor model"
    if not KVM.exists():
        return f"{KVM} does not exist"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return f"this user has no permission to open {KVM}"
    return None


def _kvm_problem(board: Board, wrap: Wrap, root: Path, cache: Cache) -> str | None:
    """Return why KVM does not work; None if it works."""
    program = f"qemu-system-{board.architecture.to_qemu()}"
    version = run_command(wrap([program, "--version"], []))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()

    def make(path: Path) -> None:
        with log.step("testing whether a guest runs in KVM"):
            path.write_text(probe_kvm(probe_command(board, root), wrap) or "")

    return cache.get_or_make("kvm", content_key(boot, version, board.qemu.machine), make).read_text() or None


def probe_command(board: Board, root: Path) -> list[str]:
    """Return the command for a machine with two processors and only the firmware."""
    flash = f"if=pflash,format=raw,readonly=on,file={find_firmware(board.architecture, root).code}"
    return [
        *(f"qemu-system-{board.architecture.to_qemu()}", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", board.qemu.machine, "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "256"),
        *("-drive", flash),
    ]


def probe_kvm(command: Sequence[str], wrap: Wrap, seconds: float = PROBE_SECONDS) -> str | None:
    """Return why the firmware in `command` has not started within `seconds`; None if it has started.

    Firmware that looks for a boot device has started: it has used every mode of the processor by then.
    """
    guarded = Guarded(Path("/var/tmp"))
    try:
        serial = guarded.folder / "serial.log"
        guarded.start(wrap([*command, "-serial", f"file:{serial}"], [guarded.folder, KVM]))
        console, deadline = Console(serial), Deadline(seconds)
        while "BdsDxe" not in console.text:
            if (status := guarded.status()) is not None:
                output = guarded.logfile.read_text(errors="replace").strip()
                return f"QEMU ended with status {status}: {output}"
            if deadline.passed:
                return f"the guest's firmware has not started within {seconds:g} s"
            deadline.pause()
        return None
    finally:
        guarded.close()
