"""KVM, if a guest has really run with it; else QEMU's own translator with a thread for each processor."""

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
    """What executes the guest's instructions: `name` is kvm or tcg; `cpu` the processor that the guest sees.

    An empty `cpu` is the only one that the machine can have. Without `parallel` one thread takes the guest's processors
    in turns. So it is where their number is fixed: on the Pis those that wait to be started spin, and with a thread for
    each they take the time of the one that works (U-Boot reads a card at 0.4 MB/s then, and at several MB/s in turns).
    """

    name: str
    cpu: str
    parallel: bool = True

    @property
    def arguments(self) -> list[str]:
        """Options of QEMU. tb-size, in MiB, holds the translated code: a whole Kubernetes node does not fit in less."""
        translator = f"tcg,thread={'multi' if self.parallel else 'single'},tb-size=512"
        words = ["-accel", "kvm" if self.name == "kvm" else translator]
        return [*words, "-cpu", self.cpu] if self.cpu else words


def choose_accelerator(
    board: Board,
    wanted: str = "auto",
    *,
    wrap: Wrap = run_directly,
    root: Path = Path("/"),
    cache: Cache | None = None,
) -> Accelerator:
    """The accelerator for a guest on `board`.

    `wanted` is auto, kvm or tcg. With auto, KVM is taken only after the firmware has come up in it; the verdict is
    kept in `cache` until the host boots again or has another QEMU. `wrap` and `root` as in `Machine`.
    """
    if wanted not in CHOICES:
        raise UsageError(f"no accelerator is called {wanted}", hint="one of " + ", ".join(CHOICES))
    tcg = Accelerator("tcg", board.qemu.cpu, parallel=board.qemu.cpus is None)
    kvm = Accelerator("kvm", "host")
    if wanted == "tcg":
        return tcg
    reason = _obstacle(board)
    if wanted == "kvm":
        if reason:
            raise Error(f"KVM cannot run this guest: {reason}", hint="use --accel tcg")
        return kvm
    if reason is None:
        reason = _verdict(board, wrap, root, cache or Cache())
    if reason is None:
        return kvm
    log.debug(f"no KVM: {reason}")
    return tcg


def _obstacle(board: Board) -> str | None:
    if board.architecture is not Architecture.native():
        return f"this host is {Architecture.native()}, the guest {board.architecture}"
    if not board.qemu.cpu:
        return f"the machine {board.qemu.machine} has a processor of its own"
    if not KVM.exists():
        return f"there is no {KVM}"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return f"{KVM} may not be opened by this user"
    return None


def _verdict(board: Board, wrap: Wrap, root: Path, cache: Cache) -> str | None:
    """None if KVM works, else what happened."""
    program = f"qemu-system-{board.architecture.to_qemu()}"
    version = run_command(wrap([program, "--version"], []))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()

    def make(path: Path) -> None:
        with log.step("trying whether a guest runs in KVM"):
            path.write_text(probe_kvm(probe_command(board, root), wrap) or "")

    return cache.get_or_make("kvm", content_key(boot, version, board.qemu.machine), make).read_text() or None


def probe_command(board: Board, root: Path) -> list[str]:
    """A machine of two processors with the firmware and nothing else."""
    flash = f"if=pflash,format=raw,readonly=on,file={find_firmware(board.architecture, root).code}"
    return [
        *(f"qemu-system-{board.architecture.to_qemu()}", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", board.qemu.machine, "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "256"),
        *("-drive", flash),
    ]


def probe_kvm(command: Sequence[str], wrap: Wrap, seconds: float = PROBE_SECONDS) -> str | None:
    """None if the firmware in `command` comes up within `seconds`, else what happened.

    It has come up when it looks for something to boot: by then it has been through every mode of the processor.
    """
    guarded = Guarded(Path("/var/tmp"))
    try:
        serial = guarded.folder / "serial.log"
        guarded.start(wrap([*command, "-serial", f"file:{serial}"], [guarded.folder, KVM]))
        console, deadline = Console(serial), Deadline(seconds)
        while "BdsDxe" not in console.text:
            if (status := guarded.status()) is not None:
                said = guarded.logfile.read_text(errors="replace").strip()
                return f"QEMU ended with status {status}: {said}"
            if deadline.passed:
                return f"the guest's firmware was not up after {seconds:g} s"
            deadline.pause()
        return None
    finally:
        guarded.close()
