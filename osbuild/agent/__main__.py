"""`edge-agent`: the command line of the device. One module per command, imported when it is called."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from osbuild.agent import proxy
from osbuild.agent.errors import Problem
from osbuild.agent.system import System
from osbuild.shared.interrupts import raise_on_interrupt

# command -> (module below this package, one line of help). A module has `arguments(parser)` and `main(options) -> int`.
COMMANDS = {
    "status": (
        "commands.status",
        "show slot, versions, boot counter and health of this node, and why this slot is running",
    ),
    "health": ("health", "run the health checks"),
    "reach": ("commands.server_check", "check whether the update server can be reached"),
    "bless": ("commands.bless", "mark the running slot as good (runs at the end of a healthy boot)"),
    "backend": ("commands.backend", "read and change the boot state for RAUC (called by RAUC)"),
    "seed": ("commands.seed", "show or replace the seed of this node"),
    "network": ("commands.network", "configure the network from the seed (runs at boot)"),
    "update": ("commands.update", "install updates, and show their results"),
    "rollback": ("commands.rollback", "return to the other slot"),
    "fleet": ("commands.fleet", "follow an update server (runs as services)"),
    "explain": ("commands.explain", "show on one page why this slot is running, with the results of updates and boots"),
    "kubernetes": ("commands.kubernetes", "prepare, join and check Kubernetes (runs at boot)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The exit status is 0 for success, 1 for failure and 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="Manages this node. For details: `edge-agent COMMAND --help`."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    command_name = next((argument for argument in command_line if argument in COMMANDS), None)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name == command_name:  # imports take most of the time, so only this module is imported
            command_module = importlib.import_module(f"osbuild.agent.{module}")
            command_module.arguments(command)
            command.set_defaults(main=command_module.main)
    options = parser.parse_args(command_line)
    proxy.use_node_proxy(System())
    try:
        raise_on_interrupt()
        return int(options.main(options))
    except Problem as problem:
        print(*problem.lines(), sep="\n", file=sys.stderr)
        return 1
    except OSError as error:
        description = f"{error.filename}: {error.strerror or error}" if error.filename else str(error)
        print(f"edge-agent: {description}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
