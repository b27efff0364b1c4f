"""What RAUC asks of the boot loader: which slot comes next, which slots can be booted, and to change that.

RAUC's manual, "Custom Bootloader Backend Interface". RAUC's boot names are the names of the slots.
"""

import argparse
import errno
import re
import sys

from osbuild.agent.boot.loader import boot_loader
from osbuild.agent.system import System

CALLS = ("get-primary", "set-primary", "get-state", "set-state", "get-current")


def answer_call(system: System, call: str, arguments: list[str]) -> list[str]:
    """Carry out a call; lines to be printed. Raises `ValueError` for one that makes no sense, `OSError` if it fails."""
    loader = boot_loader(system)
    match call, *arguments:
        case ["get-current"]:
            return [require_slot(system.argument("edge.slot"))]
        case ["get-primary"]:
            return [require_slot(loader.next_slot(system))]
        case ["get-state", slot]:
            usable = {entry.slot for entry in loader.read_entries(system) if entry.state != "bad"}
            return ["good" if slot in usable else "bad"]
        case ["set-primary", slot]:
            loader.switch_to(system, parse_slot(slot))
        case ["set-state", slot, "good"]:
            loader.bless(system, parse_slot(slot))
        case ["set-state", slot, "bad"]:
            loader.reject(system, parse_slot(slot))
        case _:
            raise ValueError(f"no such call of the boot loader: {' '.join([call, *arguments])}")
    return []


def parse_slot(slot: str) -> str:
    """A slot's name. Raises `ValueError` for anything else."""
    if not re.fullmatch("[a-z]", slot):
        raise ValueError(f"{slot} is no slot")
    return slot


def require_slot(slot: str | None) -> str:
    """The slot that was found. Raises `OSError` where none was."""
    if slot is None:
        raise OSError(errno.ENOENT, "no slot is known")
    return slot


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("call", choices=CALLS, help="what to read or change")
    parser.add_argument("words", nargs="*", metavar="WORD", help="a slot, and its new state")


def main(options: argparse.Namespace) -> int:
    try:
        for line in answer_call(System(), options.call, options.words):
            print(line)
    except ValueError as problem:
        print(f"edge-agent: {problem}", file=sys.stderr)
        return 2
    return 0
