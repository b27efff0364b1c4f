"""The command line: one module per command, loaded when it is called."""

import errno
import importlib
import io
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from osbuild.host import log
from osbuild.host.signals import end_on_signals
from osbuild.shared.errors import Error
from osbuild.shared.interrupts import raise_on_interrupt

# command -> one line of help. The module of the same name in this package has a click command named `command`.
COMMANDS = {
    "build": "build an image from a profile",
    "new": "write a commented profile to start from",
    "profile": "show and check profiles; print their JSON Schema",
    "lock": "pin every input of a profile by SHA-256",
    "seed": "make the seed of one node: its configuration",
    "run": "boot an image in QEMU",
    "flash": "write an image to cards, disks or files, and verify it",
    "devices": "list disks and cards, and the reason if one is refused",
    "keys": "create, rotate, revoke and show signing keys",
    "bundle": "make a signed update bundle from a build",
    "serve": "serve updates to devices, and watch them",
    "publish": "upload a bundle to an update server",
    "fleet": "show and update the devices of an update server",
    "inspect": "show the contents of an image, or what an update changes",
    "doctor": "show missing programs, and the command to install them",
    "completion": "print the shell's completion script",
}


class Commands(click.Group):
    """Imports a command's module only when the command is used, so that `--help` and completion are fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"osbuild.cli.{cmd_name}").command
        raise_on_interrupt()  # from now on, a command undoes what it has begun
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def show_version(ctx: click.Context, param: click.Parameter, enabled: bool) -> None:
    """Print version and commit, and exit."""
    if not enabled or ctx.resilient_parsing:
        return
    from osbuild.host.version import read_version

    click.echo(f"edge-osbuild {read_version()}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("-v", "--verbose", is_flag=True, help="Show every command that is run.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version,
              help="Show version and git commit, and exit.")  # fmt: skip
def cli(debug: bool, verbose: bool) -> None:  # `debug` is read by main()
    """Build, boot and update immutable edge OS images with Kubernetes inside."""
    log.verbose = verbose
    try:
        Path.cwd()
    except FileNotFoundError as error:
        hint = "change to another one, such as with `cd`"
        raise Error("the current folder was removed", where=os.environ.get("PWD"), hint=hint) from error


def main(args: list[str] | None = None) -> Any:
    """Entry point of the console script: 0 on success, 1 on failure, 2 on wrong usage, 128 + number on a signal."""
    arguments = sys.argv[1:] if args is None else args
    open_standard_streams()
    end_on_signals()
    os.umask(os.umask(0o077) & 0o077)  # the owner can always use what a command creates
    if "--debug" not in arguments and not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries, such as about an old kind of key, are for developers
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may not be UTF-8
    try:
        status = cli.main(args=arguments, prog_name="edge-osbuild", standalone_mode=False)
        flush_output()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        log.console.print("[red]interrupted[/]")
        sys.exit(130)
    except Error as error:
        if "--debug" in arguments:
            raise
        log.error(error)
        sys.exit(error.status)
    except OSError as error:
        if "--debug" in arguments:
            raise
        name = error.filename
        hint = "check the path, its mode and its disk; `edge-osbuild --debug …` shows the failed step"
        where = os.fsdecode(name) if name else None
        if where is None and error.errno == errno.ENOSPC and not sys.stdout.isatty():
            where, hint = "standard output", "make room, or send the output elsewhere"
        log.error(Error(error.strerror or str(error), where=where, hint=hint))
        sys.exit(1)
    except Exception as error:  # a defect of this program: still one line, unless --debug is given
        if "--debug" in arguments:
            raise
        hint = "this should not happen: run it again as `edge-osbuild --debug …` and report what it prints"
        log.error(Error(f"{type(error).__name__}: {error}", hint=hint))
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)  # what click's `ctx.exit()` was given


def open_standard_streams() -> None:
    """Open /dev/null for each of standard input, output and error that is closed."""
    # Otherwise the next file that is opened, such as a disk to flash, gets its number, and programs write messages to
    # it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or os.fdopen(number, mode)
        for number, (stream, mode) in enumerate(((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")))
    )


def flush_output() -> None:
    """Flush standard output. Raises `Error` if that fails, such as on a full disk."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise the interpreter tries again when it exits
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe
            sys.exit(128 + signal.SIGPIPE)
        hint = "make room, or send the output elsewhere"
        raise Error(str(error.strerror), where="standard output", hint=hint) from error
