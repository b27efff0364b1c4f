"""`edge-osbuild run`: boot an image in QEMU."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.options import as_object
from osbuild.config import board as boards
from osbuild.host import log
from osbuild.qemu import acceleration, bootable, terminal
from osbuild.qemu.config import Forward, MachineConfig, MachineNetwork
from osbuild.qemu.disk import image_format
from osbuild.qemu.emulator import Emulator, find_emulator
from osbuild.qemu.machine import Machine
from osbuild.shared.errors import Error, UsageError

MEMORY = 3 * 2**30


def parse_memory_size(text: str) -> int:
    """Bytes in `2G`, `512M` or `1.5 GiB`; a number alone is in MiB. Raises `click.BadParameter` on anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    amount = int(float(match[1]) * (2**30 if match[2].upper() == "G" else 2**20)) if match else 0
    if amount <= 0:
        raise click.BadParameter(f"{text!r} is not a size such as 512M or 2G")
    return amount


def check_own_files(inputs: list[Path], written: dict[str, Path | None]) -> None:
    """Raises `UsageError` if an option names a file to write that is booted from, or that another option names."""
    taken = {path.resolve(): "what is booted" for path in inputs}
    for option, path in written.items():
        if path is None:
            continue
        for other, use in taken.items():
            if other == path.resolve() or (path.exists() and other.exists() and path.samefile(other)):
                message = f"{option} would overwrite this file, which is {use}"
                raise UsageError(message, where=str(path), hint="name another file")
        taken[path.resolve()] = f"named by {option} too"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `edge-osbuild run` is given."""

    image: Path
    arguments: tuple[str, ...]
    seed: Path | None
    memory: int | None
    cpus: int | None
    disk_size: int | None
    ssh_port: int | None
    persist: Path | None
    wanted: str
    board: str | None
    no_network: bool
    logfile: Path | None
    host_qemu: bool


@click.command()
@click.argument("image", type=LOCATION)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- QEMU ARGUMENTS]")
@click.option("--seed", type=LOCATION, help="Seed of the node, an ISO image.")
@click.option(
    "--memory", type=parse_memory_size, metavar="SIZE", help="Memory of the machine.  [default: 3G, or the board's]"
)
@click.option("--cpus", type=click.IntRange(1, 64), help="Number of processors.  [default: 2, or the board's]")
@click.option("--disk-size", type=parse_memory_size, metavar="SIZE", help="Size of the disk, if larger than the image.")
@click.option("--ssh-port", type=click.IntRange(1, 65535), help="Port on 127.0.0.1 for SSH.  [default: a free port]")
@click.option(
    "--persist",
    type=LOCATION,
    metavar="FILE",
    help="Keep the machine's writes in this qcow2 file, for the next run.",
)
@click.option("--accel", "wanted", type=click.Choice(acceleration.CHOICES), default="auto", show_default=True,
              help="Virtualization by KVM, or translation by QEMU (TCG).")  # fmt: skip
@click.option("--board", metavar="NAME", help="Board of the image, if it has no build manifest.")
@click.option("--no-network", is_flag=True, help="Boot without a network card.")
@click.option("--log", "logfile", type=LOCATION, metavar="FILE", help="Write the console's log to this file.")
@click.option("--host-qemu", is_flag=True, help="Use the QEMU of this host instead of the tools tree's.")
@as_object(RunOptions)
def command(options: RunOptions) -> None:
    """Boot IMAGE, a disk image or a build folder, and connect its serial console to this terminal.

    The image is never changed. Ctrl-A X quits, Ctrl-A H lists the other keys. Without a terminal the console is only
    shown.
    """
    if options.no_network and options.ssh_port:
        raise UsageError("--ssh-port needs a network", hint="leave out --no-network")
    found = bootable.find_bootable(
        options.image, seed=options.seed, board=boards.load_board(options.board) if options.board else None
    )
    hardware = found.board.qemu
    if not hardware.machine:
        raise Error(
            "QEMU has no machine for this board", where=f"board {found.board.name}",
            hint="boot it on the hardware: edge-osbuild flash",
        )  # fmt: skip
    check_own_files(
        [found.image, *([found.seed] if found.seed else [])], {"--persist": options.persist, "--log": options.logfile}
    )
    image_format(found.image)  # so that a wrong name is known before any work is done
    network = None if options.no_network else MachineNetwork(forwards=(Forward(22, options.ssh_port or 0),))
    config = MachineConfig(
        board=found.board,
        image=found.image,
        memory=options.memory or hardware.memory or MEMORY,
        cpus=options.cpus,
        persist=options.persist,
        disk_size=options.disk_size,
        media=(found.seed,) if found.seed else (),
        network=network,
        extra=options.arguments,
    )
    qemu = Emulator() if options.host_qemu else find_emulator(found.board.architecture)
    accelerator = acceleration.choose_accelerator(found.board, options.wanted, wrap=qemu.wrap, root=qemu.root)
    machine = Machine(config, log=options.logfile, wrap=qemu.wrap, root=qemu.root, accelerator=accelerator)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with machine:
        log.note(f"{found.image}: board {found.board.name}, {accelerator.name}, seed: {found.seed or 'none'}")
        if network:
            log.note(f"ssh -p {machine.port(22)} -o StrictHostKeyChecking=no USER@127.0.0.1")
        if interactive:
            log.note("Ctrl-A X quits, Ctrl-A H for help")
        (terminal.run_terminal if interactive else terminal.stream_console)(machine, terminal.Screen())
        if not machine.running:
            machine.wait_off(1)  # raises if QEMU did not end well
