"""`edge-osbuild run`: boot an image in QEMU."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.options import as_object, parse_size_option
from osbuild.config import board as boards
from osbuild.host import log
from osbuild.qemu import acceleration, bootable, terminal
from osbuild.qemu.config import MOST_CPUS, Forward, MachineConfig, MachineNetwork
from osbuild.qemu.disk import image_format
from osbuild.qemu.emulator import HOST_EMULATOR, find_emulator
from osbuild.qemu.machine import Machine
from osbuild.shared.errors import Error, UsageError

MEMORY = 3 * 2**30


def check_own_files(inputs: list[Path], outputs: dict[str, Path | None]) -> None:
    """Raise `UsageError` if an output is also an input of the machine, or is named by two options."""
    uses_by_path = {path.resolve(): "what is booted" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        for used_path, use in uses_by_path.items():
            if used_path == path.resolve() or (path.exists() and used_path.exists() and path.samefile(used_path)):
                message = f"{option} would overwrite this file, which is {use}"
                raise UsageError(message, where=str(path), hint="name another file")
        uses_by_path[path.resolve()] = f"named by {option} too"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The arguments and options of `edge-osbuild run`."""

    image: Path
    arguments: tuple[str, ...]
    seed: Path | None
    memory: int | None
    cpus: int | None
    disk_size: int | None
    ssh_port: int | None
    persist: Path | None
    accel: str
    board: str | None
    no_network: bool
    logfile: Path | None
    host_qemu: bool


@click.command()
@click.argument("image", type=LOCATION)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- QEMU ARGUMENTS]")
@click.option("--seed", type=LOCATION, help="Seed of the node, an ISO image.")
@click.option(
    "--memory", type=parse_size_option, metavar="SIZE", help="Memory of the machine.  [default: 3G, or the board's]"
)
@click.option("--cpus", type=click.IntRange(1, MOST_CPUS),
              help="Number of processors.  [default: $EDGE_OSBUILD_CPUS, 2, or the board's]")  # fmt: skip
@click.option("--disk-size", type=parse_size_option, metavar="SIZE", help="Size of the disk, if larger than the image.")
@click.option("--ssh-port", type=click.IntRange(1, 65535), help="Port on 127.0.0.1 for SSH.  [default: a free port]")
@click.option(
    "--persist",
    type=LOCATION,
    metavar="FILE",
    help="Keep the machine's writes in this qcow2 file, for the next run.",
)
@click.option("--accel", type=click.Choice(acceleration.CHOICES), default="auto", show_default=True,
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
    source = bootable.find_bootable(
        options.image, seed=options.seed, board=boards.load_board(options.board) if options.board else None
    )
    hardware = source.board.qemu
    if not hardware.machine:
        raise Error(
            "QEMU has no machine for this board", where=f"board {source.board.name}",
            hint="boot it on the hardware: edge-osbuild flash",
        )  # fmt: skip
    check_own_files(
        [source.image, *([source.seed] if source.seed else [])],
        {"--persist": options.persist, "--log": options.logfile},
    )
    image_format(source.image)  # reports a wrong name before any work is done
    network = None if options.no_network else MachineNetwork(forwards=(Forward(22, options.ssh_port or 0),))
    config = MachineConfig(
        board=source.board,
        image=source.image,
        memory=options.memory or hardware.memory or MEMORY,
        cpus=options.cpus,
        persist=options.persist,
        disk_size=options.disk_size,
        media=(source.seed,) if source.seed else (),
        network=network,
        extra=options.arguments,
    )
    qemu = HOST_EMULATOR if options.host_qemu else find_emulator(source.board.architecture)
    accelerator = acceleration.choose_accelerator(source.board, options.accel, wrap=qemu.wrap, root=qemu.root)
    machine = Machine(config, log=options.logfile, emulator=qemu, accelerator=accelerator)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with machine:
        log.note(f"{source.image}: board {source.board.name}, {accelerator.name}, seed: {source.seed or 'none'}")
        if network:
            log.note(f"ssh -p {machine.port(22)} -o StrictHostKeyChecking=no USER@127.0.0.1")
        if interactive:
            log.note("Ctrl-A X quits, Ctrl-A H for help")
        (terminal.run_terminal if interactive else terminal.stream_console)(machine, terminal.Screen())
        if not machine.running:
            machine.wait_off(1)  # raises if QEMU did not end well
