"""The time from power-on to a complete boot, on every board that QEMU emulates."""

from bench.figure import Figure, Measured
from bench.guest import boot_image
from bench.site import BenchSite
from osbuild.config.board import Board, load_board, shipped_boards
from osbuild.host import log
from osbuild.shared.errors import Error

PROFILE = "minimal"
MEANING = (
    f"The first boot of {PROFILE} under TCG, one board after the other, with the memory and processors of QEMU's "
    "machine or with 2 GiB and 2 processors. Power-on is QEMU's event RESUME. The boot ends with boot-complete.target, "
    "by the guest's monotonic clock. The firmware ends when it starts the boot loader (UEFI) or the kernel (U-Boot)."
)


def measure(site: BenchSite) -> Measured:
    """Build and boot the image for each board in turn. A note lists each board that was not measured, and why."""
    figures: list[Figure] = []
    notes: list[str] = []
    for board in map(load_board, shipped_boards()):
        if not board.qemu.machine or board.qemu.limit:
            notes.append(f"{board.name} was not measured: {board.qemu.limit or 'QEMU has no such machine'}")
            continue
        try:
            seconds, firmware = first_boot(site, board)
        except Error as error:  # the figures of the other boards are still useful
            log.error(error)
            notes.append(f"{board.name} was NOT measured: {error.message.splitlines()[0]}")
            continue
        title = f"power-on to boot complete, {board.name} ({board.qemu.machine.partition(',')[0]})"
        figures += [Figure(f"complete_{board.name}", title, seconds, "s")]
        figures += [Figure(f"firmware_{board.name}", "  firmware", firmware, "s")]
    return Measured(figures, MEANING, notes=notes)


def first_boot(site: BenchSite, board: Board) -> tuple[float, float]:
    """Return the seconds from power-on to boot-complete.target, and those of the firmware alone. Raises `Error`."""
    with boot_image(site, site.image(PROFILE, board.name), None, board=board) as machine:
        machine.wait_complete()
        if machine.watch.handed_over is None:
            raise Error(f"the console of {board.name} does not show the end of its firmware")
        return machine.complete(), machine.watch.handed_over - machine.power_on()
