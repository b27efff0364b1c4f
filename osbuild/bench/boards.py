"""From power-on to a boot that is complete, on every board that QEMU has."""

from osbuild.bench.figure import Figure, Measured
from osbuild.bench.guest import booted
from osbuild.bench.site import Site
from osbuild.board import load, shipped
from osbuild.errors import Error

PROFILE = "minimal"
MEANING = (
    f"The first boot of {PROFILE} under TCG, with what memory and processors QEMU's machine has or 2 GiB and 2, each "
    "alone: power-on is QEMU's event RESUME, the end boot-complete.target by the guest's monotonic clock. The firmware "
    "is over when it starts the boot loader (UEFI) or the kernel (U-Boot)."
)


def measure(site: Site) -> Measured:
    """Build and boot the image for each board in turn; what one board can't do is said at the end."""
    figures: list[Figure] = []
    notes: list[str] = []
    for board in map(load, shipped()):
        if not board.qemu.machine or board.qemu.limit:
            notes.append(f"{board.name} was not measured: {board.qemu.limit or 'QEMU has no such machine'}")
            continue
        profile = site.image(PROFILE, board.name)
        with booted(site, profile, None, board=board) as machine:
            machine.wait_complete()
            seconds, start, handed = machine.complete(), machine.power_on(), machine.watch.handed_over
        title = f"power-on to boot complete, {board.name} ({board.qemu.machine.partition(',')[0]})"
        figures.append(Figure(f"complete_{board.name}", title, seconds, "s"))
        if handed is None:
            raise Error(f"the console of {board.name} has not told when its firmware was done")
        figures.append(Figure(f"firmware_{board.name}", "  firmware", handed - start, "s"))
    return Measured(figures, MEANING, notes=notes)
