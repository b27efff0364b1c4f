"""The exit status of the programs in this folder, `python -m bench` and `python -m conformance`."""

import sys
from typing import NoReturn

import click

from osbuild.host import log
from osbuild.host.signals import end_on_signals
from osbuild.shared.errors import Error


def run_command(command: click.Command, name: str) -> NoReturn:
    """Run a command with the arguments of this process, and exit with its status, or with 0 if it returns none.

    The status is 2 after wrong usage, 130 after Ctrl-C, and after an `Error`, which is shown, that of the error.
    """
    end_on_signals()
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Error as error:
        log.error(error)
        sys.exit(error.status)
    sys.exit(status or 0)
